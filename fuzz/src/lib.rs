//! What must hold for every input, however strange: one module a parser of what comes from outside.
//!
//! A target takes bytes and panics when something does not hold. `make fuzz` lets libFuzzer look for such bytes; those that
//! were found once, and others worth keeping, are in `seeds/` and run with every `cargo test`.
//!
//! A parser that is new gets a module here, a line in [`TARGETS`], a program of one line in `fuzz_targets/`, an entry in
//! `Cargo.toml`, and a folder of seeds.

pub mod amounts;
pub mod claims;
pub mod config;
pub mod filter;
pub mod http;
mod input;
pub mod report;
pub mod subjects;

/// A target: from bytes to a panic, or to nothing.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 7] = [
    ("amounts", amounts::run),
    ("claims", claims::run),
    ("config", config::run),
    ("filter", filter::run),
    ("http", http::run),
    ("report", report::run),
    ("subjects", subjects::run),
];
