//! The mesh side of a bridge: one connection, publishing into streams, consuming from durable consumers.

pub mod connection;
pub mod consume;
pub mod lease;
pub mod publish;
mod sign_in;
mod traffic;

pub use connection::{Mesh, MeshError};
pub use traffic::Pass;
