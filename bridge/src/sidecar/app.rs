//! The life of a sidecar: start, changes of the binding, end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use eventmesh_wire::config::MeshConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::binding::{Binding, Unusable, Watch};
use super::http::{self, Situation, Surface};
use super::nats;
use super::numbers::Numbers;
use super::push::AppReady;
use super::pushes::Pushes;
use crate::mesh::Mesh;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long connections may take to end.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a sidecar is started with.
pub struct Options {
    /// The folder of the binding.
    pub binding: PathBuf,
    pub nats_address: String,
    pub http_address: String,
    /// `none` serves nothing.
    pub admin_address: String,
    /// Asked whether the application is ready, before events are pushed to it: an [`AppReady`].
    pub app_ready: Option<String>,
}

struct App {
    bindings: watch::Sender<Option<Arc<Binding>>>,
    situation: watch::Sender<Situation>,
    pushes: Pushes,
}

/// Runs the sidecar until `stop`.
///
/// # Errors
/// When a port is taken.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let nats = listen(&options.nats_address).await?;
    let http = listen(&options.http_address).await?;
    let admin = match options.admin_address.as_str() {
        "none" => Vec::new(),
        address => listen(address).await?,
    };
    let pushes = Pushes::new(options.app_ready.as_deref().and_then(app_ready));
    let mut app =
        App { bindings: watch::Sender::new(None), situation: watch::Sender::default(), pushes: pushes.clone() };
    let (numbers, tasks, admin_stop) = (Numbers::default(), TaskTracker::new(), CancellationToken::new());
    let nats_port = nats::Port {
        binding: app.bindings.subscribe(),
        numbers: numbers.clone(),
        stop: stop.clone(),
        tasks: tasks.clone(),
    };
    let http_port = http::Port::new(app.situation.subscribe(), numbers, pushes.clone(), stop.clone(), tasks.clone());
    // The kubelet goes on asking while the application's connections end.
    let admin_port = http_port.clone().until(admin_stop.clone());
    for listener in nats {
        tasks.spawn(nats::serve(nats_port.clone(), listener));
    }
    for listener in http {
        tasks.spawn(http::serve(http_port.clone(), listener, Surface::Application));
    }
    for listener in admin {
        tokio::spawn(http::serve(admin_port.clone(), listener, Surface::Kubelet));
    }
    let mut watch = Watch::new(&options.binding);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => if let Some(judgement) = watch.look() {
                app.take_up(judgement).await;
            },
        }
    }
    tracing::info!("stopping: connections end when what is on its way has arrived");
    tasks.close();
    let (ended, ()) = tokio::join!(timeout(GOODBYE, tasks.wait()), pushes.stop(GOODBYE));
    if ended.is_err() {
        tracing::warn!(connections = tasks.len(), "some connections did not end in time");
    }
    let mesh = app.situation.borrow().mesh.clone();
    if let Some(mesh) = mesh {
        let _ = timeout(Duration::from_secs(1), mesh.client.flush()).await;
    }
    admin_stop.cancel();
    Ok(())
}

/// What the application's probe says, or nothing where it is one that can not be asked: that is no reason for a pod not to start.
fn app_ready(text: &str) -> Option<AppReady> {
    let parsed = text.parse();
    if let Err(problem) = &parsed {
        tracing::warn!(problem, "--app-ready is not used; the ports of push Subscriptions decide alone");
    }
    parsed.ok()
}

/// An application that asks for `localhost` may get the one loopback or the other; where one is meant, both are served.
async fn listen(address: &str) -> anyhow::Result<Vec<TcpListener>> {
    let bound = TcpListener::bind(address).await.with_context(|| format!("can not listen on {address}"))?;
    let mut listeners = vec![bound];
    if let Some(port) = address.strip_prefix("127.0.0.1:") {
        match TcpListener::bind(format!("[::1]:{port}")).await {
            Ok(other) => listeners.push(other),
            Err(error) => tracing::debug!(%error, port, "there is no IPv6 loopback to listen on"),
        }
    }
    Ok(listeners)
}

impl App {
    async fn take_up(&mut self, judgement: Result<Binding, Unusable>) {
        let taken_up = match judgement {
            Ok(binding) => self.change_to(binding).await.map_err(|error| format!("{error:#}")),
            Err(unusable) => Err(unusable.to_string()),
        };
        if let Err(problem) = taken_up {
            if self.bindings.borrow().is_some() {
                tracing::error!(problem, "the new binding can not be used; the last good one stays in use");
            } else {
                tracing::warn!(problem, "there is no binding yet");
            }
            self.situation.send_modify(|situation| situation.problem = Some(problem));
        }
    }

    async fn change_to(&mut self, next: Binding) -> anyhow::Result<()> {
        let (before, mesh) = (self.bindings.borrow().clone(), self.situation.borrow().mesh.clone());
        let mesh = match (before.as_ref(), mesh) {
            (Some(before), Some(mesh)) if same_place(&before.mesh, &next.mesh) => {
                if before.mesh.credentials != next.mesh.credentials {
                    mesh.renew(next.mesh.credentials.as_ref())?;
                }
                mesh
            }
            (_, old) => {
                let mesh = Mesh::connect(&next.mesh, &name(&next)).await?;
                if let Some(old) = old {
                    old.abandon();
                }
                mesh
            }
        };
        let sidecar = next.sidecar.clone().map(Arc::new);
        tracing::info!(servers = next.mesh.servers.join(","), "the binding is taken up");
        self.pushes.take_up(&mesh, sidecar.as_deref());
        self.situation.send_replace(Situation { mesh: Some(mesh), sidecar, problem: None });
        // Connections are made anew only for another place or other credentials.
        if before.is_none_or(|before| before.mesh != next.mesh) {
            self.bindings.send_replace(Some(Arc::new(next)));
        }
        Ok(())
    }
}

/// Whether a connection to the one is one to the other. New credentials do not need another.
fn same_place(one: &MeshConfig, other: &MeshConfig) -> bool {
    *one == MeshConfig { credentials: one.credentials.clone(), ..other.clone() }
}

/// What the brokers call the sidecar's own connection.
fn name(binding: &Binding) -> String {
    match &binding.sidecar {
        Some(sidecar) => format!("sidecar of {}/{}", sidecar.namespace, sidecar.service_account),
        None => "sidecar".to_owned(),
    }
}
