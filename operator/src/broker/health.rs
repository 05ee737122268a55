//! What the brokers of a mesh say of themselves, asked over the system account.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    sync::PoisonError,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::{BrokerChange, MeshBroker, clocks, stopped::StoppedByBroker, system::ask_all};
use crate::{
    mesh::{build::config_file::REVISIONS, certificates::files::REVISION},
    status_values::whole_seconds,
};

const INTERVAL: Duration = Duration::from_secs(10);
/// How long answers are awaited: the number of brokers that live is not known beforehand.
const WINDOW: Duration = Duration::from_millis(750);
/// The same while one is missing that answered before: it may only be slow.
const LATE: Duration = Duration::from_secs(3);

/// What the brokers said last, by broker name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    pub brokers: BTreeMap<String, BrokerHealth>,
    pub stopped: StoppedByBroker,
}

/// What one broker said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerHealth {
    /// By which it is asked on the system account.
    pub id: String,
    pub version: String,
    pub started_at: String,
    /// The leader of the cluster's metadata, as this broker knows it.
    pub meta_leader: Option<String>,
    /// Revision of the certificates that it has loaded.
    pub certificates: Option<String>,
    /// Revisions of the configuration files that it has loaded; of one that tells none, nothing is known.
    pub configuration: Vec<String>,
    /// Seconds that its clock is ahead of the operator's; absent where it is about right.
    pub clock_ahead: Option<i64>,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Varz>,
}

#[derive(Deserialize)]
struct Varz {
    server_id: String,
    server_name: String,
    version: String,
    start: String,
    now: Timestamp,
    jetstream: Option<JetStreamVarz>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct JetStreamVarz {
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    leader: Option<String>,
}

/// Asks at an interval until the mesh is removed.
pub(super) async fn run(broker: Arc<MeshBroker>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connects = broker.connects.clone();
    loop {
        tokio::select! {
            () = broker.stop().cancelled() => return,
            changed = connects.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
        match ask_and_note(&broker).await {
            Ok(true) => broker.announce(BrokerChange::Health),
            Ok(false) => {}
            Err(error) => debug!(mesh = %broker.key(), %error, "could not ask the brokers"),
        }
    }
}

/// Asks now; true when something is not as it was.
pub(super) async fn ask_and_note(broker: &MeshBroker) -> Result<bool, async_nats::Error> {
    let before = broker.running_brokers();
    let mut health = ask(broker, |said| before.keys().all(|name| said.contains_key(name))).await?;
    health.steady(&broker.health.lock().unwrap_or_else(PoisonError::into_inner));
    let answering: BTreeSet<String> = health.brokers.keys().cloned().collect();
    health.stopped = broker.stopped(&answering).await?;
    let linked = broker.leafs().is_some() && broker.ask_leafs().await?;
    let mut known = broker.health.lock().unwrap_or_else(PoisonError::into_inner);
    let changed = *known != health || linked;
    let restarted = started(&known) != started(&health);
    *known = health;
    if restarted {
        broker.announce(BrokerChange::Restarted);
    }
    Ok(changed)
}

impl Health {
    /// Keeps what was said before of clocks that have hardly moved.
    fn steady(&mut self, before: &Self) {
        for (name, broker) in &mut self.brokers {
            let before = before.brokers.get(name).and_then(|broker| broker.clock_ahead);
            broker.clock_ahead = clocks::told(broker.clock_ahead.unwrap_or_default(), before);
        }
    }
}

/// Which brokers run, and since when.
fn started(health: &Health) -> BTreeMap<&str, &str> {
    health.brokers.iter().map(|(name, broker)| (name.as_str(), broker.started_at.as_str())).collect()
}

/// `all`: whether those who have answered are all that are known.
async fn ask(
    broker: &MeshBroker,
    all: impl Fn(&BTreeMap<String, BrokerHealth>) -> bool + Send + Sync,
) -> Result<Health, async_nats::Error> {
    let (mut health, asked) = (Health::default(), Timestamp::now());
    ask_all(broker, "$SYS.REQ.SERVER.PING.VARZ", bytes::Bytes::new(), |message| {
        let answer = message.and_then(|message| serde_json::from_slice(&message.payload).ok());
        if let Some(Answer { data: Some(varz) }) = answer {
            let clock_ahead = Some(clocks::ahead(varz.now, asked, Timestamp::now()));
            let (name, said) = said(varz);
            health.brokers.insert(name, BrokerHealth { clock_ahead, ..said });
        }
        Some(if all(&health.brokers) { WINDOW } else { LATE })
    })
    .await?;
    Ok(health)
}

/// Name of a broker, and what it says.
fn said(mut varz: Varz) -> (String, BrokerHealth) {
    let meta_leader = varz.jetstream.and_then(|js| js.meta).and_then(|meta| meta.leader);
    let said = BrokerHealth {
        id: varz.server_id,
        version: varz.version,
        started_at: whole_seconds(&varz.start),
        meta_leader: meta_leader.filter(|leader| !leader.is_empty()),
        certificates: varz.metadata.remove(REVISION),
        configuration: REVISIONS.iter().filter_map(|key| varz.metadata.remove(*key)).collect(),
        clock_ahead: None,
    };
    (varz.server_name, said)
}
