//! A bridge to another NATS system: real servers on both sides, and each fault of docs/bridges/nats.md.

mod delivery;
mod faults;
mod pods;
mod sign_in;
mod world;
