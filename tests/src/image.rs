//! Programs out of their images, without a node: the files are unpacked, and the program is started in them as the image says.

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::child::{Child, Start};
use crate::paths;

/// An unpacked image. Its user can write to `/data` and to nothing else.
pub struct Image {
    folder: PathBuf,
    user: String,
    env: BTreeMap<String, String>,
    entrypoint: Vec<String>,
}

impl Image {
    /// Of `.build/images/<name>.tar`, into a new folder.
    pub fn unpack(name: &str) -> Result<Self> {
        let archive = paths::repository().join(".build/images").join(format!("{name}.tar"));
        ensure!(archive.exists(), "{} is not there: run `make accounts-images`", archive.display());
        let folder = paths::scratch(name)?;
        let root = folder.join("root");
        std::fs::create_dir(&root)?;
        tar(&archive, &folder)?;
        let read = |file: &str| -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(folder.join(file))?)?) };
        let manifest = read("manifest.json")?;
        for layer in strings(&manifest[0]["Layers"]) {
            tar(&folder.join(layer), &root)?;
        }
        let config = read(manifest[0]["Config"].as_str().context("no configuration")?)?["config"].take();
        let pairs = strings(&config["Env"]).into_iter();
        let env =
            pairs.filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
        let (user, _) = config["User"].as_str().and_then(|both| both.split_once(':')).context("no user")?;
        std::fs::create_dir(root.join("data"))?;
        chown(root.join("data"), Some(user.parse()?), None)?;
        let (env, entrypoint) = (env.collect(), strings(&config["Entrypoint"]));
        Ok(Self { user: user.to_owned(), env, entrypoint, folder })
    }

    /// The lines of a file that its program has written to `/data`.
    pub fn lines(&self, file: &str) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.folder.join("root/data").join(file))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Starts its program; `env` is added to its environment.
    pub fn start(&self, env: &[(&str, &str)]) -> Result<Child> {
        let mut start = Start::new(Path::new("setpriv"), &self.folder)
            .args(["--reuid", &self.user, "--regid", &self.user, "--clear-groups", "--pdeathsig", "keep"])
            .args(["--inh-caps", "+sys_chroot", "--ambient-caps", "+sys_chroot", "--", "chroot"])
            .arg(self.folder.join("root"))
            .args(&self.entrypoint);
        let own = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(env.iter().copied()).filter(|(name, _)| *name != "PATH") {
            start = start.env(name, value);
        }
        start.spawn()
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn tar(archive: &Path, into: &Path) -> Result<()> {
    let status =
        Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(into).status()?;
    ensure!(status.success(), "cannot unpack {}", archive.display());
    Ok(())
}
