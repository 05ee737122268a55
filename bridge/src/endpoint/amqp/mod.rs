//! An AMQP broker: 0-9-1 (RabbitMQ and its like) or 1.0 (Artemis, Qpid, Azure Service Bus and their like). Two protocols that
//! share a name, an address and how a link is kept up.

mod properties;
mod routes;
pub(crate) mod socket;
mod v091;
mod v1;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventmesh_wire::config::{AmqpEndpoint, AmqpVersion, BridgeConfig};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::socket::Place;
use super::{Endpoint, LinkState, Setup, Standing};
use crate::backoff::Backoff;
use crate::books::{Books, Obstacle};
use crate::event::{Delivery, Sink};
use crate::mesh::Mesh;
use crate::route::dispatch::{Dispatch, Dispatcher, Failure, Target};
use crate::route::inbound::Inbound;

/// How long connecting may take, signing in included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end may take: what is acknowledged is sent, then the close and its answer.
const GOODBYE: Duration = Duration::from_secs(2);
/// A connection that lasted this long was a good one; a shorter one does not shorten the next wait.
const GOOD: Duration = Duration::from_secs(10);
/// How long an event rests that the bridge gives back to its queue, which would give it again at once.
const REST: Duration = Duration::from_secs(1);
/// How often a route is tried again that the broker does not let read: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why there is no connection any more, or none came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkError {
    message: String,
    /// A person must change something; trying again does not help by itself.
    refused: bool,
}

impl LinkError {
    pub fn away(message: impl Into<String>) -> Self {
        Self { message: message.into(), refused: false }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), refused: true }
    }
}

/// Something at the broker is in the way of an event that is on its way to it; it ends with this.
struct Trouble(Arc<Books>);

impl Trouble {
    fn new(books: &Arc<Books>, problem: String) -> Self {
        books.obstructed(Obstacle::Blocked, problem);
        Self(Arc::clone(books))
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Publishes on the connection that is there now.
trait Publish: Send + Sync {
    fn publish(self: Arc<Self>, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>>;
}

/// What the tasks of a link share.
struct Shared {
    endpoint: AmqpEndpoint,
    config: BridgeConfig,
    place: Place,
    mesh: Mesh,
    standing: Standing,
    routes: watch::Receiver<Arc<Vec<Arc<Inbound>>>>,
    /// `None` while there is no connection.
    publisher: Mutex<Option<Arc<dyn Publish>>>,
    /// Stop taking events in; finish those that are on their way.
    drain: CancellationToken,
    /// Disconnect.
    stop: CancellationToken,
}

/// A running link.
pub struct Link {
    state: watch::Receiver<LinkState>,
    routes: watch::Sender<Arc<Vec<Arc<Inbound>>>>,
    dispatcher: Arc<Dispatcher>,
    drain: CancellationToken,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// # Errors
    /// What `validate` would have found, and certificates that can not be read.
    pub fn start(endpoint: AmqpEndpoint, setup: Setup) -> anyhow::Result<Self> {
        let Setup { config, mesh, inbound, targets } = setup;
        let (routes, routes_receiver) = watch::channel(Arc::new(inbound));
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let standing = Standing::new("the AMQP broker");
        let state = standing.watch();
        let delivery = config.delivery.clone();
        let shared = Arc::new(Shared {
            place: Place::new(&endpoint)?,
            endpoint,
            config,
            mesh: mesh.clone(),
            standing,
            routes: routes_receiver,
            publisher: Mutex::default(),
            drain: drain.clone(),
            stop: stop.clone(),
        });
        let settings = Dispatch { delivery, mesh, targets, endpoint: state.clone() };
        let dispatcher = Dispatcher::start(Arc::new(Entrance(Arc::clone(&shared))), settings);
        let task = tokio::spawn(run(shared));
        Ok(Self { state, routes, dispatcher, drain, stop, task })
    }
}

impl Endpoint for Link {
    fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    fn set_routes(&self, inbound: Vec<Arc<Inbound>>) {
        self.routes.send_replace(Arc::new(inbound));
    }

    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.dispatcher) as Arc<dyn Sink>
    }

    fn drain(&self) {
        self.drain.cancel();
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.dispatcher.stop();
            self.stop.cancel();
            let _ = tokio::time::timeout(2 * GOODBYE, self.task).await;
        })
    }
}

struct Entrance(Arc<Shared>);

impl Target for Entrance {
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let publisher = self.0.publisher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match publisher {
            Some(publisher) => publisher.publish(delivery),
            None => Box::pin(async { Err(Failure::Lost) }),
        }
    }
}

impl Shared {
    /// The connection can carry events.
    fn up(&self, publisher: Arc<dyn Publish>) {
        *self.publisher.lock().unwrap_or_else(PoisonError::into_inner) = Some(publisher);
        self.standing.up();
    }

    fn inbound(&self) -> Arc<Vec<Arc<Inbound>>> {
        Arc::clone(&self.routes.borrow())
    }

    /// What the broker's operators see a connection or a link called.
    fn name(&self) -> String {
        format!("eventmesh {}/{}", self.config.bridge.namespace, self.config.bridge.name)
    }
}

/// Connects again and again until it is told to stop.
async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    while !shared.stop.is_cancelled() {
        let begun = Instant::now();
        let ended = match shared.endpoint.version {
            AmqpVersion::V091 => v091::run(&shared).await,
            AmqpVersion::V1 => v1::run(&shared).await,
        };
        *shared.publisher.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if shared.standing.is_connected() && begun.elapsed() > GOOD {
            backoff.reset();
        }
        let Err(error) = ended else { continue };
        shared.standing.down(&error.message, error.refused);
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {},
            () = shared.stop.cancelled() => {},
        }
    }
    shared.standing.ended();
}
