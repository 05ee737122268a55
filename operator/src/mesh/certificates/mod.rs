//! The certificates of a mesh in Kubernetes: what its Secrets hold, and what they should hold next.
//!
//! Two Secrets: `<mesh>-ca` with the keys of the mesh's own authority, which no pod mounts, and `<mesh>-broker-tls` with
//! what brokers load and what clients trust.

pub mod files;
pub mod plan;

pub use files::{Files, Stored};
pub use plan::{Found, Plan, Seen};
