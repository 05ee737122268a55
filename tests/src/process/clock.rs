//! A wall clock that a test moves, for one program.

use std::path::{Path, PathBuf};

use anyhow::Result;

/// Debian's libfaketime; it stands between a program and the C library, so the program must not be a static one.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketime.so.1";

/// What a program takes for the time of day. Clocks that only count on, as for timers, are left alone: no machine moves those.
#[derive(Debug, Clone)]
pub struct WallClock {
    file: PathBuf,
}

impl WallClock {
    pub fn new(folder: &Path) -> Result<Self> {
        let this = Self { file: folder.join("clock") };
        this.jump(0)?;
        Ok(this)
    }

    /// Moves it so many seconds from the true time.
    pub fn jump(&self, seconds: i64) -> Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}"))?;
        Ok(std::fs::rename(next, &self.file)?)
    }

    /// What the program must find in its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", &self.file.to_string_lossy()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }
}
