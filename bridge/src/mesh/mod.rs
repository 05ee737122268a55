//! The mesh side of a bridge: one connection, publishing into streams, consuming from durable consumers.

pub mod connection;
pub mod consume;
mod held;
pub mod publish;

pub use connection::{Mesh, MeshError};
