//! Links between meshes: what crosses them, and the accounts that carry it (docs/adr/0047).

pub mod account;
#[cfg(test)]
mod brokers_tests;
pub mod copy;
pub mod credentials;
pub mod dial;
pub mod plan;
pub mod remote;
pub mod status;
