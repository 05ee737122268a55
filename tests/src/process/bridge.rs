//! A bridge program with its configuration file and its admin port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use eventmesh_wire::report::{Report, RouteReport};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::WallClock;
use crate::{
    child::{Child, Start, free_port},
    wait::eventually,
};

/// A running bridge. Killing and starting it again keeps its configuration.
pub struct Bridge {
    pub child: Child,
    program: PathBuf,
    folder: PathBuf,
    admin: u16,
    environment: Vec<(String, String)>,
}

impl Bridge {
    pub fn start(program: &Path, folder: PathBuf, config: &Value) -> Result<Self> {
        Self::start_pod(program, folder, config, "test")
    }

    /// As [`Bridge::start`], one of several pods.
    pub fn start_pod(program: &Path, folder: PathBuf, config: &Value, pod: &str) -> Result<Self> {
        Self::start_with(program, folder, config, vec![("POD_NAME".to_owned(), pod.to_owned())])
    }

    /// As [`Bridge::start`], with a wall clock of its own. `program` must not be a static one.
    pub fn start_with_clock(program: &Path, folder: PathBuf, config: &Value, clock: &WallClock) -> Result<Self> {
        Self::start_with(program, folder, config, clock.environment())
    }

    fn start_with(program: &Path, folder: PathBuf, config: &Value, environment: Vec<(String, String)>) -> Result<Self> {
        let admin = free_port()?;
        std::fs::write(folder.join("bridge.json"), serde_json::to_vec_pretty(config)?)?;
        let child = Self::spawn(program, &folder, admin, &environment)?;
        Ok(Self { child, program: program.to_owned(), folder, admin, environment })
    }

    fn spawn(program: &Path, folder: &Path, admin: u16, environment: &[(String, String)]) -> Result<Child> {
        let start = Start::new(program, folder)
            .args(["run", "--config"])
            .arg(folder.join("bridge.json"))
            .arg("--admin-addr")
            .arg(format!("127.0.0.1:{admin}"));
        environment.iter().fold(start, |start, (name, value)| start.env(name, value)).spawn()
    }

    /// SIGKILL, and a new process with the same configuration.
    pub fn kill_and_start_again(&mut self) -> Result<()> {
        self.child.kill()?;
        self.start_again()
    }

    /// After it ended.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = Self::spawn(&self.program, &self.folder, self.admin, &self.environment)?;
        Ok(())
    }

    /// Replaces the configuration as Kubernetes does it: a new file takes the old one's place.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let next = self.folder.join("next.json");
        std::fs::write(&next, text)?;
        Ok(std::fs::rename(next, self.folder.join("bridge.json"))?)
    }

    /// An answer of the admin port: status and body.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", self.admin)).await?;
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP answer")?;
        Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }

    pub async fn report(&self) -> Result<Report> {
        Ok(serde_json::from_str(&self.get("/report").await?.1)?)
    }

    /// Waits until the report of a route is as wanted, and gives it.
    pub async fn route(&self, name: &str, what: &str, wanted: impl Fn(&RouteReport) -> bool) -> Result<RouteReport> {
        let found = eventually(what, Duration::from_secs(90), async || {
            let report = self.report().await.map_err(|error| error.to_string())?;
            let route = report.routes.into_iter().find(|route| route.name == name).ok_or("no such route")?;
            if wanted(&route) { Ok(Some(route)) } else { Err(format!("{route:?}")) }
        });
        found.await.with_context(|| self.child.log_tail(20))
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&self) -> Result<std::process::ExitStatus> {
        eventually("end of the bridge", Duration::from_mins(1), async || Ok(self.child.exited())).await
    }
}
