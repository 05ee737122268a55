//! What the tests of both versions of AMQP share: a mesh, and a connection to a broker that breaks when it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{create_consumer, create_stream};
use eventmesh_tests::process::{Accounts, Nats, Rights};
use eventmesh_tests::wait::eventually;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{LIMIT, UID};

const RIGHTS: Rights = Rights {
    publish: &["in.>", "dead.>"],
    consume: &[("OUT", "c"), ("OUT", "d")],
    inspect: &["IN"],
    reports_as: ("shop", "factory"),
};

/// A mesh with the streams `IN` (`in.>`), `DEAD` (`dead.>`) and `OUT` (`out.>`), which the consumers `c` and `d` read.
pub struct Mesh {
    pub accounts: Accounts,
    pub nats: Nats,
    pub client: async_nats::Client,
}

impl Mesh {
    pub async fn new() -> Self {
        let accounts = Accounts::new(RIGHTS);
        let nats = Nats::verifying(scratch("nats").unwrap(), "2m", "", &accounts).await.unwrap();
        let client = nats.client().await.unwrap();
        create_stream(&client, "IN", &["in.>"], &json!({})).await.unwrap();
        create_stream(&client, "OUT", &["out.>"], &json!({})).await.unwrap();
        create_stream(&client, "DEAD", &["dead.>"], &json!({})).await.unwrap();
        for consumer in ["c", "d"] {
            create_consumer(&client, "OUT", consumer, 5).await.unwrap();
        }
        Self { accounts, nats, client }
    }

    /// After it was killed. The client is another one: the old one tries again when its pause is over, which is longer than a request
    /// may take.
    pub async fn comes_back(&mut self) {
        self.nats.start_again().await.unwrap();
        self.client = self.nats.client().await.unwrap();
    }

    /// A bridge without routes; `endpoint` is the value of `endpoint.amqp`.
    pub fn config(&self, endpoint: &Value) -> Value {
        json!({
            "version": 1,
            "bridge": {"namespace": "shop", "name": "factory", "uid": UID},
            "mesh": {"servers": [self.nats.url()], "credentials": self.accounts.bridge().unwrap().as_config()},
            "endpoint": {"amqp": endpoint},
            "inbound": [],
            "outbound": [],
            "delivery": {"maxInFlight": 500, "retry": {"initialMs": 50, "maxMs": 500}},
            "reportIntervalSeconds": 1
        })
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

    /// Payloads stored in a stream, each with how often it is there.
    pub async fn stored(&self, stream: &str) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for message in self.messages(stream).await {
            *found.entry(String::from_utf8_lossy(&message.payload).into_owned()).or_default() += 1;
        }
        found
    }

    /// Waits until a stream holds each of the payloads, and tells how many are there more than once.
    pub async fn holds_all(&self, stream: &str, wanted: &[String]) -> usize {
        eventually("all events stored", LIMIT, async || {
            let found = self.stored(stream).await;
            let missing = wanted.iter().filter(|text| !found.contains_key(*text)).count();
            if missing == 0 {
                Ok(Some(found.values().filter(|times| **times > 1).count()))
            } else {
                Err(format!("{missing} of {} missing", wanted.len()))
            }
        })
        .await
        .unwrap()
    }

    /// Publishes, and waits until it is stored.
    pub async fn publish(&self, subject: &str, payload: impl Into<bytes::Bytes>, headers: &[(&str, &str)]) {
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let context = async_nats::jetstream::new(self.client.clone());
        context.publish_with_headers(subject.to_owned(), map, payload.into()).await.unwrap().await.unwrap();
    }
}

pub fn inbound(name: &str, from: &str, to: &str) -> Value {
    json!({"name": name, "from": from, "to": to, "stream": "IN", "ingest": "Atomic"})
}

pub fn outbound(name: &str, consumer: &str, subject: &str, to: &str) -> Value {
    json!({"name": name, "stream": "OUT", "consumer": consumer, "subjects": [subject], "to": to})
}

/// A way to a broker that ends in the middle of what it says, as often as it is told.
pub struct Breaking {
    pub port: u16,
    cuts: Arc<AtomicUsize>,
}

impl Breaking {
    /// The first `cuts` connections end after so many bytes from the broker.
    pub async fn start(broker: u16, cuts: usize, after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicUsize::new(cuts));
        let cuts = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cut = left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
                tokio::spawn(pass(client, broker, if cut { after } else { usize::MAX }));
            }
        });
        Self { port, cuts }
    }

    /// Connections that it still cuts.
    pub fn left(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

async fn pass(client: TcpStream, broker: u16, mut left: usize) {
    let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let there = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_broker).await });
    let mut buffer = [0; 4096];
    while left > 0 {
        let Ok(count @ 1..) = from_broker.read(&mut buffer).await else { break };
        let count = count.min(left);
        if to_client.write_all(&buffer[..count]).await.is_err() {
            break;
        }
        left -= count;
    }
    there.abort();
}
