//! The trial of a bridge route: events with numbers go in at one side while the bridge is killed, the far side restarted and
//! the mesh connection cut; what came out at the other side is judged from its history.

pub mod amqp;
pub mod far;
pub mod history;
pub mod http;
pub mod kafka;
pub mod mqtt;
pub mod nats;
mod trial;

pub use eventmesh_crds::bridge::MqttVersion;
pub use far::{FarSide, Identity, Receive, Send};
pub use history::{Fault, History, Verdict};
pub use trial::{Plan, Row, run};
