//! What the integration tests share: a mesh, an outside broker, a bridge between them, and clients on both sides.

pub mod hanging;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{create_consumer, create_stream};
use eventmesh_tests::process::{Accounts, Bridge, Mosquitto, Nats, Rights, WallClock};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::{RouteReport, RouteState};
use futures::StreamExt as _;
use rumqttc::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions, QoS};
use serde_json::{Value, json};

pub const LIMIT: Duration = Duration::from_mins(2);
pub const UID: &str = "11111111-2222-4333-8444-555555555555";

/// What the bridge of these tests may do; streams and consumers are not its own.
pub const RIGHTS: Rights = Rights {
    publish: &["in.>", "in3.>", "dead.>", "full.>", "late.>"],
    consume: &[("OUT", "c"), ("OUT", "slow"), ("OUT", "later"), ("OUT3", "c")],
    inspect: &["IN", "IN3", "FULL", "LATE"],
    reports_as: ("shop", "factory"),
};

/// The bridge is in an account of its own, and the streams are in another.
pub struct World {
    pub accounts: Accounts,
    pub nats: Nats,
    pub mosquitto: Mosquitto,
    pub client: async_nats::Client,
}

impl World {
    /// A mesh with the stream `IN` (subjects `in.>`), the stream `OUT` (`out.>`) with the consumer `c`, and `DEAD`
    /// (`dead.>`); and an MQTT broker that keeps its sessions on disk.
    pub async fn new() -> Self {
        Self::with("", "").await
    }

    pub async fn with(nats: &str, mosquitto: &str) -> Self {
        let accounts = Accounts::new(RIGHTS);
        let nats = Nats::verifying(scratch("nats").unwrap(), "2m", nats, &accounts).await.unwrap();
        let folder = scratch("mosquitto").unwrap();
        let extra = format!("{}\n{mosquitto}", Mosquitto::persistence(&folder));
        let mosquitto = Mosquitto::start(folder, &extra).await.unwrap();
        let client = nats.client().await.unwrap();
        create_stream(&client, "IN", &["in.>"], &json!({})).await.unwrap();
        create_stream(&client, "OUT", &["out.>"], &json!({})).await.unwrap();
        create_stream(&client, "DEAD", &["dead.>"], &json!({})).await.unwrap();
        create_consumer(&client, "OUT", "c", 5).await.unwrap();
        Self { accounts, nats, mosquitto, client }
    }

    /// A bridge with the inbound route `in` (`line/+/t` → `in.{1}.t`) and the outbound route `out` (`out.*` → `set/{1}`).
    pub fn config(&self, version: &str) -> Value {
        json!({
            "version": 1,
            "bridge": {"namespace": "shop", "name": "factory", "uid": UID},
            "mesh": {"servers": [self.nats.url()], "credentials": self.accounts.bridge().unwrap().as_config()},
            "endpoint": {"mqtt": {"url": self.mosquitto.url(), "version": version, "clientId": "bridge"}},
            "inbound": [{"name": "in", "from": "line/+/t", "to": "in.{1}.t", "stream": "IN", "ingest": "Atomic"}],
            "outbound": [{"name": "out", "stream": "OUT", "consumer": "c", "subjects": ["out.*"], "to": "set/{1}"}],
            "delivery": {"maxInFlight": 500, "retry": {"initialMs": 50, "maxMs": 500}},
            "reportIntervalSeconds": 1
        })
    }

    /// After the mesh was killed. The client is another one: the old one tries again when its pause is over, which is longer than a
    /// request may take.
    pub async fn mesh_comes_back(&mut self) {
        self.nats.start_again().await.unwrap();
        self.client = self.nats.client().await.unwrap();
    }

    /// Payloads stored in a stream, each with how often it is there.
    pub async fn stored(&self, stream: &str) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for message in self.messages(stream).await {
            *found.entry(String::from_utf8_lossy(&message.payload).into_owned()).or_default() += 1;
        }
        found
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
        let wanted: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
        eventually("all events stored", LIMIT, async || {
            let found = self.stored(stream).await;
            let missing = wanted.iter().filter(|text| !found.contains_key(*text)).count();
            if missing == 0 {
                Ok(Some(found.values().filter(|times| **times > 1).count()))
            } else {
                Err(format!("{missing} of {count} missing"))
            }
        })
        .await
        .unwrap()
    }

    pub async fn publish_mesh(&self, prefix: &str, numbers: std::ops::Range<usize>) {
        let context = async_nats::jetstream::new(self.client.clone());
        for number in numbers {
            context.publish("out.a", format!("{prefix}{number}").into()).await.unwrap().await.unwrap();
        }
    }
}

pub fn start(config: &Value) -> Bridge {
    Bridge::start(Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge")), scratch("bridge").unwrap(), config).unwrap()
}

/// A bridge whose wall clock the test moves.
pub fn start_with_clock(config: &Value) -> (Bridge, WallClock) {
    let folder = scratch("bridge").unwrap();
    let clock = WallClock::new(&folder).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge"));
    (Bridge::start_with_clock(program, folder, config, &clock).unwrap(), clock)
}

pub async fn running(bridge: &Bridge, routes: &[&str]) {
    for route in routes {
        bridge.route(route, "running route", |route| route.state == RouteState::Running).await.unwrap();
    }
}

pub fn balanced(route: &RouteReport) {
    assert!(route.counters.balances(), "{route:?}");
}

/// As [`balanced`], and nothing was dropped: nothing ever is unless it was asked for.
pub fn complete(route: &RouteReport) {
    balanced(route);
    assert_eq!(route.counters.dropped, 0, "{route:?}");
}

pub fn says(route: &RouteReport, words: &str) -> bool {
    route.last_error.as_ref().is_some_and(|error| error.message.contains(words))
}

/// An outside MQTT client: publishes with acknowledgement, and collects what it subscribed to.
pub struct Outside {
    client: AsyncClient,
    received: tokio::sync::mpsc::UnboundedReceiver<rumqttc::mqttbytes::v5::Publish>,
    acknowledged: tokio::sync::mpsc::UnboundedReceiver<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Outside {
    pub async fn connect(port: u16, id: &str, filter: &str) -> Self {
        let mut options = MqttOptions::new(id, ("127.0.0.1".to_owned(), port));
        options.set_clean_start(false).set_session_expiry_interval(Some(3600)).set_outgoing_inflight_upper_limit(15);
        options.set_unlimited_incoming_packet_size();
        let (client, mut events) = AsyncClient::builder(options).unbounded().build();
        let (received_in, received) = tokio::sync::mpsc::unbounded_channel();
        let (acknowledged_in, acknowledged) = tokio::sync::mpsc::unbounded_channel();
        let (subscribed_in, subscribed) = tokio::sync::oneshot::channel();
        let mut subscribed_in = Some(subscribed_in);
        client.subscribe(filter.to_owned(), QoS::AtLeastOnce).await.unwrap();
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => drop(received_in.send(publish)),
                    Ok(Event::Incoming(Packet::PubAck(_))) => drop(acknowledged_in.send(())),
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(subscribed_in.take().map(|done| done.send(()))),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        subscribed.await.unwrap();
        Self { client, received, acknowledged, task }
    }

    /// Publishes without waiting for the acknowledgement.
    pub async fn send(&self, topic: &str, payload: impl Into<bytes::Bytes>, headers: &[(&str, &str)]) {
        let user_properties = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let properties = PublishProperties { user_properties, ..PublishProperties::default() };
        let options = PublishOptions::new(QoS::AtLeastOnce).properties(properties);
        self.client.publish(topic.to_owned(), payload.into(), options).await.unwrap();
    }

    /// Publishes numbers, and waits until the broker has acknowledged each.
    pub async fn publish(&mut self, topic: &str, prefix: &str, numbers: std::ops::Range<usize>) {
        let count = numbers.len();
        for number in numbers {
            self.send(topic, format!("{prefix}{number}"), &[]).await;
        }
        for _ in 0..count {
            tokio::time::timeout(LIMIT, self.acknowledged.recv())
                .await
                .expect("the broker acknowledges in time")
                .unwrap();
        }
    }

    pub async fn receive(&mut self) -> rumqttc::mqttbytes::v5::Publish {
        tokio::time::timeout(LIMIT, self.received.recv()).await.expect("an event in time").unwrap()
    }

    /// Receives until each of the numbers was there, and tells how many came more than once.
    pub async fn receives_all(&mut self, prefix: &str, count: usize) -> usize {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        let wanted: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
        while !wanted.iter().all(|text| found.contains_key(text)) {
            let publish = self.receive().await;
            *found.entry(String::from_utf8_lossy(&publish.payload).into_owned()).or_default() += 1;
        }
        found.values().filter(|times| **times > 1).count()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.task.abort();
    }
}
