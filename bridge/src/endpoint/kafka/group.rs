//! Partitions that come and go: what a member of the group does before it gives one up, and where it begins in a new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use eventmesh_wire::config::{KafkaEndpoint, StartFrom};
use krafka::Kafka;
use krafka::admin::{DescribeFeaturesOptions, ListConsumerGroupOffsetsOptions};
use krafka::consumer::{Consumer, ConsumerRebalanceListener, GroupProtocol, TopicPartition};
use tokio_util::sync::CancellationToken;

use super::ledger::{Key, Ledger};
use super::source::commit;

/// How long a partition that is to be given up may wait for its events. All members of the group wait with it.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Listener {
    ledger: Arc<Ledger>,
    consumer: OnceLock<Weak<Consumer>>,
    /// The group is new, and its first partitions are to be read from their ends.
    from_the_end: AtomicBool,
    stop: CancellationToken,
}

impl Listener {
    pub fn new(ledger: Arc<Ledger>, stop: CancellationToken) -> Self {
        Self { ledger, consumer: OnceLock::new(), from_the_end: AtomicBool::new(false), stop }
    }

    /// Before the group is joined.
    ///
    /// # Errors
    /// When Kafka does not tell what the group has committed.
    pub async fn begin(&self, kafka: &Kafka, consumer: &Arc<Consumer>, endpoint: &KafkaEndpoint) -> krafka::Result<()> {
        let _ = self.consumer.set(Arc::downgrade(consumer));
        if endpoint.start_from == StartFrom::Latest {
            let options = ListConsumerGroupOffsetsOptions::default();
            let committed = kafka.admin().list_consumer_group_offsets(&endpoint.group, options).await?;
            self.from_the_end.store(committed.is_empty(), Ordering::Release);
        }
        Ok(())
    }

    fn consumer(&self) -> Option<Arc<Consumer>> {
        self.consumer.get()?.upgrade()
    }

    /// Commits the ends of partitions, so that they stay where the group began, whatever happens before the first event.
    async fn begin_at_end(&self, consumer: &Consumer, partitions: &[TopicPartition]) -> krafka::Result<()> {
        let mut ends = Vec::new();
        for place in partitions {
            let (topic, partition) = (place.topic(), place.partition());
            consumer.seek_to_end(topic, partition).await?;
            if let Some(end) = consumer.position(topic, partition).await {
                ends.push(((Arc::from(topic), partition), end));
            }
        }
        commit(consumer, &ends).await
    }
}

/// Kafka 4 shares partitions itself, and moves one without stopping the others (KIP-848); older ones leave it to the members.
///
/// # Errors
/// When the cluster does not tell what it can do.
pub async fn protocol(kafka: &Kafka) -> krafka::Result<GroupProtocol> {
    let features = kafka.admin().describe_features(DescribeFeaturesOptions::default()).await?;
    let newer =
        features.finalized.iter().any(|feature| feature.name == "group.version" && feature.max_version_level >= 1);
    Ok(if newer { GroupProtocol::Consumer } else { GroupProtocol::Classic })
}

fn keys(partitions: &[TopicPartition]) -> Vec<Key> {
    partitions.iter().map(|place| (Arc::from(place.topic()), place.partition())).collect()
}

impl ConsumerRebalanceListener for Listener {
    async fn on_partitions_assigned(&self, partitions: &[TopicPartition]) {
        tracing::info!(partitions = partitions.len(), "partitions assigned");
        // Whatever there was of them is of an earlier time.
        self.ledger.forget(&keys(partitions));
        if partitions.is_empty() || !self.from_the_end.load(Ordering::Acquire) {
            return;
        }
        let Some(consumer) = self.consumer() else { return };
        match self.begin_at_end(&consumer, partitions).await {
            Ok(()) => self.from_the_end.store(false, Ordering::Release),
            Err(error) => tracing::warn!(%error, "the group begins with what is stored: its ends could not be kept"),
        }
    }

    async fn on_partitions_revoked(&self, partitions: &[TopicPartition]) {
        let keys = keys(partitions);
        tokio::select! {
            () = self.ledger.settled(&keys) => {},
            () = tokio::time::sleep(PATIENCE) => {},
            () = self.stop.cancelled() => {},
        }
        let mut offsets = self.ledger.uncommitted();
        offsets.retain(|(key, _)| keys.contains(key));
        // From here on the receipts of these partitions change nothing.
        self.ledger.forget(&keys);
        if let Some(consumer) = self.consumer()
            && let Err(error) = commit(&consumer, &offsets).await
        {
            tracing::warn!(%error, "what was done of revoked partitions is not committed; it comes again");
        }
        tracing::info!(partitions = partitions.len(), committed = offsets.len(), "partitions given up");
    }

    async fn on_partitions_lost(&self, partitions: &[TopicPartition]) {
        tracing::warn!(partitions = partitions.len(), "partitions lost");
        self.ledger.forget(&keys(partitions));
    }
}
