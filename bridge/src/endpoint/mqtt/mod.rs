//! One MQTT broker: one connection that carries all routes of the bridge, both ways.

pub mod client;
mod outgoing;
mod session;
mod stream;
mod v311;
mod v5;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventmesh_wire::config::{Guarantee, MqttVersion};
use eventmesh_wire::report::{LastError, whole_seconds};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::client::{LinkError, LinkErrorKind, Options};
use crate::backoff::Backoff;
use crate::event::{Delivery, Sink};
use crate::ledger::Ledger;
use crate::mesh::Mesh;
use crate::route::inbound::Inbound;
use crate::route::outbound::OutboundTargets;

/// How the link stands.
#[derive(Debug, Clone, Default)]
pub struct LinkState {
    pub connected: bool,
    /// The broker does not want the bridge; only a change of configuration helps.
    pub refused: bool,
    pub last_error: Option<LastError>,
}

/// What the tasks of a link share.
pub(crate) struct Shared {
    options: Options,
    guarantee: Guarantee,
    mesh: Mesh,
    ledger: Arc<Ledger>,
    state: watch::Sender<LinkState>,
    routes: watch::Receiver<Arc<Vec<Arc<Inbound>>>>,
    outgoing: tokio::sync::Mutex<mpsc::UnboundedReceiver<Delivery>>,
    targets: Arc<OutboundTargets>,
    /// What the session at the broker is subscribed to, as far as this process knows.
    subscribed: Mutex<BTreeSet<String>>,
    /// Stop taking events in; finish those that are on their way.
    drain: CancellationToken,
    /// Disconnect.
    stop: CancellationToken,
}

/// A running link.
pub struct Link {
    outgoing: mpsc::UnboundedSender<Delivery>,
    pub state: watch::Receiver<LinkState>,
    routes: watch::Sender<Arc<Vec<Arc<Inbound>>>>,
    drain: CancellationToken,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    #[must_use]
    pub fn start(
        options: Options,
        guarantee: Guarantee,
        mesh: Mesh,
        inbound: Vec<Arc<Inbound>>,
        targets: Arc<OutboundTargets>,
    ) -> Self {
        let (outgoing, deliveries) = mpsc::unbounded_channel();
        let (state_sender, state) = watch::channel(LinkState::default());
        let (routes, routes_receiver) = watch::channel(Arc::new(inbound));
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let version = options.endpoint.version;
        let shared = Arc::new(Shared {
            options,
            guarantee,
            mesh,
            ledger: Arc::default(),
            state: state_sender,
            routes: routes_receiver,
            outgoing: tokio::sync::Mutex::new(deliveries),
            targets,
            subscribed: Mutex::default(),
            drain: drain.clone(),
            stop: stop.clone(),
        });
        let task = match version {
            MqttVersion::V5 => tokio::spawn(run::<v5::V5>(shared)),
            MqttVersion::V311 => tokio::spawn(run::<v311::V311>(shared)),
        };
        Self { outgoing, state, routes, drain, stop, task }
    }

    /// Replaces the inbound routes; subscriptions follow.
    pub fn set_routes(&self, inbound: Vec<Arc<Inbound>>) {
        self.routes.send_replace(Arc::new(inbound));
    }

    /// Takes nothing more in.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Disconnects, and waits until that is done.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(5 * client::GOODBYE, self.task).await;
    }

    /// The entrance for outbound routes.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Entrance(self.outgoing.clone()))
    }
}

struct Entrance(mpsc::UnboundedSender<Delivery>);

impl Sink for Entrance {
    fn send(&self, delivery: Delivery) {
        // A link that is gone gives the delivery back by dropping it.
        let _ = self.0.send(delivery);
    }
}

/// A connection that lasted this long was a good one; a shorter one does not shorten the next wait.
const GOOD: Duration = Duration::from_secs(10);
/// After so many short connections in a row the bridge stands off. Not every broker tells that another client took the
/// session: MQTT 3.1.1 has no word for it, and mosquitto 2.0.11 just closes with MQTT 5 too.
const SHORT_ONES: u32 = 3;

/// Connects again and again until it is told to stop.
async fn run<C: client::Client>(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    // Long enough for the other client to have its say, and for a person to see the reason.
    let mut stand_off = Backoff::new(Duration::from_mins(1), Duration::from_mins(10));
    let mut short_ones = 0;
    while !shared.stop.is_cancelled() {
        let begun = Instant::now();
        let ended = session::run::<C>(&shared).await;
        shared.ledger.disconnected();
        let was_connected = shared.state.borrow().connected;
        let short = was_connected && begun.elapsed() <= GOOD;
        short_ones = if short { short_ones + 1 } else { 0 };
        if was_connected && !short {
            backoff.reset();
        }
        if was_connected && begun.elapsed() > Duration::from_mins(1) {
            stand_off.reset();
        }
        let Err(mut error) = ended else { continue };
        if short_ones >= SHORT_ONES && error.kind == LinkErrorKind::Away {
            error = LinkError::thrown_out(&shared.options.endpoint.client_id, short_ones);
        }
        let wait = match error.kind {
            LinkErrorKind::TakenOver => stand_off.next_wait(),
            LinkErrorKind::Away | LinkErrorKind::Refused => backoff.next_wait(),
        };
        shared.lost(&error);
        tokio::select! {
            () = tokio::time::sleep(wait) => {},
            () = shared.stop.cancelled() => {},
        }
    }
    shared.state.send_modify(|state| state.connected = false);
}

impl Shared {
    fn lost(&self, error: &LinkError) {
        let said_before = self.state.borrow().last_error.as_ref().is_some_and(|last| last.message == error.message);
        if !said_before {
            tracing::warn!(error = error.message, "not connected to the MQTT broker");
        }
        let last_error = Some(LastError { message: error.message.clone(), at: whole_seconds(Timestamp::now()) });
        let refused = error.kind != LinkErrorKind::Away;
        self.state.send_replace(LinkState { connected: false, refused, last_error });
    }

    fn subscribed(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
