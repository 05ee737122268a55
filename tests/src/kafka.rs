//! Events into and out of a Kafka outside, for tests and benchmarks: what is written is confirmed, what is read is all there is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::stream::{FuturesUnordered, StreamExt as _};
use krafka::admin::{AdminClient, CreateTopicsOptions, DeleteTopicsOptions, NewTopic};
use krafka::consumer::{AutoOffsetReset, ConsumerRecord};
use krafka::producer::Producer;
use krafka::{Kafka, Record};
use tokio::time::{Instant, timeout};

/// Events that may be on their way to Kafka at once.
const WINDOW: usize = 1000;
const LIMIT: Duration = Duration::from_mins(1);

/// A client outside of the mesh.
pub struct Outside {
    kafka: Kafka,
    producer: Producer,
}

impl Outside {
    /// Without TLS and without credentials.
    pub async fn connect(bootstrap: &str) -> Result<Self> {
        let kafka = Kafka::builder(bootstrap).client_id("outside").connect().await?;
        let producer = kafka.producer().linger(Duration::from_millis(2)).build().await?;
        Ok(Self { kafka, producer })
    }

    #[must_use]
    pub fn admin(&self) -> AdminClient {
        self.kafka.admin()
    }

    /// Returns when the topic can be written to.
    pub async fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut topic = NewTopic::new(name, partitions, 1)?;
        topic.configs = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut made = self.admin().create_topics([topic], CreateTopicsOptions::default()).await?;
        made.remove(name).context("no word about the topic")??;
        self.producer.partitions_for(name).await?;
        Ok(())
    }

    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let mut deleted = self.admin().delete_topics([name], DeleteTopicsOptions::default()).await?;
        Ok(deleted.remove(name).context("no word about the topic")??)
    }

    /// Writes one event, and returns when Kafka has confirmed it.
    pub async fn send(&self, record: Record) -> Result<()> {
        let _ = self.producer.send(record).await?;
        Ok(())
    }

    /// Writes one event for each number: its value begins with `<prefix><number>` and is filled up with blanks to `size`
    /// bytes, its key is one of ten. Returns when Kafka has confirmed all.
    pub async fn produce(&self, topic: &str, prefix: &str, numbers: Range<usize>, size: usize) -> Result<()> {
        let mut unconfirmed = FuturesUnordered::new();
        for number in numbers {
            if unconfirmed.len() >= WINDOW {
                let _ = unconfirmed.next().await.context("nothing to wait for")??;
            }
            let value = format!("{:size$}", format!("{prefix}{number}"));
            let record = Record::new(topic, value).key(format!("k{}", number % 10));
            unconfirmed.push(self.producer.enqueue(record).await?);
        }
        while let Some(confirmed) = unconfirmed.next().await {
            let _ = confirmed?;
        }
        Ok(())
    }

    /// Reads a topic from its beginning until `enough` says so of what was read; in the order of each partition.
    pub async fn collect(
        &self,
        topic: &str,
        mut enough: impl FnMut(&[ConsumerRecord]) -> bool,
    ) -> Result<Vec<ConsumerRecord>> {
        let reader = self.kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest).build().await?;
        reader.subscribe([topic]).await?;
        let mut records = Vec::new();
        let begun = Instant::now();
        while !enough(&records) {
            if begun.elapsed() > LIMIT {
                bail!("only {} events in {topic} after {} s", records.len(), LIMIT.as_secs());
            }
            records.extend(reader.poll(Duration::from_millis(500)).await?);
        }
        timeout(LIMIT, reader.close()).await??;
        Ok(records)
    }

    /// Reads a topic until each of the numbers was there (as [`Outside::produce`] writes them), and tells how many came more
    /// than once.
    pub async fn receives_all(&self, topic: &str, prefix: &str, count: usize) -> Result<usize> {
        let mut found: BTreeMap<usize, usize> = BTreeMap::new();
        let mut seen = 0;
        self.collect(topic, |records| {
            for record in &records[seen..] {
                if let Some(number) = number(record, prefix) {
                    *found.entry(number).or_default() += 1;
                }
            }
            seen = records.len();
            (0..count).all(|number| found.contains_key(&number))
        })
        .await?;
        Ok(found.values().filter(|times| **times > 1).count())
    }

    /// What a group has committed, by partition of a topic; absent where it has not.
    pub async fn committed(&self, group: &str, topic: &str, partitions: i32) -> Result<Vec<Option<i64>>> {
        let reader = self.kafka.consumer(group).enable_auto_commit(false).build().await?;
        let wanted: Vec<(&str, i32)> = (0..partitions).map(|partition| (topic, partition)).collect();
        let found = reader.committed(&wanted).await?;
        let offset = |partition| found.get(&(topic.to_owned(), partition)).map(|position| position.offset);
        Ok((0..partitions).map(offset).collect())
    }
}

/// The number of an event that [`Outside::produce`] wrote with this prefix.
#[must_use]
pub fn number(record: &ConsumerRecord, prefix: &str) -> Option<usize> {
    record.value_str()?.trim_end().strip_prefix(prefix)?.parse().ok()
}
