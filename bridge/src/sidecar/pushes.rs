//! The pushes as the newest binding says, and their numbers.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eventmesh_wire::config::sidecar::SidecarConfig;
use eventmesh_wire::report::RouteState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::push::{AppReady, Push, Settings, Standing};
use crate::mesh::Mesh;

/// How long events that are with the application may take when its mesh is exchanged for another.
const EXCHANGE: Duration = Duration::from_secs(20);

/// Shared by what keeps them and what tells of them.
#[derive(Clone)]
pub struct Pushes {
    app_ready: Option<AppReady>,
    running: Arc<Mutex<Option<Running>>>,
}

struct Running {
    mesh: Mesh,
    namespace: String,
    push: Push,
}

impl Pushes {
    #[must_use]
    pub fn new(app_ready: Option<AppReady>) -> Self {
        Self { app_ready, running: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A binding was taken up; one without `sidecar.json` is of a client that has no push Subscriptions.
    pub fn take_up(&self, mesh: &Mesh, sidecar: Option<&SidecarConfig>) {
        let (namespace, list) = sidecar.map_or(("", &[][..]), |sidecar| (&sidecar.namespace, &sidecar.push));
        let mut running = self.lock();
        if let Some(running) = running.as_mut().filter(|now| now.mesh.is(mesh) && now.namespace == namespace) {
            return running.push.set(list);
        }
        let push = Push::start(mesh.clone(), Settings::new(namespace, self.app_ready.clone()), list);
        let next = Running { mesh: mesh.clone(), namespace: namespace.to_owned(), push };
        if let Some(before) = running.replace(next) {
            tokio::spawn(before.push.stop(EXCHANGE));
        }
    }

    /// Asks for nothing more; see [`Push::stop`].
    pub async fn stop(&self, grace: Duration) {
        let running = self.lock().take();
        if let Some(running) = running {
            running.push.stop(grace).await;
        }
    }

    /// The numbers in the text form of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        render(&self.lock().as_ref().map(|running| running.push.standings()).unwrap_or_default())
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SubscriptionLabel {
    subscription: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    subscription: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    subscription: String,
    state: &'static str,
}

type Counters<L> = Family<L, Counter<u64, AtomicU64>>;
type Gauges<L> = Family<L, Gauge<i64, AtomicI64>>;

fn render(standings: &[Standing]) -> String {
    let mut registry = Registry::with_prefix("eventmesh_sidecar_push");
    let events: Counters<OutcomeLabels> = Family::default();
    let retries: Counters<SubscriptionLabel> = Family::default();
    let (in_flight, lag, concurrency): (Gauges<SubscriptionLabel>, Gauges<_>, Gauges<_>) = Default::default();
    let states: Gauges<StateLabels> = Family::default();
    registry.register(
        "events",
        "Events by what became of them; received is the sum of all outcomes and of what is in flight",
        events.clone(),
    );
    registry.register("retries", "Tries that failed and were not the last", retries.clone());
    registry.register("in_flight", "Events that are with the application, or wait here for it", in_flight.clone());
    registry.register("lag", "Events waiting in the stream", lag.clone());
    registry.register("concurrency", "Events that may be with the application at once", concurrency.clone());
    registry.register("state", "1 for the state that the push is in", states.clone());
    for standing in standings {
        let label = SubscriptionLabel { subscription: standing.name.clone() };
        let counters = &standing.counters;
        let outcomes = [
            ("received", counters.received),
            ("delivered", counters.delivered),
            ("dead_lettered", counters.dead_lettered),
        ];
        for (outcome, count) in outcomes {
            let labels = OutcomeLabels { subscription: standing.name.clone(), outcome };
            events.get_or_create(&labels).inc_by(count);
        }
        retries.get_or_create(&label).inc_by(standing.retries);
        in_flight.get_or_create(&label).set(gauge(counters.in_flight));
        concurrency.get_or_create(&label).set(gauge(standing.concurrency as u64));
        if let Some(waiting) = standing.lag {
            lag.get_or_create(&label).set(gauge(waiting));
        }
        for state in RouteState::ALL {
            let labels = StateLabels { subscription: standing.name.clone(), state: state.label() };
            states.get_or_create(&labels).set((state == standing.state).into());
        }
    }
    let mut text = String::new();
    let _ = encode(&mut text, &registry);
    text
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
