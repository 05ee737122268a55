//! The event mesh beside an application: its NATS broker and its HTTP API on the loopback, without credentials or TLS, and
//! the events of its push Subscriptions.
//!
//! Whom the application is to the mesh, and where the mesh is, is in a folder that the operator fills ([`binding`]). The
//! application needs no library and no configuration of ours; docs/sidecar.md is written for its developers.

pub mod app;
pub mod binding;
mod http;
mod nats;
mod numbers;
pub mod push;
mod pushes;
