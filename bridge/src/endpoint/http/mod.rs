//! HTTP: a listener that takes events in, or a target that events are sent to.

pub(crate) mod answer;
pub mod auth;
mod client;
pub mod events;
pub(crate) mod exchange;
mod listener;
pub mod outgoing;
pub mod path;
pub mod problem;
mod rate;
pub mod request;
pub mod retry_after;
pub mod signature;
mod target;

use eventmesh_wire::config::http::HttpEndpoint;

use super::{Endpoint, Setup};

/// # Errors
/// What `validate` would have found, and certificates that can not be used.
pub fn start(http: &HttpEndpoint, setup: Setup) -> anyhow::Result<Box<dyn Endpoint>> {
    Ok(match http {
        HttpEndpoint::Listen(config) => Box::new(listener::Listener::start(config, setup)?),
        HttpEndpoint::Target(config) => Box::new(target::Sender::start(config, setup)?),
    })
}
