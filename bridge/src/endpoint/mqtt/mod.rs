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

use eventmesh_wire::config::{Guarantee, MqttEndpoint, MqttVersion};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::client::{LinkError, LinkErrorKind, Options};
use self::outgoing::Outlet;
use super::{Endpoint, LinkState, Setup, Standing};
use crate::backoff::Backoff;
use crate::event::Sink;
use crate::ledger::Ledger;
use crate::mesh::Mesh;
use crate::route::dispatch::{Dispatch, Dispatcher};
use crate::route::inbound::Inbound;
use crate::tls;

/// What the tasks of a link share.
pub(crate) struct Shared {
    options: Options,
    guarantee: Guarantee,
    mesh: Mesh,
    ledger: Arc<Ledger>,
    standing: Standing,
    routes: watch::Receiver<Arc<Vec<Arc<Inbound>>>>,
    outlet: Arc<Outlet>,
    /// What the session at the broker is subscribed to, as far as this process knows.
    subscribed: Mutex<BTreeSet<String>>,
    /// Stop taking events in; finish those that are on their way.
    drain: CancellationToken,
    /// Disconnect.
    stop: CancellationToken,
}

/// A running link.
pub struct Link {
    dispatcher: Arc<Dispatcher>,
    shared: Arc<Shared>,
    routes: watch::Sender<Arc<Vec<Arc<Inbound>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// # Errors
    /// Certificates that can not be read.
    pub fn start(endpoint: MqttEndpoint, setup: Setup) -> anyhow::Result<Self> {
        let delivery = setup.config.delivery.clone();
        let version = endpoint.version;
        let options = options(endpoint, delivery.max_in_flight)?;
        let (routes, routes_receiver) = watch::channel(Arc::new(setup.inbound));
        let outlet = Arc::new(Outlet::new(delivery.guarantee));
        let shared = Arc::new(Shared {
            options,
            guarantee: delivery.guarantee,
            mesh: setup.mesh.clone(),
            ledger: Arc::default(),
            standing: Standing::new("the MQTT broker"),
            routes: routes_receiver,
            outlet: Arc::clone(&outlet),
            subscribed: Mutex::default(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let dispatch =
            Dispatch { delivery, mesh: setup.mesh, targets: setup.targets, endpoint: shared.standing.watch() };
        let dispatcher = Dispatcher::start(outlet, dispatch);
        let task = match version {
            MqttVersion::V5 => tokio::spawn(run::<v5::V5>(Arc::clone(&shared))),
            MqttVersion::V311 => tokio::spawn(run::<v311::V311>(Arc::clone(&shared))),
        };
        Ok(Self { dispatcher, shared, routes, task })
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
            let _ = tokio::time::timeout(5 * client::GOODBYE, self.task).await;
            self.dispatcher.stop();
        }
        .boxed()
    }
}

fn options(endpoint: MqttEndpoint, max_in_flight: u32) -> anyhow::Result<Options> {
    let address = endpoint.broker().map_err(|problem| anyhow::anyhow!(problem))?;
    let tls = address.tls.then(|| tls::of_endpoint(endpoint.tls.as_ref())).transpose()?.map(Arc::new);
    let max_in_flight = u16::try_from(max_in_flight).unwrap_or(u16::MAX);
    Ok(Options { endpoint, address, tls, max_in_flight })
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
        let was_connected = shared.standing.is_connected();
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
        shared.standing.down(&error.message, error.kind != LinkErrorKind::Away);
        tokio::select! {
            () = tokio::time::sleep(wait) => {},
            () = shared.stop.cancelled() => {},
        }
    }
    shared.standing.ended();
}

impl Shared {
    fn subscribed(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
