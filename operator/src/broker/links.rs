//! What the brokers of a mesh say of their leaf node connections, asked over the system account.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use futures::StreamExt;
use serde::Deserialize;
use tokio::time::timeout;

use super::{BrokerError, MeshBroker};

/// How long answers are awaited: the number of brokers that live is not known beforehand.
const WINDOW: Duration = Duration::from_millis(750);

/// The connections that carry one link, over all brokers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leafs {
    pub connections: i64,
    /// Of the slowest, in milliseconds.
    pub round_trip: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
}

/// By the account of the link.
pub type LeafsByAccount = BTreeMap<String, Leafs>;

#[derive(Deserialize)]
struct Answer {
    data: Option<Leafz>,
}

#[derive(Deserialize)]
struct Leafz {
    #[serde(default)]
    leafs: Option<Vec<Leaf>>,
}

#[derive(Deserialize)]
struct Leaf {
    account: String,
    #[serde(default)]
    rtt: String,
    #[serde(default)]
    in_bytes: i64,
    #[serde(default)]
    out_bytes: i64,
}

impl MeshBroker {
    /// What they said last; absent before they were asked.
    pub fn leafs(&self) -> Option<LeafsByAccount> {
        self.leafs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks them now, and from now on each time that they are asked for their health. True when something is not as it was.
    pub async fn ask_leafs(&self) -> Result<bool, BrokerError> {
        let said = self.hear_leafs().await.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        let mut known = self.leafs.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = known.as_ref() != Some(&said);
        *known = Some(said);
        Ok(changed)
    }

    /// From now on nobody wants to know.
    pub fn forget_leafs(&self) {
        *self.leafs.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn hear_leafs(&self) -> Result<LeafsByAccount, async_nats::Error> {
        let inbox = self.system.new_inbox();
        let mut answers = self.system.subscribe(inbox.clone()).await?;
        self.system.publish_with_reply("$SYS.REQ.SERVER.PING.LEAFZ", inbox, bytes::Bytes::new()).await?;
        let mut all = LeafsByAccount::new();
        while let Ok(Some(message)) = timeout(WINDOW, answers.next()).await {
            if let Ok(Answer { data: Some(said) }) = serde_json::from_slice(&message.payload) {
                add(&mut all, said);
            }
        }
        Ok(all)
    }
}

fn add(all: &mut LeafsByAccount, said: Leafz) {
    for leaf in said.leafs.into_iter().flatten() {
        let link = all.entry(leaf.account).or_default();
        link.connections += 1;
        link.round_trip = link.round_trip.max(milliseconds(&leaf.rtt));
        link.bytes_in += leaf.in_bytes;
        link.bytes_out += leaf.out_bytes;
    }
}

/// A duration in Go's notation in whole milliseconds, at least one: noise is no news.
fn milliseconds(text: &str) -> i64 {
    if text.is_empty() {
        return 0;
    }
    let text = text.replace('µ', "u");
    let duration: Option<std::time::Duration> = text.parse::<kube::core::Duration>().ok().map(Into::into);
    duration.map_or(0, |duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_a_link_count_together() {
        let mut all = LeafsByAccount::new();
        for text in [
            r#"{"leafs": [{"account": "K", "rtt": "1.5ms", "in_bytes": 1, "out_bytes": 2}, {"account": "L"}]}"#,
            r#"{"leafs": [{"account": "K", "rtt": "31.25ms", "in_bytes": 10, "out_bytes": 20}]}"#,
            r#"{"leafs": null}"#,
        ] {
            add(&mut all, serde_json::from_str(text).expect("an answer"));
        }
        assert_eq!(all["K"], Leafs { connections: 2, round_trip: 31, bytes_in: 11, bytes_out: 22 });
        assert_eq!(all["L"], Leafs { connections: 1, ..Leafs::default() });
        assert_eq!((milliseconds("250µs"), milliseconds("1m2s"), milliseconds("")), (1, 62000, 0));
    }
}
