//! The programs of this package as they are, against real brokers, servers and applications: nothing is mocked.
//!
//! One test program for all of them: the servers that do not mind each other's guests are started once.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion")]

mod amqp;
mod amqp091;
mod amqp1;
mod clock;
mod common;
mod delivery;
mod expressions;
mod http;
mod identity;
mod kafka;
mod mesh_tls;
mod metrics;
mod nats;
mod ordering;
mod patience;
mod push;
mod sidecar;
mod standby;
mod tls;
mod trouble;
