//! The life of the process: start, reload, report, drain.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventmesh_wire::config::{BridgeConfig, DesiredState, MeshConfig};
use eventmesh_wire::names::report_subject;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config_file::{self, Loaded, Watch};
use crate::mesh::Mesh;
use crate::mesh::lease::Lease;
use crate::reporter::{Board, Reporter, Situation};
use crate::running::{Library, Running};
use crate::{admin, endpoint::LinkState};

/// How often states are looked at; a change is reported within this time.
const LOOK: Duration = Duration::from_millis(250);
/// How often the configuration file is looked at.
const RELOAD: Duration = Duration::from_secs(1);

struct App {
    loaded: Loaded,
    /// Why the file on disk is not what runs.
    problem: Option<String>,
    mesh: Mesh,
    /// Where one pod at a time carries events.
    lease: Option<Lease>,
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
    let reporter = Reporter::new(pod.clone());
    let mut app =
        App { loaded, problem: None, mesh, lease: None, library, running: None, reporter, board, pod, reported: None };
    app.begin(&app.loaded.config.clone())?;
    let (mut look, mut reload) = (tokio::time::interval(LOOK), tokio::time::interval(RELOAD));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = changed(app.lease.as_ref()) => app.follow_lease().await,
            _ = look.tick() => app.report(false).await,
            _ = reload.tick() => if let Some(judgement) = watch.look() {
                app.reload(judgement).await;
            },
        }
    }
    tracing::info!("stopping: finishing what is on its way");
    app.end().await;
    app.report(true).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), app.mesh.client.flush()).await;
    Ok(())
}

/// Waits until the standing of a lease is another than what was last made of it; for ever where there is none.
async fn changed(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.changed().await,
        None => std::future::pending().await,
    }
}

async fn connect(loaded: &Loaded) -> anyhow::Result<Mesh> {
    let bridge = &loaded.config.bridge;
    Mesh::connect(&loaded.config.mesh, &format!("bridge {}/{}", bridge.namespace, bridge.name)).await
}

/// Whether a connection to the one is one to the other. New credentials do not need another.
fn same_mesh(one: &MeshConfig, other: &MeshConfig) -> bool {
    *one == MeshConfig { credentials: one.credentials.clone(), ..other.clone() }
}

/// Whether a pod that waits for its turn goes on waiting with another configuration.
fn same_part(one: &BridgeConfig, other: &BridgeConfig) -> bool {
    (&one.bridge, one.lease, one.state) == (&other.bridge, other.lease, other.state)
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

    /// Starts what a configuration says: the routes, or the wait for one's turn.
    fn begin(&mut self, config: &BridgeConfig) -> anyhow::Result<()> {
        let lease = config.lease.filter(|_| config.state == DesiredState::Running);
        let Some(lease) = lease else {
            self.running = Running::start(config, &self.mesh, &self.library)?;
            return Ok(());
        };
        let ttl = Duration::from_millis(lease.ttl_ms);
        let bridge = &config.bridge;
        self.lease = Some(Lease::start(&self.mesh, &bridge.namespace, &bridge.name, &self.pod, ttl));
        self.library.open_all(config);
        Ok(())
    }

    /// Ends it, in order: what is on its way first, then another pod may begin.
    async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        if let Some(lease) = self.lease.take() {
            lease.give_back().await;
        }
    }

    /// Starts the routes when it is this pod's turn, and drops them when it is no longer.
    async fn follow_lease(&mut self) {
        let active = self.lease.as_mut().is_some_and(Lease::follow);
        match self.running.take() {
            Some(running) if !active => running.abandon().await,
            None if active => match Running::start(&self.loaded.config, &self.mesh.for_one_term(), &self.library) {
                Ok(running) => self.running = running,
                Err(error) => self.refuse(format!("{error:#}")),
            },
            running => self.running = running,
        }
        self.report(true).await;
    }

    async fn change_to(&mut self, next: Loaded) -> anyhow::Result<()> {
        tracing::info!(hash = next.hash, "the configuration changed");
        let same_mesh = same_mesh(&self.loaded.config.mesh, &next.config.mesh);
        if same_mesh && next.config.mesh.credentials != self.loaded.config.mesh.credentials {
            self.mesh.renew(next.config.mesh.credentials.as_ref())?;
        }
        if let Some(running) = self.running.as_mut().filter(|running| running.can_become(&next.config)) {
            running.become_next(&next.config)?;
        } else if self.waits() && same_mesh && same_part(&self.loaded.config, &next.config) {
            self.library.open_all(&next.config);
        } else {
            // What could fail is made before what runs is stopped.
            let mesh = if same_mesh { self.mesh.clone() } else { connect(&next).await? };
            self.end().await;
            if !same_mesh {
                self.mesh.abandon();
            }
            self.mesh = mesh.free();
            if let Err(error) = self.begin(&next.config) {
                self.begin(&self.loaded.config.clone())?;
                return Err(error);
            }
        }
        self.loaded = next;
        Ok(())
    }

    /// Whether it waits for its turn.
    fn waits(&self) -> bool {
        self.lease.is_some() && self.running.is_none()
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
            lease: self.lease.as_ref().map(Lease::standing),
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
