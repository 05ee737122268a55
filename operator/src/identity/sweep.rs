//! Removes the credentials of meshes that are gone. They live in the namespaces of those who use them, where Kubernetes
//! does not delete them with the EventMesh; a finalizer would hang when the operator goes first.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use tracing::{info, warn};

use crate::engine::{Context, apply};

const INTERVAL: Duration = Duration::from_secs(30);

/// Runs until dropped.
pub async fn run(context: Arc<Context>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        for (mesh, namespace, name) in context.cache.credentials_without_mesh() {
            match apply::delete::<Secret>(&context.client, &namespace, &name).await {
                Ok(()) => info!(%mesh, namespace, name, "deleted credentials of a mesh that is gone"),
                Err(error) => warn!(%error, namespace, name, "could not delete credentials of a mesh that is gone"),
            }
        }
    }
}
