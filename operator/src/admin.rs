//! Health and metrics over HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the endpoints show.
pub struct Admin {
    pub metrics: Arc<Metrics>,
    /// True once the Kubernetes API has been reached. A replica that waits for the Lease is ready as well.
    pub ready: AtomicBool,
    /// True while the webhook can answer: it has a certificate, and its caches are filled.
    pub webhook: AtomicBool,
}

/// Serves until the shutdown.
pub async fn serve(address: SocketAddr, admin: Arc<Admin>, shutdown: CancellationToken) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    if !admin.ready.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "the Kubernetes API has not been reached yet")
    } else if !admin.webhook.load(Ordering::Relaxed) {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the webhook cannot answer: no certificate yet, caches not filled, or shutdown",
        )
    } else {
        (StatusCode::OK, "ok")
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], admin.metrics.render())
}
