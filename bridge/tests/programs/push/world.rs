//! What the tests share: a mesh with a stream, its consumers, and the pushing part of a sidecar.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Subscriber;
use eventmesh_bridge::mesh::Mesh;
use eventmesh_bridge::sidecar::push::{AppReady, Push, Settings, Standing};
use eventmesh_tests::http::Received;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{api, create_stream};
use eventmesh_tests::process::{Accounts, Nats, Rights};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::config::MeshConfig;
use eventmesh_wire::config::sidecar::PushSubscription;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::common::LIMIT;

/// No event that waits to be acknowledged comes again within a test.
pub const NEVER: u64 = 300_000;

const RIGHTS: Rights =
    Rights { publish: &[], consume: &[("OUT", "c"), ("OUT", "d")], inspect: &[], reports_as: ("shop", "mail") };

pub struct World {
    pub accounts: Accounts,
    pub nats: Nats,
    pub client: async_nats::Client,
}

impl World {
    /// A mesh with the stream `OUT` (`out.>`); the sidecar is in an account of its own.
    pub async fn new() -> Self {
        let accounts = Accounts::new(RIGHTS);
        let nats = Nats::verifying(scratch("nats").unwrap(), "2m", "", &accounts).await.unwrap();
        let client = nats.client().await.unwrap();
        create_stream(&client, "OUT", &["out.>"], &json!({})).await.unwrap();
        Self { accounts, nats, client }
    }

    /// With the consumer `c`, which waits for acknowledgements for so long.
    pub async fn with(ack_wait_ms: u64, more: Value) -> Self {
        let world = Self::new().await;
        world.consumer("c", ack_wait_ms, &more).await;
        world
    }

    pub async fn consumer(&self, name: &str, ack_wait_ms: u64, more: &Value) {
        create_consumer(&self.client, name, ack_wait_ms, more).await;
    }

    pub async fn publish(&self, payloads: impl IntoIterator<Item = String>) {
        let context = async_nats::jetstream::new(self.client.clone());
        for payload in payloads {
            context.publish("out.a", payload.into()).await.unwrap().await.unwrap();
        }
    }

    pub async fn mesh(&self) -> Mesh {
        self.mesh_at(&[self.nats.url()]).await
    }

    pub async fn mesh_at(&self, servers: &[String]) -> Mesh {
        connect(&self.accounts, servers).await
    }

    pub async fn push(&self, list: &[PushSubscription]) -> Push {
        Push::start(self.mesh().await, Settings::new("shop", None), list)
    }

    pub async fn push_when(&self, ready: &str, list: &[PushSubscription]) -> Push {
        let ready: AppReady = ready.parse().unwrap();
        Push::start(self.mesh().await, Settings::new("shop", Some(ready)), list)
    }

    /// What the broker says of a consumer.
    pub async fn info(&self, consumer: &str) -> Value {
        api(&self.client, &format!("CONSUMER.INFO.OUT.{consumer}"), &json!({})).await.unwrap()
    }

    /// Waits until the broker says of the consumer `c` what is wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, LIMIT, async || {
            let info = self.info("c").await;
            if wanted(&info) { Ok(Some(info)) } else { Err(info.to_string()) }
        })
        .await
        .unwrap()
    }

    /// Waits until the consumer `c` has given everything that is stored, and everything is acknowledged.
    pub async fn until_done(&self) -> Value {
        // A consumer counts what waits for it a while after the stream has confirmed it; until then nothing seems to wait.
        let stream = api(&self.client, "STREAM.INFO.OUT", &json!({})).await.unwrap();
        let last = &stream["state"]["last_seq"];
        let done = |info: &Value| {
            info["delivered"]["stream_seq"] == *last && info["num_pending"] == 0 && info["num_ack_pending"] == 0
        };
        self.until("end", done).await
    }

    /// The broker tells when it gives an event of the consumer `c` up.
    pub async fn given_up(&self) -> Subscriber {
        let given_up = self.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.OUT.c").await.unwrap();
        self.client.flush().await.unwrap();
        given_up
    }
}

pub async fn connect(accounts: &Accounts, servers: &[String]) -> Mesh {
    let config = json!({"servers": servers, "credentials": accounts.bridge().unwrap().as_config()});
    let config: MeshConfig = serde_json::from_value(config).unwrap();
    Mesh::connect(&config, "sidecar shop/mail").await.unwrap()
}

pub async fn create_consumer(client: &async_nats::Client, name: &str, ack_wait_ms: u64, more: &Value) {
    let mut config = json!({"durable_name": name, "name": name, "ack_policy": "explicit", "deliver_policy": "all",
        "max_ack_pending": 1000, "max_deliver": -1, "ack_wait": ack_wait_ms * 1_000_000});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let request = json!({"stream_name": "OUT", "config": config});
    let answer = api(client, &format!("CONSUMER.DURABLE.CREATE.OUT.{name}"), &request).await.unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
}

/// The next event that was given up: its number, and its deliveries.
pub async fn next_given_up(given_up: &mut Subscriber) -> (u64, u64) {
    let note = tokio::time::timeout(LIMIT, given_up.next()).await.expect("an advisory in time").unwrap();
    let note: Value = serde_json::from_slice(&note.payload).unwrap();
    (note["stream_seq"].as_u64().unwrap(), note["deliveries"].as_u64().unwrap())
}

/// The Subscription `mail` of the consumer `c`; `more` overrides.
pub fn subscription(port: u16, more: &Value) -> PushSubscription {
    let mut config = json!({"name": "mail", "stream": "OUT", "consumer": "c", "port": port, "path": "/events",
        "maxInFlight": 100, "backoffMs": [20], "timeoutMs": 10_000});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

/// The standing of the only subscription, as soon as it is as wanted.
pub async fn standing(push: &Push, what: &str, wanted: impl Fn(&Standing) -> bool) -> Standing {
    eventually(what, LIMIT, async || {
        let standing = push.standings().remove(0);
        assert!(standing.counters.balances(), "{standing:?}");
        if wanted(&standing) { Ok(Some(standing)) } else { Err(format!("{standing:?}")) }
    })
    .await
    .unwrap()
}

pub fn numbers(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| number.to_string())
}

pub fn body(received: &Received) -> &str {
    std::str::from_utf8(&received.body).unwrap()
}

/// The attempts that the application saw of each event, in their order.
pub fn attempts(received: &[Received]) -> BTreeMap<String, Vec<u64>> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for one in received {
        let attempt = one.header("em-attempt").unwrap().parse().unwrap();
        all.entry(body(one).to_owned()).or_default().push(attempt);
    }
    all
}

/// Whether each of the numbers was received.
pub fn has_all(received: &[Received], count: usize) -> bool {
    let found = attempts(received);
    numbers(count).all(|number| found.contains_key(&number))
}

/// Time in which the broker would give an event again that it does not hear of.
pub const PATIENCE: Duration = Duration::from_secs(3);
