//! A bridge to another NATS system: real servers on both sides, and each fault of docs/bridges/nats.md.

#![expect(clippy::unwrap_used, reason = "an unwrap is an assertion")]

#[path = "../common/mod.rs"]
mod common;
mod delivery;
mod faults;
mod pods;
mod sign_in;
mod world;
