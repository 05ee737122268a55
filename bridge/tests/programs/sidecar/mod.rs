//! A sidecar between unmodified clients and a real mesh, with TLS and accounts.

mod faults;
mod http;
mod life;
mod nats;
mod push;
mod world;
