//! The port to the brokers: everything the operator knows of them and does to them goes through here.
//!
//! One [`MeshBroker`] a mesh holds the connections, a [`View`](view::View) of the streams and consumers that is kept
//! true by one paged listing, by advisories and by the operator's own calls, and tells the controllers what changed.

pub mod accounts;
mod advisories;
pub mod api;
mod clocks;
pub mod cluster;
mod connection;
pub mod consumers;
pub mod copies;
pub mod ends;
pub mod given_up;
pub mod health;
pub mod links;
pub mod overlay;
mod refresh;
pub mod registry;
pub mod reports;
pub mod stopped;
mod system;
pub mod version;
pub mod view;

pub use api::BrokerError;
pub use connection::{ConnectSpec, MeshBroker};
pub use registry::Brokers;

/// Names a mesh: namespace and name of the `EventMesh`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshKey {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for MeshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Something about a mesh's brokers changed; the wake rules decide which objects look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerEvent {
    pub mesh: MeshKey,
    pub change: BrokerChange,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChange {
    /// A connection was opened, as the first of its mesh or in place of an earlier one.
    Opened,
    /// The view became complete: for the first time, or again after the brokers were lost.
    Synced,
    /// The brokers have not answered for a while; what the view says may be old.
    Lost,
    /// A stream was created, edited or deleted by others, or its numbers moved.
    Stream(String),
    /// The operator itself created a stream: what waits for it can go on.
    StreamReady(String),
    /// A consumer was created, edited or deleted, or its numbers moved.
    Consumer { stream: String, consumer: String },
    /// A bridge pod reported a change of state, or its numbers moved.
    Report { namespace: String, bridge: String },
    /// The far side of a link told something of the copy in this stream, or has not been heard of for long.
    Copy(String),
    /// What the brokers report of themselves changed.
    Health,
    /// A broker has started: it may have missed something.
    Restarted,
}
