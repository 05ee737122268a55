//! Which topics the routes want and what keeps them from being read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use krafka::KrafkaError;
use krafka::admin::ListTopicsOptions;
use krafka::error::ErrorCode;
use tokio::time::Instant;

use super::Source;
use crate::books::Obstacle;
use crate::route::inbound::Inbound;

/// Between two looks at which topics there are: a change of them is a rebalance, so there is no hurry.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_WITHIN: Duration = Duration::from_secs(15);
/// While a topic that a route names is missing.
const LOOK_EVERY_WHILE_MISSING: Duration = Duration::from_secs(2);
/// Errors come between polls that go well; a route is out of trouble when there was none for this long.
const CALM_AFTER: Duration = Duration::from_secs(5);
/// A partition that can be read tells its end sooner.
const SILENCE: Duration = Duration::from_secs(10);

impl Source {
    /// Which topics there are, and which of them the routes want.
    pub(super) async fn look(&mut self) -> krafka::Result<()> {
        self.next_look = Instant::now() + LOOK_EVERY;
        let options = ListTopicsOptions::default().timeout(LOOK_WITHIN);
        let names = self.kafka.admin().list_topics(options).await?;
        let wanted: BTreeSet<String> =
            names.into_iter().filter(|name| self.routes.iter().any(|route| route.map.from().matches(name))).collect();
        for route in self.routes.clone().iter().filter(|route| route.map.from().wildcards() == 0) {
            if wanted.contains(&route.config.from) {
                continue;
            }
            self.next_look = Instant::now() + LOOK_EVERY_WHILE_MISSING;
            let problem = format!(
                "there is no topic `{}` in Kafka, or the bridge's user may not describe it; create it, or allow Describe and Read",
                route.config.from
            );
            self.obstruct(route, problem);
        }
        let known = self.consumer.fetch_metadata(None).await?.topics;
        let ids = known.into_iter().map(|topic| (topic.name, hex(&topic.topic_id))).collect();
        self.begin_anew(ids).await;
        if wanted != self.topics {
            tracing::info!(topics = wanted.len(), "topics of inbound routes");
            if wanted.is_empty() {
                self.consumer.unsubscribe().await?;
            } else {
                self.consumer.subscribe(&wanted).await?;
            }
            self.topics = wanted;
        }
        Ok(())
    }

    /// A topic that was deleted and made anew within one look keeps its partitions assigned, and the places that they had; but
    /// what is stored there now is to be read from its beginning.
    async fn begin_anew(&mut self, ids: BTreeMap<String, String>) {
        let before = std::mem::replace(&mut self.topic_ids, ids);
        let assigned = self.consumer.assignment().await;
        for (topic, partitions) in assigned {
            let made_anew = before.get(&topic).zip(self.topic_ids.get(&topic)).is_some_and(|(old, new)| old != new);
            for partition in partitions.into_iter().filter(|_| made_anew) {
                tracing::warn!(topic, partition, "the topic was made anew; it is read from its beginning");
                self.ledger.forget(&[(Arc::from(topic.as_str()), partition)]);
                // It fails only when the partition was taken away meanwhile.
                let _ = self.consumer.seek_to_beginning(&topic, partition).await;
            }
        }
    }

    /// The client only logs that a broker refuses to be read from. So a partition of which nothing is known, not even its end,
    /// long after it was assigned, is told.
    pub(super) async fn look_for_silence(&mut self) {
        let silent = self.consumer.lag().await.into_iter().filter(|(_, lag)| lag.high_watermark.is_none());
        let silent: BTreeSet<String> = silent.map(|(place, _)| place.topic).collect();
        self.silent.retain(|topic, _| silent.contains(topic));
        if self.paused {
            return;
        }
        for topic in silent {
            let since = *self.silent.entry(topic.clone()).or_insert_with(Instant::now);
            let route = self.routes.iter().find(|route| route.map.from().matches(&topic)).cloned();
            let Some(route) = route.filter(|_| since.elapsed() > SILENCE) else { continue };
            self.troubled = Some(Instant::now());
            let problem = format!(
                "Kafka gives nothing of topic `{topic}`; allow the bridge's user Read on it, and check that its partitions have a leader"
            );
            self.obstruct(&route, problem);
        }
    }

    /// Tells the routes what keeps them from reading. That Kafka is away is told by the link.
    pub(super) fn tell(&mut self, error: &KrafkaError) {
        let group = &self.settings.endpoint.group;
        let problem = match error {
            KrafkaError::Network(_) | KrafkaError::Timeout { .. } => return,
            KrafkaError::Broker { code: ErrorCode::GroupAuthorizationFailed, .. } => {
                format!("Kafka does not let the bridge into the group `{group}`; allow its user Read on the group")
            }
            KrafkaError::Broker { code: ErrorCode::TopicAuthorizationFailed, message } => {
                format!(
                    "Kafka does not let the bridge read a topic ({message}); allow its user Read and Describe on it"
                )
            }
            KrafkaError::Broker { code: ErrorCode::InconsistentGroupProtocol, .. } => {
                format!(
                    "others in the group `{group}` share partitions in another way; give the bridge a group of its own"
                )
            }
            other => format!("reading from Kafka: {other}"),
        };
        self.troubled = Some(Instant::now());
        for route in self.routes.clone() {
            self.obstruct(&route, problem.clone());
        }
    }

    fn obstruct(&mut self, route: &Arc<Inbound>, problem: String) {
        route.books.obstructed(Obstacle::Failed, problem);
        self.obstructed.insert(route.config.name.clone());
    }

    /// Nothing keeps the routes from reading, but for topics that are missing.
    pub(super) fn clear(&mut self) {
        if self.obstructed.is_empty() {
            return;
        }
        for route in &self.routes {
            let there = route.map.from().wildcards() > 0 || self.topics.contains(&route.config.from);
            if there && self.obstructed.remove(&route.config.name) {
                route.books.clear();
            }
        }
    }
    /// Nothing went wrong for a while.
    pub(super) fn is_calm(&self) -> bool {
        self.troubled.is_none_or(|troubled| troubled.elapsed() > CALM_AFTER)
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
