//! Kafka as far side: a real one, and `krafka` alone.

use std::time::{Duration, Instant};

use anyhow::Result;
use eventmesh_wire::report::Direction;
use krafka::producer::Acks;
use krafka::{Record, consumer::AutoOffsetReset};
use serde_json::{Value, json};

use super::{Arrivals, Far, Feed, WINDOW, send_window};
use crate::kafka::Outside;
use crate::paths::scratch;
use crate::process::Kafka;

const PARTITIONS: i32 = 4;
/// As often as the bridge commits.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// One node with a topic for either direction.
pub struct KafkaTopics(Kafka);

impl KafkaTopics {
    pub async fn start() -> Result<Self> {
        let kafka = Kafka::start(scratch("kafka")?, "").await?;
        let outside = Outside::connect(&kafka.bootstrap()).await?;
        for direction in [Direction::Inbound, Direction::Outbound] {
            outside.create_topic(topic(direction), PARTITIONS, &[]).await?;
        }
        Ok(Self(kafka))
    }

    async fn connect(&self) -> Result<krafka::Kafka> {
        Ok(krafka::Kafka::builder(self.0.bootstrap()).client_id("alone").connect().await?)
    }
}

fn topic(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in.x",
        Direction::Outbound => "out.x",
    }
}

impl Far for KafkaTopics {
    fn endpoint(&self, _: Direction) -> Value {
        json!({"kafka": {"bootstrapServers": [self.0.bootstrap()], "group": "bridge"}})
    }

    fn address(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Inbound => "in.*",
            Direction::Outbound => topic(direction),
        }
    }

    /// Idempotent and by all replicas, with a key for each lane, as the bridge does it.
    async fn send(&self, direction: Direction, feed: &Feed<'_>) -> Result<()> {
        let kafka = self.connect().await?;
        let producer = kafka
            .producer()
            .acks(Acks::All)
            .idempotent(true)
            .linger(Duration::from_millis(2))
            .buffer_memory(8 << 20)
            .metrics_push(false)
            .build()
            .await?;
        let sending = send_window(feed, WINDOW, async |event| {
            let record = Record::new(topic(direction), event.payload).key(format!("out.{}", event.lane));
            let handle = producer.enqueue(record).await?;
            Ok(async move { Ok(handle.await.map(drop)?) })
        });
        sending.await
    }

    async fn receive(&self, direction: Direction, arrivals: &mut Arrivals<'_>) -> Result<()> {
        let kafka = self.connect().await?;
        let consumer = kafka
            .consumer("alone")
            .enable_auto_commit(false)
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .max_poll_records(i32::try_from(WINDOW)?)
            .metrics_push(false)
            .build()
            .await?;
        consumer.subscribe([topic(direction)]).await?;
        let mut committed = Instant::now();
        loop {
            let records = consumer.poll(Duration::from_millis(500)).await?;
            let mut done = false;
            for record in records {
                done |= arrivals.arrived(&record.value.unwrap_or_default());
            }
            if done || committed.elapsed() >= COMMIT_EVERY {
                consumer.commit().await?;
                committed = Instant::now();
            }
            if done {
                // Who leaves without a word is waited for by the next one.
                return Ok(consumer.close().await?);
            }
        }
    }
}
