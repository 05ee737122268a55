//! The configuration file: read, judged as a whole, and watched for a next one.

use std::path::{Path, PathBuf};

use eventmesh_wire::config::BridgeConfig;
use eventmesh_wire::config_hash;

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: BridgeConfig,
    pub hash: String,
}

/// Reads and judges the file.
///
/// # Errors
/// Everything that is wrong with it, in one text.
pub fn load(path: &Path) -> Result<Loaded, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("can not read {}: {error}", path.display()))?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Loaded, String> {
    let config: BridgeConfig =
        serde_json::from_slice(bytes).map_err(|error| format!("the configuration can not be read: {error}"))?;
    let problems: Vec<String> = config.validate().iter().map(ToString::to_string).collect();
    if problems.is_empty() { Ok(Loaded { config, hash: config_hash(bytes) }) } else { Err(problems.join("; ")) }
}

/// Finds changes by looking: a mounted Secret is replaced by swapping a symbolic link, which file watches miss easily.
pub struct Watch {
    path: PathBuf,
    last: Vec<u8>,
}

impl Watch {
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: std::fs::read(path).unwrap_or_default() }
    }

    /// The judgement of the file when it is not what it was at the last look.
    pub fn look(&mut self) -> Option<Result<Loaded, String>> {
        // A small local file: reading it here costs less than the thread and its heap that asynchronous reading brings. In
        // the middle of a swap there may be no file for a moment.
        let bytes = std::fs::read(&self.path).ok()?;
        if bytes == self.last {
            return None;
        }
        let judgement = parse(&bytes);
        self.last = bytes;
        Some(judgement)
    }
}
