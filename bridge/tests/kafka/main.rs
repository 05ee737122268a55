//! A bridge beside a real Kafka: events cross both ways, and none is lost whatever is killed, cut off or refused.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion")]

#[path = "../common/mod.rs"]
mod common;

mod delivery;
mod faults;
mod mapping;
mod security;
mod world;
