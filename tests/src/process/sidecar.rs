//! A sidecar program with the folder of its binding and its ports.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    child::{Child, Start, free_port},
    http::{Answer, Sender},
    identity::Login,
    wait::eventually,
};

/// A running sidecar.
pub struct Sidecar {
    pub child: Child,
    folder: PathBuf,
    pub nats: u16,
    pub http: u16,
    admin: u16,
}

impl Sidecar {
    /// With an empty binding.
    pub fn start(program: &Path, folder: PathBuf) -> Result<Self> {
        let (nats, http, admin) = (free_port()?, free_port()?, free_port()?);
        std::fs::create_dir_all(folder.join("binding"))?;
        let child = Start::new(program, &folder)
            .args(["run", "--binding"])
            .arg(folder.join("binding"))
            .args(["--nats-addr", &format!("127.0.0.1:{nats}")])
            .args(["--http-addr", &format!("127.0.0.1:{http}")])
            .args(["--admin-addr", &format!("127.0.0.1:{admin}")])
            .spawn()?;
        Ok(Self { child, folder, nats, http, admin })
    }

    /// Gives it another binding as Kubernetes does it: a new folder takes the place of all files at once.
    pub fn bind(&self, uri: &str, login: &Login, sidecar: Option<&serde_json::Value>) -> Result<()> {
        let mut files = vec![("uri", uri.to_owned()), ("jwt", login.jwt.clone()), ("nkey", login.seed.clone())];
        files.extend(login.ca.clone().map(|ca| ("ca.crt", ca)));
        files.extend(sidecar.map(|sidecar| ("sidecar.json", sidecar.to_string())));
        self.write(&files)
    }

    /// As [`Sidecar::bind`], with any files.
    pub fn write(&self, files: &[(&str, String)]) -> Result<()> {
        let binding = self.folder.join("binding");
        let name = format!("..{}", free_port()?);
        std::fs::create_dir(binding.join(&name))?;
        for (file, text) in files {
            std::fs::write(binding.join(&name).join(file), text)?;
        }
        let next = binding.join("..next");
        std::os::unix::fs::symlink(&name, &next)?;
        Ok(std::fs::rename(next, binding.join("..data"))?)
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats)
    }

    /// The application's HTTP port.
    pub fn http(&self) -> Result<Sender> {
        Sender::new(&format!("http://127.0.0.1:{}", self.http), &[])
    }

    /// An answer of the admin port.
    pub async fn admin(&self, path: &str) -> Result<Answer> {
        Sender::new(&format!("http://127.0.0.1:{}", self.admin), &[])?.request("GET", path, &[], b"").await
    }

    /// Waits until it answers so to `/readyz`.
    pub async fn is(&self, status: u16, words: &str) -> Result<()> {
        let what = format!("{status} with `{words}`");
        let found = eventually(&what, Duration::from_mins(1), async || {
            let answer = self.admin("/readyz").await.map_err(|error| error.to_string())?;
            if answer.status == status && answer.body.contains(words) { Ok(Some(())) } else { Err(answer.body) }
        });
        found.await.with_context(|| self.child.log_tail(20))
    }

    /// A value of its metrics; 0 where there is none.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.admin("/metrics").await?.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), str::parse)?)
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&self) -> Result<std::process::ExitStatus> {
        eventually("end of the sidecar", Duration::from_mins(1), async || Ok(self.child.exited())).await
    }
}
