//! The outside systems, one folder a kind, all behind [`Endpoint`].
//!
//! An endpoint knows its protocol and nothing else: filters, mapping, retries, dead letters and counters are [`crate::route`]'s.

pub mod amqp;
pub mod http;
pub mod kafka;
mod link;
pub mod mqtt;
pub mod nats;
mod standing;

use std::sync::Arc;

use eventmesh_wire::config::{BridgeConfig, EndpointConfig};
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::event::Sink;
use crate::mesh::Mesh;
use crate::route::inbound::Inbound;
use crate::route::outbound::OutboundTargets;

pub use standing::{LinkState, Standing};

/// A running link to one outside system, with all routes of the bridge.
pub trait Endpoint: Send + Sync {
    /// How it stands, and every change of that. Outbound routes read from the mesh only while it is connected.
    fn state(&self) -> watch::Receiver<LinkState>;

    /// Replaces the inbound routes of a running link. What it no longer reads it also takes back at the other side, as far as
    /// the protocol has a way to.
    fn set_routes(&self, inbound: Vec<Arc<Inbound>>);

    /// Whether [`Endpoint::adopt`] can take up these settings while the link stands; otherwise it is made anew.
    fn can_adopt(&self, _next: &EndpointConfig) -> bool {
        false
    }

    /// Takes up other settings of the same endpoint: credentials, certificates, limits. Nothing on its way is disturbed.
    ///
    /// # Errors
    /// What `validate` would have found, and certificates that can not be used; then nothing changes.
    fn adopt(&self, _next: &EndpointConfig) -> anyhow::Result<()> {
        Ok(())
    }

    /// The entrance for outbound routes.
    fn sink(&self) -> Arc<dyn Sink>;

    /// Takes nothing more in; what is on its way is still settled and acknowledged.
    fn drain(&self);

    /// Disconnects, and waits until that is done. What is still held goes back to its source.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What an endpoint is made from.
pub struct Setup {
    pub config: BridgeConfig,
    pub mesh: Mesh,
    pub inbound: Vec<Arc<Inbound>>,
    /// What becomes of events that the endpoint does not take.
    pub targets: Arc<OutboundTargets>,
}

/// Starts the endpoint of a configuration; it connects, and connects again, by itself.
///
/// # Errors
/// What `validate` would have found, and certificates that can not be read.
pub fn start(setup: Setup) -> anyhow::Result<Box<dyn Endpoint>> {
    match &setup.config.endpoint {
        EndpointConfig::Amqp(amqp) => Ok(Box::new(amqp::Link::start(amqp.clone(), setup)?)),
        EndpointConfig::Http(http) => http::start(&http.clone(), setup),
        EndpointConfig::Nats(nats) => Ok(Box::new(nats::Link::start(nats.clone(), setup))),
        EndpointConfig::Kafka(kafka) => Ok(Box::new(kafka::Link::start(kafka.clone(), setup))),
        EndpointConfig::Mqtt(mqtt) => Ok(Box::new(mqtt::Link::start(mqtt.clone(), setup)?)),
        EndpointConfig::Link(_) => Ok(Box::new(link::Far::start())),
    }
}
