//! What the brokers of a mesh say of themselves, asked over the system account.

use std::{collections::BTreeMap, sync::Arc, sync::PoisonError, time::Duration};

use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::{BrokerChange, MeshBroker};
use crate::status_values::whole_seconds;

const INTERVAL: Duration = Duration::from_secs(10);
/// How long answers are awaited: the number of brokers that live is not known beforehand.
const WINDOW: Duration = Duration::from_millis(750);

/// What the brokers said last, by broker name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    pub brokers: BTreeMap<String, BrokerHealth>,
}

/// What one broker said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerHealth {
    pub version: String,
    pub started_at: String,
    /// The leader of the cluster's metadata, as this broker knows it.
    pub meta_leader: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Varz>,
}

#[derive(Deserialize)]
struct Varz {
    server_name: String,
    version: String,
    start: String,
    jetstream: Option<JetStreamVarz>,
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
        match ask(&broker).await {
            Ok(health) => {
                let mut known = broker.health.lock().unwrap_or_else(PoisonError::into_inner);
                if *known != health {
                    *known = health;
                    drop(known);
                    broker.announce(BrokerChange::Health);
                }
            }
            Err(error) => debug!(mesh = %broker.key(), %error, "could not ask the brokers"),
        }
    }
}

async fn ask(broker: &MeshBroker) -> Result<Health, async_nats::Error> {
    let inbox = broker.system.new_inbox();
    let mut answers = broker.system.subscribe(inbox.clone()).await?;
    broker.system.publish_with_reply("$SYS.REQ.SERVER.PING.VARZ", inbox, bytes::Bytes::new()).await?;
    let mut health = Health::default();
    while let Ok(Some(message)) = timeout(WINDOW, answers.next()).await {
        if let Ok(Answer { data: Some(varz) }) = serde_json::from_slice(&message.payload) {
            let meta_leader = varz.jetstream.and_then(|js| js.meta).and_then(|meta| meta.leader);
            let said = BrokerHealth {
                version: varz.version,
                started_at: whole_seconds(&varz.start),
                meta_leader: meta_leader.filter(|leader| !leader.is_empty()),
            };
            health.brokers.insert(varz.server_name, said);
        }
    }
    Ok(health)
}
