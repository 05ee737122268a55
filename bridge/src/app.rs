//! The life of the process: start, reload, report, drain.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventmesh_wire::config::DesiredState;
use eventmesh_wire::names::report_subject;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config_file::{self, Loaded, Watch};
use crate::mesh::Mesh;
use crate::reporter::{Board, Reporter, Situation};
use crate::running::{Library, Running};
use crate::{admin, endpoint::mqtt::LinkState};

/// How often states are looked at; a change is reported within this time.
const LOOK: Duration = Duration::from_millis(250);
/// How often the configuration file is looked at.
const RELOAD: Duration = Duration::from_secs(1);

struct App {
    loaded: Loaded,
    /// Why the file on disk is not what runs.
    problem: Option<String>,
    mesh: Mesh,
    library: Library,
    running: Option<Running>,
    reporter: Reporter,
    board: Board,
    pod: String,
    reported: Option<Instant>,
}

/// Runs the bridge until `stop`.
///
/// # Errors
/// When the first configuration can not be used, or the admin port is taken.
pub async fn run(
    config: &Path,
    admin_address: Option<&str>,
    pod: String,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let loaded = config_file::load(config).map_err(|problem| anyhow::anyhow!(problem))?;
    let mut watch = Watch::new(config);
    let board = Board::default();
    if let Some(address) = admin_address {
        let listener = TcpListener::bind(address).await.with_context(|| format!("can not listen on {address}"))?;
        tokio::spawn(admin::serve(listener, board.clone()));
    }
    let mesh = connect(&loaded).await?;
    let library = Library::default();
    let running = Running::start(&loaded.config, &mesh, &library)?;
    let reporter = Reporter::new(pod.clone());
    let mut app = App { loaded, problem: None, mesh, library, running, reporter, board, pod, reported: None };
    let (mut look, mut reload) = (tokio::time::interval(LOOK), tokio::time::interval(RELOAD));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => app.report(false).await,
            _ = reload.tick() => if let Some(judgement) = watch.look() {
                app.reload(judgement).await;
            },
        }
    }
    tracing::info!("stopping: finishing what is on its way");
    if let Some(running) = app.running.take() {
        running.stop().await;
    }
    app.report(true).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), app.mesh.client.flush()).await;
    Ok(())
}

async fn connect(loaded: &Loaded) -> anyhow::Result<Mesh> {
    let bridge = &loaded.config.bridge;
    Mesh::connect(&loaded.config.mesh, &format!("bridge {}/{}", bridge.namespace, bridge.name)).await
}

impl App {
    async fn reload(&mut self, judgement: Result<Loaded, String>) {
        match judgement {
            Ok(next) => match self.change_to(next).await {
                Ok(()) => self.problem = None,
                Err(error) => self.refuse(format!("{error:#}")),
            },
            Err(problem) => self.refuse(problem),
        }
        self.report(true).await;
    }

    fn refuse(&mut self, problem: String) {
        tracing::error!(problem, "the new configuration can not be used; the last good one keeps running");
        self.problem = Some(problem);
    }

    async fn change_to(&mut self, next: Loaded) -> anyhow::Result<()> {
        tracing::info!(hash = next.hash, "the configuration changed");
        if let Some(running) = self.running.as_mut().filter(|running| running.can_become(&next.config)) {
            running.become_next(&next.config)?;
        } else {
            // What could fail is made before what runs is stopped.
            let mesh =
                if next.config.mesh == self.loaded.config.mesh { self.mesh.clone() } else { connect(&next).await? };
            if let Some(running) = self.running.take() {
                running.stop().await;
            }
            if next.config.mesh != self.loaded.config.mesh {
                self.mesh.abandon();
            }
            self.mesh = mesh;
            self.running = match Running::start(&next.config, &self.mesh, &self.library) {
                Ok(running) => running,
                Err(error) => {
                    self.running = Running::start(&self.loaded.config, &self.mesh, &self.library)?;
                    return Err(error);
                }
            };
        }
        self.loaded = next;
        Ok(())
    }

    /// Posts the situation, and publishes it when it is due, a state changed, or `now` is set.
    async fn report(&mut self, now: bool) {
        let config = &self.loaded.config;
        let situation = Situation {
            config,
            hash: &self.loaded.hash,
            problem: self.problem.as_deref(),
            paused: config.state == DesiredState::Paused,
            mesh_connected: self.mesh.is_connected(),
            mesh_error: self.mesh.last_error(),
            endpoint: self.running.as_ref().map_or_else(LinkState::default, Running::endpoint),
            books: self.library.all(),
        };
        let (report, changed) = self.reporter.report(&situation, Timestamp::now());
        let interval = Duration::from_secs(u64::from(config.report_interval_seconds));
        let due = self.reported.is_none_or(|last| last.elapsed() >= interval);
        if (now || changed || due) && self.mesh.is_connected() {
            let subject = report_subject(&config.bridge.namespace, &config.bridge.name, &self.pod);
            if let Ok(payload) = serde_json::to_vec(&report) {
                let sent =
                    tokio::time::timeout(Duration::from_millis(100), self.mesh.client.publish(subject, payload.into()))
                        .await;
                if sent.is_ok() {
                    self.reported = Some(Instant::now());
                }
            }
        }
        self.board.post(report);
    }
}
