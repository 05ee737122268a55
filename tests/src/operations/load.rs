//! A publisher that goes on whatever happens, at a steady rate, with the retries of an ordinary client. It notes what was
//! acknowledged, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_nats::{
    ConnectOptions, HeaderMap,
    jetstream::{
        Context as JetStream,
        consumer::{
            DeliverPolicy,
            pull::{Ordered, OrderedConfig},
        },
    },
};
use futures::StreamExt;
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::broker::Broker;

/// Ticks a second.
const TICKS: u64 = 100;
/// When a client stops waiting for an acknowledgement and sends again.
const ACKNOWLEDGED: Duration = Duration::from_secs(3);
/// Before it does so after an error.
const AGAIN: Duration = Duration::from_millis(100);
/// Events that wait for their acknowledgement at most: so few that a slow machine acknowledges them before they are sent
/// again.
const WINDOW: usize = 1_000;
/// How long an event takes at most to be read again from a stream that works.
const READ: Duration = Duration::from_secs(30);

/// The publisher; it ends with its value.
pub struct Load {
    broker: Broker,
    stream: String,
    notes: Arc<Mutex<Notes>>,
    task: JoinHandle<()>,
}

struct Notes {
    next: u64,
    /// Of the events since the mark.
    acknowledged: BTreeSet<u64>,
    mark: u64,
    last: Instant,
    longest: Duration,
}

/// Where an operation has begun.
pub struct Mark {
    /// The last event that was stored before.
    sequence: u64,
}

/// What became of the events of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    pub acknowledged: usize,
    pub lost: usize,
    pub duplicated: usize,
    /// The longest time in which nothing was acknowledged.
    pub gap: Duration,
}

/// What a publisher sets that does not want to wait for long on a broker that is gone.
pub fn options(options: ConnectOptions) -> ConnectOptions {
    options.ping_interval(Duration::from_secs(1)).connection_timeout(Duration::from_secs(2))
}

impl Load {
    /// `rate`: events a second.
    #[must_use]
    pub fn start(broker: &Broker, subject: &str, stream: &str, rate: u64) -> Self {
        let notes =
            Notes { next: 0, acknowledged: BTreeSet::new(), mark: 0, last: Instant::now(), longest: Duration::ZERO };
        let notes = Arc::new(Mutex::new(notes));
        let mut jetstream = broker.jetstream.clone();
        jetstream.set_timeout(ACKNOWLEDGED);
        let task = tokio::spawn(publish(jetstream, subject.to_owned(), rate, notes.clone()));
        Self { broker: broker.clone(), stream: stream.to_owned(), notes, task }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    /// Begins to count anew.
    pub async fn mark(&self) -> Result<Mark> {
        let sequence = self.last_sequence().await?;
        let mut notes = self.notes();
        notes.acknowledged.clear();
        notes.mark = notes.next;
        notes.longest = Duration::ZERO;
        notes.last = Instant::now();
        Ok(Mark { sequence })
    }

    /// Events that were acknowledged since the mark.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.notes().acknowledged.len()
    }

    /// How long nothing has been acknowledged.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.notes().last.elapsed()
    }

    /// What has become of the events since the mark.
    pub async fn account(&self, since: &Mark) -> Result<Account> {
        let (acknowledged, gap) = {
            let notes = self.notes();
            (notes.acknowledged.clone(), notes.longest.max(notes.last.elapsed()))
        };
        let stored = self.stored(since.sequence + 1).await?;
        let lost = acknowledged.iter().filter(|number| !stored.contains_key(number)).count();
        let duplicated = stored.values().map(|times| times - 1).sum();
        Ok(Account { acknowledged: acknowledged.len(), lost, duplicated, gap })
    }

    /// Numbers of the events from this place of the stream on, and how often each is stored.
    async fn stored(&self, from: u64) -> Result<BTreeMap<u64, usize>> {
        let last = self.last_sequence().await?;
        let mut stored = BTreeMap::new();
        let mut at = from;
        // A consumer that breaks off goes on where it was.
        while at <= last {
            let mut messages = crate::wait::eventually("consumer of the stream", READ, async || {
                self.reader(at).await.map(Some).map_err(|error| format!("{error:#}"))
            })
            .await?;
            while at <= last {
                let message = timeout(READ, messages.next()).await.context("the stream hands nothing out")?;
                let Some(Ok(message)) = message else { break };
                let Ok(info) = message.info() else { break };
                at = info.stream_sequence + 1;
                let number = std::str::from_utf8(&message.payload)?.trim_start().parse()?;
                *stored.entry(number).or_default() += 1;
            }
        }
        Ok(stored)
    }

    /// Fails while nobody leads the stream.
    async fn reader(&self, from: u64) -> Result<Ordered> {
        let stream = self.broker.jetstream.get_stream(&self.stream).await?;
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: from };
        let consumer = stream.create_consumer(OrderedConfig { deliver_policy, ..OrderedConfig::default() }).await?;
        Ok(consumer.messages().await?)
    }

    async fn last_sequence(&self) -> Result<u64> {
        let info = crate::wait::eventually("the stream", READ, async || {
            self.broker.stream(&self.stream).await.map_err(|error| format!("{error:#}"))
        });
        info.await?["state"]["last_seq"].as_u64().context("a sequence")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Notes {
    fn acknowledged(&mut self, number: u64) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
        if number >= self.mark {
            self.acknowledged.insert(number);
        }
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn publish(jetstream: JetStream, subject: String, rate: u64, notes: Arc<Mutex<Notes>>) {
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut ticks = interval(Duration::from_millis(1_000 / TICKS));
    // What a slow moment has kept back is sent then: the rate is kept.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let each_tick = rate / TICKS;
    // Tasks end with this one.
    let mut events = tokio::task::JoinSet::new();
    loop {
        ticks.tick().await;
        while events.try_join_next().is_some() {}
        for _ in 0..each_tick {
            let Ok(place) = window.clone().acquire_owned().await else { return };
            let (jetstream, subject, notes) = (jetstream.clone(), subject.clone(), notes.clone());
            let number = {
                let mut notes = lock(&notes);
                notes.next += 1;
                notes.next - 1
            };
            events.spawn(async move {
                surely(&jetstream, &subject, number).await;
                lock(&notes).acknowledged(number);
                drop(place);
            });
        }
    }
}

/// Publishes until it is acknowledged; the number keeps a second try from being stored twice.
async fn surely(jetstream: &JetStream, subject: &str, number: u64) {
    loop {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", number.to_string());
        let payload = format!("{number:>120}");
        if let Ok(sent) = jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await
            && sent.await.is_ok()
        {
            return;
        }
        sleep(AGAIN).await;
    }
}
