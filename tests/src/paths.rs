//! Where things are in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A program that `tests/tools/build` has put into `.build/bin`.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = repository().join(".build/bin").join(name);
    ensure!(path.exists(), "{} is not there: run `tests/tools/build api`", path.display());
    Ok(path)
}

/// The release binary of a program of this workspace, as `make images` builds it. `PROGRAMS_UNDER_TEST` names another
/// folder to take it from, as `target/debug` while one works on it.
pub fn release(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PROGRAMS_UNDER_TEST") {
        return Ok(repository().join(folder).join(name));
    }
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let path = repository().join("target").join(target).join("release").join(name);
    ensure!(path.exists(), "{} is not there: run `make images`", path.display());
    Ok(path)
}

/// A new folder below `.build/tests` for the files of one test. It is removed by a later run, when the process that
/// made it is gone; until then its logs can be read.
pub fn scratch(name: &str) -> Result<PathBuf> {
    use std::sync::Once;
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static CLEAN: Once = Once::new();

    let root = repository().join(".build/tests");
    CLEAN.call_once(|| remove_leftovers(&root));
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = root.join(format!("{}-{count}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// What a program stores in a scratch folder, which nobody reads afterwards: it goes when this is dropped, and logs stay. A run
/// of all tests starts many, and etcd alone reserves 64 MB. Declared after the program, it goes after it.
#[derive(Debug)]
pub struct Stored {
    folder: PathBuf,
    prefix: &'static str,
}

impl Stored {
    /// The folders in `folder` whose names begin with `prefix`.
    #[must_use]
    pub fn new(folder: &Path, prefix: &'static str) -> Self {
        Self { folder: folder.to_owned(), prefix }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(self.prefix) && entry.path().is_dir() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Before this process makes its first: what has its number is of an earlier one.
fn remove_leftovers(root: &Path) {
    let own = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let alive = name
            .to_str()
            .and_then(|name| name.split('-').next())
            .is_some_and(|pid| pid != own && Path::new("/proc").join(pid).exists());
        if !alive {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
