//! Push subscriptions: a real broker, a real application, and what both saw.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion")]

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod app;
mod faults;
mod life;
mod readiness;
mod world;
