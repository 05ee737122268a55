//! Another NATS system, another cluster or another account: streams of it (`JetStream`), or plain publish and subscribe.

mod connection;
mod consumer;
mod inbound;
mod outlet;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eventmesh_wire::config::{BridgeConfig, NatsEndpoint};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::connection::{Connection, LinkError};
use self::inbound::{Progress, Readers};
use self::outlet::Outlet;
use super::{Endpoint, LinkState, Setup, Standing};
use crate::backoff::Backoff;
use crate::event::Sink;
use crate::mesh::Mesh;
use crate::route::dispatch::{Dispatch, Dispatcher, Target};
use crate::route::inbound::Inbound;

/// A connection that lasted this long was a good one; a shorter one does not shorten the next wait.
const GOOD: Duration = Duration::from_secs(10);
/// How long readers may take to end when the bridge does.
const GOODBYE: Duration = Duration::from_secs(5);

type Routes = Arc<Vec<Arc<Inbound>>>;

/// The link to another NATS system.
pub struct Link {
    dispatcher: Arc<Dispatcher>,
    shared: Arc<Shared>,
    routes: watch::Sender<Routes>,
    task: JoinHandle<()>,
}

/// What all parts of a link know.
struct Shared {
    config: BridgeConfig,
    endpoint: NatsEndpoint,
    mesh: Mesh,
    standing: Standing,
    outlet: Arc<Outlet>,
    /// How far each inbound route has come, whatever became of its connection.
    progress: Mutex<BTreeMap<String, Arc<Progress>>>,
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shared {
    fn progress(&self, route: &str) -> Arc<Progress> {
        let mut all = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(route.to_owned()).or_default())
    }
}

impl Link {
    pub(super) fn start(endpoint: NatsEndpoint, setup: Setup) -> Self {
        let outlet = Arc::new(Outlet::new(endpoint.jetstream.is_some(), setup.config.bridge.uid.clone()));
        let standing = Standing::new("the NATS system");
        let dispatch = Dispatch {
            delivery: setup.config.delivery.clone(),
            mesh: setup.mesh.clone(),
            targets: setup.targets,
            endpoint: standing.watch(),
        };
        let dispatcher = Dispatcher::start(Arc::clone(&outlet) as Arc<dyn Target>, dispatch);
        let shared = Arc::new(Shared {
            config: setup.config,
            endpoint,
            mesh: setup.mesh,
            standing,
            outlet,
            progress: Mutex::default(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let (routes, told) = watch::channel(Arc::new(setup.inbound));
        let task = tokio::spawn(run(Arc::clone(&shared), told));
        Self { dispatcher, shared, routes, task }
    }
}

impl Endpoint for Link {
    fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.standing.watch()
    }

    fn set_routes(&self, inbound: Vec<Arc<Inbound>>) {
        self.routes.send_replace(Arc::new(inbound));
    }

    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.dispatcher) as Arc<dyn Sink>
    }

    fn drain(&self) {
        self.shared.drain.cancel();
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            self.shared.stop.cancel();
            let _ = tokio::time::timeout(GOODBYE, self.task).await;
            self.dispatcher.stop();
        }
        .boxed()
    }
}

/// Connects again and again until it is told to stop.
async fn run(shared: Arc<Shared>, mut routes: watch::Receiver<Routes>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    let bridge = &shared.config.bridge;
    let name = format!("eventmesh bridge {}/{}", bridge.namespace, bridge.name);
    loop {
        let connected = tokio::select! {
            connected = Connection::make(&shared.endpoint, &name) => connected,
            () = shared.stop.cancelled() => return,
        };
        let error = match connected {
            Ok(connection) => {
                let begun = Instant::now();
                let ended = serve(&shared, &connection, &mut routes).await;
                if begun.elapsed() > GOOD {
                    backoff.reset();
                }
                ended
            }
            Err(error) => Some(error),
        };
        let Some(LinkError { message, refused }) = error else { break };
        shared.standing.down(&message, refused);
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {},
            () = shared.stop.cancelled() => break,
        }
    }
    shared.standing.ended();
}

/// Carries events for as long as the connection stands; tells why it does not any more, or nothing when it is to stop.
async fn serve(
    shared: &Arc<Shared>,
    connection: &Connection,
    routes: &mut watch::Receiver<Routes>,
) -> Option<LinkError> {
    shared.outlet.open(connection.client.clone(), connection.health.clone());
    shared.standing.up();
    let mut readers = Readers::new(Arc::clone(shared), connection.client.clone());
    let ended = loop {
        let wanted = routes.borrow_and_update().clone();
        readers.become_those_of(&wanted);
        tokio::select! {
            error = connection.lost() => break Some(error),
            () = shared.stop.cancelled() => break None,
            changed = routes.changed() => if changed.is_err() { break None },
        }
    };
    shared.outlet.close();
    if ended.is_none() {
        // What was given back and acknowledged until now still has to leave.
        readers.stop();
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.client.flush()).await;
    }
    ended
}
