//! One route, its events and its faults.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::pull::OrderedConfig;
use eventmesh_wire::report::{Direction, RouteState};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{FarSide, Fault, History, Identity, Receive, Send, Verdict};
use crate::paths::{self, scratch};
use crate::process::nats::{api, create_consumer, create_stream};
use crate::process::{Accounts, Bridge, Nats, Proxy, Rights, WallClock};
use crate::wait::eventually;

/// Sends on their way at once.
const WINDOW: usize = 256;
/// Addresses, or keys, among which events are spread.
const LANES: u32 = 16;
/// Bytes of an event.
const SIZE: usize = 256;
/// A direction in which nothing has moved for this long has come to its end.
const STALLED: Duration = Duration::from_mins(3);
/// After the last event: time for copies to come, which is more than a consumer waits for an acknowledgement.
const AFTERWARDS: Duration = Duration::from_secs(13);
/// Seconds after which a consumer gives an event again. No machine may stand still for so long: such a copy has no explanation.
const ACK_WAIT: u64 = 10;
/// How long the mesh is away when it is cut off.
const CUT: Duration = Duration::from_secs(1);
/// Before a sender tries again.
const PAUSE: Duration = Duration::from_millis(50);

const RIGHTS: Rights =
    Rights { publish: &["in.>"], consume: &[("OUT", "c")], inspect: &["IN"], reports_as: ("trial", "trial") };

/// How many events, and what is done while they flow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan<'p> {
    pub events: u32,
    pub kills: u32,
    pub restarts: u32,
    pub cuts: u32,
    /// How far from the true time the bridge's wall clock is put, in seconds, one after the other. Then `program` must be there.
    pub clock: &'p [i64],
    /// The bridge, where it is not the one that images are made of: one that is not static.
    pub program: Option<&'p Path>,
}

/// What one trial showed.
#[derive(Debug)]
pub struct Row {
    pub name: String,
    pub direction: Direction,
    pub verdict: Verdict,
    /// What the bridge's counters said at the end.
    pub balanced: bool,
    pub time: Duration,
    pub lost: Vec<u32>,
}

impl Row {
    /// Nothing lost, no copy that nothing explains, and books that balance.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.verdict.sent > 0 && self.verdict.lost == 0 && self.verdict.unexplained == 0 && self.balanced
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Verdict { sent, lost, explained, unexplained } = self.verdict;
        let (name, direction) = (&self.name, self.direction.label());
        let balanced = if self.balanced { "yes" } else { "NO" };
        write!(f, "{name:<14}{direction:<10}{sent:>8}{lost:>6}{explained:>11}{unexplained:>13}{balanced:>10}")?;
        write!(f, "{:>8.1}", self.time.as_secs_f64())?;
        if self.lost.is_empty() { Ok(()) } else { write!(f, "  lost: {:?}", self.lost) }
    }
}

/// A mesh with a broker, a bridge that reaches it through a relay, and the far side.
struct World<F> {
    nats: Nats,
    relay: Proxy,
    bridge: Bridge,
    clock: WallClock,
    far: F,
    history: Arc<watch::Sender<History>>,
    tasks: Vec<JoinHandle<()>>,
    /// Events wait until it opens, so that some are still to come when the last fault is over.
    gate: watch::Sender<u32>,
}

/// Runs one direction from beginning to end.
pub async fn run<F: FarSide>(far: F, direction: Direction, plan: Plan<'_>) -> Result<Row> {
    let name = far.name();
    let identity = if direction == Direction::Inbound { far.identity() } else { Identity::None };
    let context = format!("{name} {}", direction.label());
    let mut world = World::start(far, direction, plan).await.with_context(|| context.clone())?;
    let begun = Instant::now();
    let outcome = async {
        world.flow(direction, plan.events).await?;
        world.disturb(plan).await?;
        world.finish(plan.events).await
    };
    let ended = outcome.await.with_context(|| context)?;
    tokio::time::sleep(AFTERWARDS).await;
    let balanced = world.balanced(direction).await;
    world.tasks.iter().for_each(JoinHandle::abort);
    let history = world.history.borrow();
    let (verdict, lost) = (history.verdict(identity), history.lost());
    Ok(Row { name, direction, verdict, balanced, time: ended - begun, lost })
}

impl<F: FarSide> World<F> {
    async fn start(far: F, direction: Direction, plan: Plan<'_>) -> Result<Self> {
        let accounts = Accounts::new(RIGHTS);
        let nats = Nats::verifying(scratch("nats")?, "2m", "", &accounts).await?;
        let client = nats.client().await?;
        create_stream(&client, "IN", &["in.>"], &json!({})).await?;
        create_stream(&client, "OUT", &["out.>"], &json!({})).await?;
        create_consumer(&client, "OUT", "c", ACK_WAIT).await?;
        let relay = Proxy::start(nats.port).await?;
        let mut config = json!({
            "version": 1,
            "bridge": {"namespace": "trial", "name": "trial", "uid": "8d5c6f1e-0000-4000-8000-000000000000"},
            "mesh": {
                "servers": [format!("nats://127.0.0.1:{}", relay.port)],
                "credentials": accounts.bridge()?.as_config(),
            },
            "endpoint": far.endpoint(direction)?,
            "delivery": {"maxInFlight": 1000, "retry": {"initialMs": 50, "maxMs": 1000}},
            "reportIntervalSeconds": 1,
        });
        let (field, mut route, more) = match direction {
            Direction::Inbound => {
                ("inbound", json!({"name": "r", "to": "in.{1}", "stream": "IN", "ingest": "Single"}), far.inbound())
            }
            Direction::Outbound => (
                "outbound",
                json!({"name": "r", "stream": "OUT", "consumer": "c", "subjects": ["out.*"]}),
                far.outbound(),
            ),
        };
        for (key, value) in more.as_object().into_iter().flatten() {
            route[key] = value.clone();
        }
        config[field] = Value::Array(vec![route]);
        let folder = scratch("bridge")?;
        let clock = WallClock::new(&folder)?;
        let bridge = match plan.program {
            Some(program) => Bridge::start_with_clock(program, folder, &config, &clock)?,
            None => Bridge::start(&paths::release("eventmesh-bridge")?, folder, &config)?,
        };
        bridge.route("r", "running route", |route| route.state == RouteState::Running).await?;
        let history = Arc::new(watch::Sender::new(History::default()));
        Ok(Self { nats, relay, bridge, clock, far, history, tasks: Vec::new(), gate: watch::Sender::new(0) })
    }

    /// Starts what sends and what receives.
    async fn flow(&mut self, direction: Direction, events: u32) -> Result<()> {
        let client = self.nats.client().await?;
        match direction {
            Direction::Inbound => {
                let stream = async_nats::jetstream::new(client).get_stream("IN").await?;
                self.collect(stream.create_consumer(OrderedConfig::default()).await?.messages().await?);
                let sender = self.far.sender().await?;
                self.send(sender, events);
            }
            Direction::Outbound => {
                let receiver = self.far.receiver().await?;
                self.collect(receiver);
                self.send(Publisher(client), events);
            }
        }
        Ok(())
    }

    fn collect(&mut self, mut receiver: impl Receive) {
        let history = Arc::clone(&self.history);
        self.tasks.push(tokio::spawn(async move {
            while let Some(payload) = receiver.receive().await {
                history.send_modify(|history| history.arrived(&payload, Instant::now()));
            }
        }));
    }

    fn send(&mut self, sender: impl Send, events: u32) {
        let (history, gate) = (Arc::clone(&self.history), self.gate.subscribe());
        let (sender, tries) = (Arc::new(sender), Arc::new(AtomicU32::new(0)));
        self.tasks.push(tokio::spawn(async move {
            let sends = futures::stream::iter(0..events).map(|number| {
                let (sender, tries, history, mut gate) = (&sender, &tries, &history, gate.clone());
                async move {
                    let _ = gate.wait_for(|open| *open >= number).await;
                    for attempt in 1.. {
                        tries.fetch_add(1, Ordering::Relaxed);
                        let payload = History::payload(number, attempt, SIZE);
                        if sender.send(&format!("trial-{number}"), number % LANES, payload).await {
                            history.send_modify(|history| history.confirmed(number, attempt));
                            return;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            });
            sends.buffer_unordered(WINDOW).collect::<()>().await;
        }));
    }

    /// Does what the plan says, spread over the events. Part of them come after the last fault.
    async fn disturb(&mut self, plan: Plan<'_>) -> Result<()> {
        let mut faults = Vec::new();
        let mut clock = plan.clock.iter();
        let kinds = [
            (Fault::BridgeKilled, plan.kills),
            (Fault::FarRestarted, plan.restarts),
            (Fault::MeshCut, plan.cuts),
            (Fault::ClockMoved, u32::try_from(plan.clock.len())?),
        ];
        for (fault, times) in kinds {
            faults.extend((0..times).map(|time| (f64::from(2 * time + 1) / f64::from(2 * times.max(1)), fault)));
        }
        faults.sort_by(|one, other| one.0.total_cmp(&other.0));
        let step = plan.events / u32::try_from(faults.len() + 1)?.max(1);
        for (index, (_, fault)) in faults.into_iter().enumerate() {
            let reached = step * u32::try_from(index + 1)?;
            // Half a step more may be sent, so that events are on their way when it happens.
            self.gate.send_replace(reached + step / 2);
            self.reached(reached as usize).await.with_context(|| format!("before {fault:?}"))?;
            let begun = Instant::now();
            match fault {
                Fault::BridgeKilled => self.bridge.kill_and_start_again()?,
                Fault::FarRestarted => self.far.restart().await?,
                Fault::MeshCut => self.relay.cut(CUT).await,
                Fault::ClockMoved => self.clock.jump(clock.next().copied().unwrap_or_default())?,
            }
            self.history.send_modify(|history| history.fault(fault, begun, Instant::now()));
        }
        self.gate.send_replace(u32::MAX);
        Ok(())
    }

    /// Waits until so many different events have come.
    async fn reached(&self, arrivals: usize) -> Result<Instant> {
        let (mut history, mut last) = (self.history.subscribe(), (0, Instant::now()));
        loop {
            let found = (history.borrow_and_update().arrivals(), Instant::now());
            if found.0 > last.0 {
                last = found;
            }
            if found.0 >= arrivals {
                return Ok(last.1);
            }
            let stalled = last.1.elapsed() > STALLED;
            ensure!(
                !stalled,
                "only {} of {arrivals} events have come, and {} were confirmed to their sender\n{}",
                found.0,
                self.history.borrow().confirmations(),
                self.bridge.child.log_tail(20)
            );
            let _ = tokio::time::timeout(Duration::from_secs(1), history.changed()).await;
        }
    }

    async fn finish(&self, events: u32) -> Result<Instant> {
        let sent = eventually("confirmation of all events", STALLED, async || {
            let confirmed = self.history.borrow().confirmations();
            if confirmed == events as usize { Ok(Some(())) } else { Err(format!("{confirmed} of {events}")) }
        });
        sent.await?;
        // What never comes is for the verdict to tell.
        Ok(self.reached(events as usize).await.unwrap_or_else(|_| Instant::now()))
    }

    /// Whether the books of the last process balance, with nothing left on its way and nothing given up.
    async fn balanced(&self, direction: Direction) -> bool {
        let settled = self.bridge.route("r", "settled route", |route| {
            let counters = route.counters;
            let given_up = counters.dropped + counters.dead_lettered + counters.filtered;
            route.direction == direction && counters.balances() && counters.in_flight == 0 && given_up == 0
        });
        let Ok(_) = settled.await else { return false };
        if direction == Direction::Inbound {
            return true;
        }
        let Ok(client) = self.nats.client().await else { return false };
        let info = api(&client, "CONSUMER.INFO.OUT.c", &json!({})).await.unwrap_or_default();
        info["num_pending"] == 0 && info["num_ack_pending"] == 0
    }
}

/// Publishes in the mesh.
struct Publisher(async_nats::Client);

impl Send for Publisher {
    async fn send(&self, id: &str, lane: u32, payload: Vec<u8>) -> bool {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        let context = async_nats::jetstream::new(self.0.clone());
        match context.publish_with_headers(format!("out.{lane}"), headers, payload.into()).await {
            Ok(stored) => stored.await.is_ok(),
            Err(_) => false,
        }
    }
}
