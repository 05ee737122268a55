//! The data plane of an event mesh: routes between the mesh and one outside system, at least once.
//!
//! A route is a source and a sink and the ledger between them. What is common to all endpoints (retry, backoff, flow
//! control, filter, dead letter, counters) is here once; what differs is in [`endpoint`].

pub mod admin;
pub mod app;
pub mod backoff;
pub mod books;
pub mod cloudevents;
pub mod config_file;
pub mod copy;
pub mod dead_letter;
pub mod endpoint;
pub mod event;
pub mod jetstream;
pub mod ledger;
pub mod mesh;
pub mod program;
pub mod reporter;
pub mod route;
pub mod running;
pub mod sidecar;
mod tls;
pub mod volume_check;
