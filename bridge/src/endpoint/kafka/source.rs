//! Events from Kafka: one member of a consumer group reads the topics that the routes want, and commits what the mesh has.

mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::{Guarantee, KafkaEndpoint};
use krafka::consumer::{AutoOffsetReset, Consumer, OffsetAndMetadata, PartitionAssignmentStrategy, TopicPartition};
use krafka::{ConsumerRecord, Kafka, KrafkaError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::{self, Listener};
use super::headers;
use super::ledger::{Entered, Key, Ledger};
use crate::backoff::Backoff;
use crate::event::{Acknowledge, Receipt};
use crate::mesh::Mesh;
use crate::route::inbound::{Inbound, Incoming};

/// How long one poll may wait; what else there is to do is done in between.
const POLL: Duration = Duration::from_millis(500);
/// Between two commits. A bridge that is killed reads again what it had not committed; the mesh knows it by its identity.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Events that are given back are not read again sooner.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// A bridge that was killed leaves its partitions to others, or to its next life, after this. In a group of the newer protocol
/// the broker says how long (group.consumer.session.timeout.ms).
const SESSION: Duration = Duration::from_secs(10);
/// Events that one poll hands out at most.
const BATCH: usize = 500;
/// Bytes of one answer of a broker, and of one partition in it; larger events come all the same, alone.
const FETCH_BYTES: i32 = 1 << 20;
const FETCH_PARTITION_BYTES: i32 = 256 << 10;

/// What the source of a link needs.
pub struct Settings {
    pub endpoint: KafkaEndpoint,
    pub cluster: String,
    pub guarantee: Guarantee,
    pub window: usize,
    pub mesh: Mesh,
    pub routes: watch::Receiver<Vec<Arc<Inbound>>>,
    /// Take nothing more in.
    pub drained: CancellationToken,
    pub stop: CancellationToken,
}

pub struct Source {
    settings: Settings,
    kafka: Kafka,
    consumer: Arc<Consumer>,
    ledger: Arc<Ledger>,
    routes: Vec<Arc<Inbound>>,
    topics: BTreeSet<String>,
    /// Names that stay when a topic is deleted and made anew do not identify its events; these do.
    topic_ids: BTreeMap<String, String>,
    /// Inbound routes that this source has told to be in trouble.
    obstructed: BTreeSet<String>,
    troubled: Option<Instant>,
    /// Topics of which nothing is known, and since when.
    silent: BTreeMap<String, Instant>,
    paused: bool,
    next_look: Instant,
    next_commit: Instant,
    next_seek: Instant,
}

impl Source {
    /// # Errors
    /// When the settings are none that the client can work with.
    pub async fn new(kafka: &Kafka, settings: Settings) -> krafka::Result<Self> {
        let ledger = Arc::new(Ledger::new());
        let listener = Arc::new(Listener::new(Arc::clone(&ledger), settings.stop.clone()));
        let batch = batch(settings.window);
        let consumer = kafka
            .consumer(&settings.endpoint.group)
            .enable_auto_commit(false)
            // Where a new group begins is decided when partitions are assigned; besides that, nothing is skipped that is there.
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .group_protocol(group::protocol(kafka).await?)
            .partition_assignment_strategies([PartitionAssignmentStrategy::CooperativeSticky])
            .session_timeout(SESSION)
            .heartbeat_interval(SESSION / 4)
            .max_poll_records(i32::try_from(batch).unwrap_or(i32::MAX))
            .max_buffered_records(i32::try_from(batch).unwrap_or(i32::MAX))
            .fetch_max_bytes(FETCH_BYTES)
            .max_partition_fetch_bytes(FETCH_PARTITION_BYTES)
            .metrics_push(false)
            .rebalance_listener(Arc::clone(&listener))
            .build()
            .await?;
        let consumer = Arc::new(consumer);
        listener.begin(kafka, &consumer, &settings.endpoint).await?;
        let wake = Arc::downgrade(&consumer);
        ledger.set_wake(move || {
            if let Some(consumer) = wake.upgrade() {
                consumer.wakeup();
            }
        });
        let routes = settings.routes.borrow().clone();
        let now = Instant::now();
        Ok(Self {
            settings,
            kafka: kafka.clone(),
            consumer,
            ledger,
            routes,
            topics: BTreeSet::new(),
            topic_ids: BTreeMap::new(),
            obstructed: BTreeSet::new(),
            troubled: None,
            silent: BTreeMap::new(),
            paused: false,
            next_look: now,
            next_commit: now + COMMIT_EVERY,
            next_seek: now,
        })
    }

    /// Reads until it is told to stop.
    ///
    /// # Errors
    /// When the client can not go on.
    pub async fn run(mut self) -> krafka::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let ended = loop {
            if self.settings.stop.is_cancelled() {
                break Ok(());
            }
            match self.turn().await {
                Ok(()) => backoff.reset(),
                Err(error) if error.is_fatal() => break Err(error),
                Err(error) => {
                    self.tell(&error);
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_wait()) => {},
                        () = self.settings.stop.cancelled() => {},
                    }
                }
            }
        };
        // Its listener commits what is settled.
        let _ = self.consumer.close().await;
        self.clear();
        ended
    }

    /// What is due, and then one poll. The poll is not cancelled from outside: partitions may change hands within it.
    async fn turn(&mut self) -> krafka::Result<()> {
        if self.settings.routes.has_changed().unwrap_or(false) {
            self.routes.clone_from(&self.settings.routes.borrow_and_update());
            self.next_look = Instant::now();
        }
        if Instant::now() >= self.next_look {
            self.look().await?;
        }
        if Instant::now() >= self.next_commit {
            self.next_commit = Instant::now() + COMMIT_EVERY;
            self.commit().await?;
            self.look_for_silence().await;
        }
        if Instant::now() >= self.next_seek {
            self.read_again().await;
        }
        self.control_flow().await;
        if self.topics.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {},
                () = self.settings.stop.cancelled() => {},
            }
            return Ok(());
        }
        let records = match self.consumer.poll(POLL).await {
            Ok(records) => records,
            Err(KrafkaError::Wakeup) => Vec::new(),
            Err(error) => return Err(error),
        };
        if self.is_calm() {
            self.clear();
        }
        if !records.is_empty() {
            self.take(records).await?;
        }
        // What is buffered comes without any waiting, and others have to work too.
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn commit(&self) -> krafka::Result<()> {
        let offsets = self.ledger.uncommitted();
        match commit(&self.consumer, &offsets).await {
            // The group is changing hands; what is not committed now is committed then.
            Err(KrafkaError::Broker { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.ledger.committed(&offsets);
                Ok(())
            }
        }
    }

    /// Goes back to the events that were given back.
    async fn read_again(&mut self) {
        let places = self.ledger.to_read_again();
        if places.is_empty() {
            return;
        }
        self.next_seek = Instant::now() + READ_AGAIN_AFTER;
        for ((topic, partition), offset) in places {
            // A partition that is no longer assigned is read from its committed place by whoever has it.
            let _ = self.consumer.seek(&topic, partition, offset).await;
        }
    }

    /// Pauses while as many events are on their way as may be, so that one more poll stays within.
    async fn control_flow(&mut self) {
        let room = self.settings.window.saturating_sub(batch(self.settings.window));
        let full = self.ledger.open() > room || self.settings.drained.is_cancelled();
        if full {
            // Each time: a partition that came meanwhile is not paused.
            for (topic, partitions) in self.consumer.assignment().await {
                self.consumer.pause(&topic, &partitions).await;
            }
            self.ledger.wake_at(room);
        } else if self.paused {
            for (topic, partitions) in self.consumer.assignment().await {
                self.consumer.resume(&topic, &partitions).await;
            }
        }
        self.paused = full;
    }

    async fn take(&mut self, records: Vec<ConsumerRecord>) -> krafka::Result<()> {
        if self.settings.guarantee == Guarantee::AtMostOnce {
            self.acknowledge_first(&records).await?;
        }
        for record in records {
            self.accept(record).await?;
        }
        Ok(())
    }

    /// Commits events before they are passed on; when that fails they are read again, as none of them was passed on.
    async fn acknowledge_first(&self, records: &[ConsumerRecord]) -> krafka::Result<()> {
        let (mut first, mut after) = (BTreeMap::new(), BTreeMap::new());
        for record in records {
            let key: Key = (Arc::clone(&record.topic), record.partition);
            first.entry(key.clone()).or_insert(record.offset);
            after.insert(key, record.offset + 1);
        }
        let committed = commit(&self.consumer, &after.into_iter().collect::<Vec<_>>()).await;
        if committed.is_err() {
            for ((topic, partition), offset) in first {
                let _ = self.consumer.seek(&topic, partition, offset).await;
            }
        }
        committed
    }

    async fn accept(&mut self, record: ConsumerRecord) -> krafka::Result<()> {
        let route = self.routes.iter().find(|route| route.map.from().matches(&record.topic)).cloned();
        let acknowledge: Box<dyn Acknowledge> = if self.settings.guarantee == Guarantee::AtMostOnce {
            Box::new(Forgotten)
        } else {
            let key: Key = (Arc::clone(&record.topic), record.partition);
            let mut entered = self.ledger.enter(&key, record.offset);
            if matches!(entered, Entered::MadeAnew) {
                tracing::warn!(topic = &*record.topic, record.partition, "the partition was made anew");
                self.look().await?;
                entered = self.ledger.enter(&key, record.offset);
            }
            match entered {
                Entered::New(slot) => Box::new(slot),
                Entered::Known | Entered::MadeAnew => return Ok(()),
            }
        };
        let Some(route) = route else {
            // Its route was taken away, and the partition soon will be; until then the event waits in Kafka.
            let mut acknowledge = acknowledge;
            acknowledge.give_back();
            return Ok(());
        };
        let receipt = Receipt::new(&route.books, acknowledge, self.settings.guarantee);
        let event = Incoming {
            address: &record.topic,
            headers: headers::to_mesh(&record),
            identity: Some(self.identity(&record)),
            payload: record.value.clone().unwrap_or_default(),
        };
        route.accept(event, receipt, &self.settings.mesh);
        Ok(())
    }

    /// Cluster, topic, partition and offset. The topic by its id, where Kafka gives it one: offsets of a topic that was
    /// deleted and made anew begin again, and its events are others.
    fn identity(&self, record: &ConsumerRecord) -> String {
        let topic = self.topic_ids.get(&*record.topic).filter(|id| id.bytes().any(|digit| digit != b'0'));
        let topic = topic.map_or(&*record.topic, String::as_str);
        format!("{}/{topic}/{}/{}", self.settings.cluster, record.partition, record.offset)
    }
}

/// Commits the offsets of partitions.
///
/// # Errors
/// What Kafka says; then they may or may not be committed.
pub(super) async fn commit(consumer: &Consumer, offsets: &[(Key, i64)]) -> krafka::Result<()> {
    if offsets.is_empty() {
        return Ok(());
    }
    let place = |((topic, partition), offset): &(Key, i64)| {
        (TopicPartition::new(&**topic, *partition), OffsetAndMetadata::new(*offset))
    };
    consumer.commit_offsets(offsets.iter().map(place)).await
}

/// Events of one poll: a quarter of the window, so that there is room for the next while these are on their way.
fn batch(window: usize) -> usize {
    (window / 4).clamp(1, BATCH)
}

/// The source has forgotten the event already.
struct Forgotten;

impl Acknowledge for Forgotten {
    fn confirm(&mut self) {}

    fn give_back(&mut self) {}
}
