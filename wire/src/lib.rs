//! The contract between the control plane and the data plane.
//!
//! The operator renders a [`config`] file, a bridge pod reads it and sends back [`report`]s. Subject, address and name
//! rules that both sides must agree on live here, so that a refusal by the operator and a decision at run time can
//! never differ. Nothing in this crate does I/O.

pub mod address;
pub mod config;
pub mod copy;
mod credentials;
mod escape;
pub mod event;
pub mod expression;
pub mod key;
pub mod link_secret;
pub mod names;
mod pem;
pub mod report;
pub mod secret;
pub mod subject;
pub mod token;
pub mod validate;
pub mod volume;

use sha2::{Digest, Sha256};

/// The fingerprint of a configuration file: SHA-256 of its bytes, in lowercase hex. The operator computes it of what it
/// rendered and finds it again in the report of a pod that runs it.
#[must_use]
pub fn config_hash(file: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(file).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
