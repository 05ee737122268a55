//! A sidecar between unmodified clients and a real mesh, with TLS and accounts.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion")]

mod faults;
mod http;
mod life;
mod nats;
mod push;
mod world;
