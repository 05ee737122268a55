//! A mosquitto on its own folder and port.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::certificates::{Authority, Identity};
use super::listens;
use crate::{
    child::{Child, Start, free_port},
    wait::eventually,
};

/// A running MQTT broker. Killing and starting it again keeps port and data.
pub struct Mosquitto {
    child: Child,
    folder: PathBuf,
    pub port: u16,
}

impl Mosquitto {
    /// `extra` is appended to its configuration; anonymous clients are allowed unless it says otherwise.
    pub async fn start(folder: PathBuf, extra: &str) -> Result<Self> {
        let port = free_port()?;
        let access = if extra.contains("allow_anonymous") { "" } else { "allow_anonymous true" };
        let config = format!(
            "listener {port} 127.0.0.1\n{access}\nmax_queued_messages 0\nuser root\nlog_type error\nlog_type warning\nlog_dest stderr\n{extra}\n"
        );
        std::fs::write(folder.join("mosquitto.conf"), config)?;
        let child = Self::spawn(&folder)?;
        let this = Self { child, folder, port };
        listens("mosquitto", port).await?;
        Ok(this)
    }

    /// Settings that put every change of a session on disk within a second or less.
    #[must_use]
    pub fn persistence(folder: &Path) -> String {
        let folder = folder.display();
        format!("persistence true\npersistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1")
    }

    /// Settings that ask for this password.
    pub fn password(folder: &Path, username: &str, password: &str) -> Result<String> {
        let file = folder.join("passwords");
        let status = std::process::Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(&file)
            .args([username, password])
            .status()?;
        ensure!(status.success(), "mosquitto_passwd failed");
        Ok(format!("allow_anonymous false\npassword_file {}", file.display()))
    }

    /// Settings for a second listener, with TLS. `clients`: only clients that this authority has signed.
    pub fn tls(folder: &Path, port: u16, identity: &Identity, clients: Option<&Authority>) -> Result<String> {
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            std::fs::write(&file, text)?;
            anyhow::Ok(file.display().to_string())
        };
        let (certificate, key) = (write("server.crt", &identity.certificate)?, write("server.key", &identity.key)?);
        let mut text = format!("listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n");
        if let Some(authority) = clients {
            let file = write("clients.crt", authority.pem())?;
            writeln!(text, "cafile {file}\nrequire_certificate true")?;
        }
        Ok(text)
    }

    /// How often a client connected with this id; with the setting `log_type notice`.
    #[must_use]
    pub fn connects(&self, client: &str) -> usize {
        let log = self.child.log_tail(usize::MAX);
        log.lines().filter(|line| line.contains(&format!(" as {client} ")) && line.contains("New client")).count()
    }

    fn spawn(folder: &Path) -> Result<Child> {
        Start::new(Path::new("/usr/sbin/mosquitto"), folder).arg("-c").arg(folder.join("mosquitto.conf")).spawn()
    }

    /// SIGTERM: it saves everything first.
    pub async fn stop(&self) -> Result<()> {
        self.child.terminate()?;
        eventually("end of mosquitto", Duration::from_mins(1), async || Ok(self.child.exited())).await.map(drop)
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// After [`Mosquitto::kill`]: the same port and data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = Self::spawn(&self.folder)?;
        listens("mosquitto", self.port).await
    }

    /// Waits until its file of sessions has not changed for two seconds: all that was acknowledged is in it.
    pub async fn saved(&self) -> Result<()> {
        let file = self.folder.join("mosquitto.db");
        eventually("a saved session", Duration::from_mins(1), async || {
            let changed =
                std::fs::metadata(&file).and_then(|data| data.modified()).map_err(|error| error.to_string())?;
            Ok(changed.elapsed().ok().filter(|age| *age > Duration::from_secs(2)).map(drop))
        })
        .await
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}
