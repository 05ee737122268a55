//! A mesh, the Kafka that all tests of this binary share, and a bridge between them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use eventmesh_tests::kafka::Outside;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{create_consumer, create_stream};
use eventmesh_tests::process::{Accounts, Bridge, Kafka, Nats, Rights};
use eventmesh_tests::wait::eventually;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub use crate::common::{LIMIT, UID, complete, says, start, start_with_clock};

/// What a bridge of these tests may do.
const RIGHTS: Rights = Rights {
    publish: &["in.>", "dead.>", "full.>"],
    consume: &[("OUT", "c")],
    inspect: &["IN", "FULL"],
    reports_as: ("shop", "factory"),
};

static SHARED: OnceCell<Kafka> = OnceCell::const_new();

/// The Kafka of all tests that leave it running. It ends with the process.
pub async fn shared_kafka() -> &'static Kafka {
    SHARED.get_or_init(|| async { Kafka::start(scratch("kafka").unwrap(), "").await.unwrap() }).await
}

/// A Kafka that a test may kill.
pub async fn own_kafka() -> Kafka {
    Kafka::start(scratch("kafka").unwrap(), "").await.unwrap()
}

/// A mesh of its own, with names at Kafka that no other test uses.
pub struct World {
    pub accounts: Accounts,
    pub nats: Nats,
    pub client: async_nats::Client,
    pub outside: Outside,
    pub bootstrap: String,
    /// Before the names of this test's topics and groups.
    pub name: String,
}

impl World {
    pub async fn new() -> Self {
        Self::at(shared_kafka().await).await
    }

    /// Streams `IN` (`in.>`), `OUT` (`out.>`) with the consumer `c`, and `DEAD` (`dead.>`); topics `<name>.in` with three
    /// partitions and `<name>.out` with two.
    pub async fn at(kafka: &Kafka) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("w{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let accounts = Accounts::new(RIGHTS);
        let nats = Nats::verifying(scratch("nats").unwrap(), "2m", "", &accounts).await.unwrap();
        let client = nats.client().await.unwrap();
        create_stream(&client, "IN", &["in.>"], &json!({})).await.unwrap();
        create_stream(&client, "OUT", &["out.>"], &json!({})).await.unwrap();
        create_stream(&client, "DEAD", &["dead.>"], &json!({})).await.unwrap();
        create_consumer(&client, "OUT", "c", 5).await.unwrap();
        let outside = Outside::connect(&kafka.bootstrap()).await.unwrap();
        outside.create_topic(&format!("{name}.in"), 3, &[]).await.unwrap();
        outside.create_topic(&format!("{name}.out"), 2, &[]).await.unwrap();
        Self { accounts, nats, client, outside, bootstrap: kafka.bootstrap(), name }
    }

    pub fn topic(&self, last: &str) -> String {
        format!("{}.{last}", self.name)
    }

    /// A bridge with the inbound route `in` (`<name>.in` → `in.all`) and the outbound route `out` (`out.*` → `<name>.out`).
    pub fn config(&self) -> Value {
        json!({
            "version": 1,
            "bridge": {"namespace": "shop", "name": "factory", "uid": UID},
            "mesh": {"servers": [self.nats.url()], "credentials": self.accounts.bridge().unwrap().as_config()},
            "endpoint": {"kafka": {"bootstrapServers": [self.bootstrap], "group": self.topic("group")}},
            "inbound": [{"name": "in", "from": self.topic("in"), "to": "in.all", "stream": "IN", "ingest": "Atomic"}],
            "outbound": [{"name": "out", "stream": "OUT", "consumer": "c", "subjects": ["out.*"], "to": self.topic("out")}],
            "delivery": {"maxInFlight": 500, "retry": {"initialMs": 50, "maxMs": 500}},
            "reportIntervalSeconds": 1
        })
    }

    /// A started bridge whose routes run.
    pub async fn bridge(&self, config: &Value) -> Bridge {
        let bridge = start(config);
        crate::common::running(&bridge, &["in", "out"]).await;
        bridge
    }

    /// All messages of a stream.
    pub async fn messages(&self, stream: &str) -> Vec<async_nats::jetstream::Message> {
        let context = async_nats::jetstream::new(self.client.clone());
        let mut stream = context.get_stream(stream).await.unwrap();
        let count = usize::try_from(stream.info().await.unwrap().state.messages).unwrap();
        let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
        let consumer = stream.create_consumer(config).await.unwrap();
        let messages = consumer.messages().await.unwrap().take(count).map(Result::unwrap);
        tokio::time::timeout(LIMIT, messages.collect()).await.unwrap()
    }

    /// Waits until a stream holds each of the numbers, and tells how many are there more than once.
    pub async fn holds_all(&self, stream: &str, prefix: &str, count: usize) -> usize {
        eventually("all events stored", LIMIT, async || {
            let mut found: BTreeMap<String, usize> = BTreeMap::new();
            for message in self.messages(stream).await {
                *found.entry(String::from_utf8_lossy(&message.payload).trim_end().to_owned()).or_default() += 1;
            }
            let missing = (0..count).filter(|number| !found.contains_key(&format!("{prefix}{number}"))).count();
            if missing > 0 {
                return Err(format!("{missing} of {count} missing"));
            }
            let twice: Vec<_> = found.iter().filter(|(_, times)| **times > 1).map(|(text, _)| text.clone()).collect();
            if !twice.is_empty() {
                for message in self.messages(stream).await {
                    let text = String::from_utf8_lossy(&message.payload).trim_end().to_owned();
                    if twice.iter().take(3).any(|t| *t == text) {
                        println!("{text} {:?} {:?}", message.info().unwrap().published, message.headers);
                    }
                }
            }
            Ok(Some(found.values().filter(|times| **times > 1).count()))
        })
        .await
        .unwrap()
    }

    /// Waits until the group has committed this many events of the topic `<name>.in`.
    pub async fn committed(&self, count: i64) {
        eventually("committed offsets", LIMIT, async || {
            let offsets = self.outside.committed(&self.topic("group"), &self.topic("in"), 3).await;
            let offsets = offsets.map_err(|error| error.to_string())?;
            let sum: i64 = offsets.iter().flatten().sum();
            if sum == count { Ok(Some(())) } else { Err(format!("{offsets:?}")) }
        })
        .await
        .unwrap();
    }

    pub async fn publish(&self, subject: &str, prefix: &str, numbers: std::ops::Range<usize>) {
        let context = async_nats::jetstream::new(self.client.clone());
        for number in numbers {
            let payload = format!("{prefix}{number}");
            context.publish(subject.to_owned(), payload.into()).await.unwrap().await.unwrap();
        }
    }
}
