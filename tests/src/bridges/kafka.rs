//! Kafka as far side: a real one.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use eventmesh_wire::report::Direction;
use krafka::Record;
use krafka::consumer::{AutoOffsetReset, Consumer};
use serde_json::{Value, json};

use super::{FarSide, Identity, Receive, Send};
use crate::kafka::Outside;
use crate::paths::scratch;
use crate::process::Kafka;

const PARTITIONS: i32 = 6;

/// One broker, with a topic for either direction.
pub struct KafkaTopics(Kafka);

/// Reads a topic from its beginning.
pub struct Reader {
    consumer: Consumer,
    waiting: VecDeque<Vec<u8>>,
}

impl KafkaTopics {
    pub async fn start() -> Result<Self> {
        let kafka = Kafka::start(scratch("kafka")?, "").await?;
        let outside = Outside::connect(&kafka.bootstrap()).await?;
        outside.create_topic("in", PARTITIONS, &[]).await?;
        outside.create_topic("out", PARTITIONS, &[]).await?;
        Ok(Self(kafka))
    }
}

impl FarSide for KafkaTopics {
    type Sender = Outside;
    type Receiver = Reader;

    fn name(&self) -> String {
        "kafka".to_owned()
    }

    fn endpoint(&self, _: Direction) -> Result<Value> {
        Ok(json!({"kafka": {"bootstrapServers": [self.0.bootstrap()], "group": "trial"}}))
    }

    fn inbound(&self) -> Value {
        json!({"from": "in", "to": "in.x"})
    }

    fn outbound(&self) -> Value {
        json!({"to": "out", "key": "{1}"})
    }

    fn identity(&self) -> Identity {
        Identity::Place
    }

    async fn sender(&self) -> Result<Outside> {
        Outside::connect(&self.0.bootstrap()).await
    }

    async fn receiver(&mut self) -> Result<Reader> {
        let kafka = krafka::Kafka::builder(self.0.bootstrap()).client_id("reader").connect().await?;
        let consumer = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest).build().await?;
        consumer.subscribe(["out"]).await?;
        Ok(Reader { consumer, waiting: VecDeque::new() })
    }

    async fn restart(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.start_again().await
    }
}

impl Send for Outside {
    async fn send(&self, _: &str, lane: u32, payload: Vec<u8>) -> bool {
        Outside::send(self, Record::new("in", payload).key(format!("k{lane}"))).await.is_ok()
    }
}

impl Receive for Reader {
    async fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(payload) = self.waiting.pop_front() {
                return Some(payload);
            }
            match self.consumer.poll(Duration::from_millis(500)).await {
                Ok(records) => {
                    self.waiting.extend(records.into_iter().filter_map(|record| Some(record.value?.to_vec())));
                }
                // The broker is away.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}
