//! One request and its answer, as a client: what a target and the push to an application have in common.
//!
//! hyper with its pool: HTTP/1.1, no redirects, no cookies, no proxies. docs/adr/0042 tells why not more.

use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::{answer, retry_after};
use crate::tls;

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub message: String,
    /// Trying again does not help by itself.
    pub refused: bool,
    /// No part of a request has left.
    pub before_the_request: bool,
}

/// Makes connections without TLS.
pub fn tcp(connect_timeout: Duration) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp
}

/// A client that keeps so many connections that are idle, for so long: shorter than the other side, or else a request meets a
/// connection that is being closed.
pub fn client<C: Connect + Clone>(connector: C, most_idle: usize, idle: Duration) -> Client<C, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(idle)
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(most_idle)
        .build(connector)
}

/// Sends a request and waits for the head of its answer; `name` is how problems call the other side.
///
/// # Errors
/// Why there is no answer.
pub async fn exchange<C: Connect + Clone + Send + Sync + 'static>(
    client: &Client<C, Full<Bytes>>,
    request: Request<Full<Bytes>>,
    limit: Duration,
    name: &str,
) -> Result<Response<Incoming>, Trouble> {
    match timeout(limit, client.request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            let inner = error.source().and_then(|inner| inner.downcast_ref::<hyper::Error>());
            // A connection that had ended before the request was written to it.
            let never_written = inner.is_some_and(hyper::Error::is_canceled);
            Err(trouble(name, &error, error.is_connect() || never_written))
        }
        Err(_) => Err(Trouble {
            message: format!("{name} gave no answer in {} ms", limit.as_millis()),
            refused: false,
            before_the_request: false,
        }),
    }
}

/// What an error means.
pub fn trouble(name: &str, error: &(dyn Error + 'static), before_the_request: bool) -> Trouble {
    let what = if before_the_request { "can not connect to" } else { "no whole answer from" };
    // A server judges a client's certificate when the handshake is over for the client, so with the first request.
    let tls = tls::problem(error);
    let refused = matches!(tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)));
    let why = tls.map_or_else(|| root(error).to_string(), ToString::to_string);
    Trouble { message: format!("{what} {name}: {why}"), refused, before_the_request: before_the_request || refused }
}

/// The innermost error, which says what happened; the outer ones say where.
fn root<'e>(mut error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// When the other side wants to hear again, if it says so.
pub fn wait_asked_for<B>(response: &Response<B>) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    retry_after::parse(text, SystemTime::now())
}

/// Whether the other side asks for fewer requests, or for none for a while.
pub fn asks_for_rest(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// An answer that takes no event, in words, with the beginning of what the other side says about it.
pub async fn complaint(name: &str, response: Response<Incoming>) -> String {
    let status = response.status();
    let redirect = if status.is_redirection() { ", and redirects are not followed" } else { "" };
    let excerpt = answer::excerpt(response.into_body()).await;
    let excerpt = if excerpt.is_empty() { String::new() } else { format!(": {excerpt}") };
    format!("{name} answered {status}{redirect}{excerpt}")
}
