//! The outside systems, one folder a kind.

pub mod mqtt;
