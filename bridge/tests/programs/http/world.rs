//! What the tests share: a mesh, a bridge that listens or sends by HTTP, and who is on the other side.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use eventmesh_tests::child::free_port;
use eventmesh_tests::http::{Answer, Collector, Sender};
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{create_consumer, create_stream};
use eventmesh_tests::process::{Accounts, Bridge, Nats, Rights};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::{RouteReport, RouteState};
use futures::StreamExt as _;
use serde_json::{Value, json};

pub const LIMIT: Duration = Duration::from_mins(2);
pub const UID: &str = "11111111-2222-4333-8444-555555555555";

const RIGHTS: Rights = Rights {
    publish: &["in.>", "small.>", "late.>", "dead.>"],
    consume: &[("OUT", "c")],
    inspect: &["IN", "SMALL", "LATE"],
    reports_as: ("shop", "hooks"),
};

pub struct World {
    pub accounts: Accounts,
    pub nats: Nats,
    pub client: async_nats::Client,
}

impl World {
    /// A mesh with the streams `IN` (`in.>`), `SMALL` (`small.>`, two events, refuses more), `OUT` (`out.>`) with the consumer
    /// `c`, and `DEAD` (`dead.>`).
    pub async fn new() -> Self {
        let accounts = Accounts::new(RIGHTS);
        let nats = Nats::verifying(scratch("nats").unwrap(), "2m", "", &accounts).await.unwrap();
        let client = nats.client().await.unwrap();
        create_stream(&client, "IN", &["in.>"], &json!({})).await.unwrap();
        let full = json!({"max_msgs": 2, "discard": "new"});
        create_stream(&client, "SMALL", &["small.>"], &full).await.unwrap();
        create_stream(&client, "OUT", &["out.>"], &json!({})).await.unwrap();
        create_stream(&client, "DEAD", &["dead.>"], &json!({})).await.unwrap();
        create_consumer(&client, "OUT", "c", 5).await.unwrap();
        Self { accounts, nats, client }
    }

    fn config(&self, endpoint: &Value) -> Value {
        json!({
            "version": 1,
            "bridge": {"namespace": "shop", "name": "hooks", "uid": UID},
            "mesh": {"servers": [self.nats.url()], "credentials": self.accounts.bridge().unwrap().as_config()},
            "endpoint": {"http": endpoint},
            "delivery": {"maxInFlight": 500, "retry": {"initialMs": 50, "maxMs": 500}},
            "reportIntervalSeconds": 1
        })
    }

    /// A bridge that listens without asking who sends: `/orders/*` → `in.orders.{1}`, `/small/*` → `small.{1}`.
    pub fn listener(&self) -> Value {
        let port = free_port().unwrap();
        let mut config = self.config(&json!({"listen": {"port": port, "authentication": {"none": {}}}}));
        config["inbound"] = json!([
            {"name": "orders", "from": "/orders/*", "to": "in.orders.{1}", "stream": "IN", "ingest": "Atomic"},
            {"name": "small", "from": "/small/*", "to": "small.{1}", "stream": "SMALL"},
        ]);
        config
    }

    /// A bridge that sends: `out.*` → `/take/{1}`.
    pub fn sender(&self, url: &str) -> Value {
        let mut config = self.config(&json!({"target": {"url": url}}));
        config["outbound"] =
            json!([{"name": "out", "stream": "OUT", "consumer": "c", "subjects": ["out.*"], "to": "/take/{1}"}]);
        config
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

    pub async fn purge(&self, stream: &str) {
        let context = async_nats::jetstream::new(self.client.clone());
        context.get_stream(stream).await.unwrap().purge().await.unwrap();
    }

    /// Stores an event that is no CloudEvent for the outbound route.
    pub async fn publish(&self, subject: &str, payload: &str) {
        let context = async_nats::jetstream::new(self.client.clone());
        context.publish(subject.to_owned(), payload.to_owned().into()).await.unwrap().await.unwrap();
    }

    /// The stream `SMALL` takes nothing more.
    pub async fn fill(&self) {
        self.publish("small.x", "first").await;
        self.publish("small.x", "second").await;
    }

    /// Stores the numbers, each as an event `<number>`.
    pub async fn publish_numbers(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.publish("out.a", &number.to_string()).await;
        }
    }

    /// Waits until a dead letter is stored, and gives its cause.
    pub async fn dead_letter(&self) -> String {
        eventually("a dead letter", LIMIT, async || {
            let message = self.messages("DEAD").await.into_iter().next();
            Ok(message.map(|message| message.headers.as_ref().unwrap().get("Em-Dead-Cause").unwrap().to_string()))
        })
        .await
        .unwrap()
    }
}

pub fn start(config: &Value) -> Bridge {
    Bridge::start(Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge")), scratch("bridge").unwrap(), config).unwrap()
}

/// A bridge that is told to listen, and does.
pub async fn listening(config: &Value) -> (Bridge, Sender) {
    let bridge = start(config);
    in_state(&bridge, "orders", RouteState::Running).await;
    (bridge, client(config))
}

pub fn client(config: &Value) -> Sender {
    Sender::new(&format!("http://127.0.0.1:{}", port(config)), &[]).unwrap()
}

pub fn port(config: &Value) -> u64 {
    config["endpoint"]["http"]["listen"]["port"].as_u64().unwrap()
}

pub async fn in_state(bridge: &Bridge, route: &str, state: RouteState) -> RouteReport {
    bridge.route(route, "state of a route", |route| route.state == state).await.unwrap()
}

/// Waits until the route is in a state and says why.
pub async fn told(bridge: &Bridge, route: &str, state: RouteState, words: &str) -> RouteReport {
    let wanted = |route: &RouteReport| route.state == state && says(route, words);
    bridge.route(route, words, wanted).await.unwrap()
}

pub fn says(route: &RouteReport, words: &str) -> bool {
    route.last_error.as_ref().is_some_and(|error| error.message.contains(words))
}

/// The books balance, nothing was dropped, and nothing is on its way.
pub fn complete(route: &RouteReport) {
    assert!(route.counters.balances(), "{route:?}");
    assert_eq!((route.counters.dropped, route.counters.in_flight), (0, 0), "{route:?}");
}

/// Replaces the configuration, and waits until it is taken up.
pub async fn change(bridge: &Bridge, config: &Value) {
    let hash = eventmesh_wire::config_hash(config.to_string().as_bytes());
    bridge.write_config(&config.to_string()).unwrap();
    eventually("the next configuration", LIMIT, async || {
        let report = bridge.report().await.map_err(|error| error.to_string())?;
        assert_eq!(report.config_problem, None);
        Ok((report.config_hash == hash).then_some(()))
    })
    .await
    .unwrap();
}

/// The problem document of an answer.
pub fn problem(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let document: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(document["status"], answer.status);
    assert!(!document["detail"].as_str().unwrap().is_empty() && !document["title"].as_str().unwrap().is_empty());
    document
}

/// Waits until each of the numbers has come, and tells how many came more than once.
pub async fn all_came(collector: &Collector, count: usize) -> usize {
    let numbers = |all: &[eventmesh_tests::http::Received]| {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for one in all {
            *found.entry(String::from_utf8_lossy(&one.body).into_owned()).or_default() += 1;
        }
        found
    };
    let wanted = |all: &[eventmesh_tests::http::Received]| {
        all.len() >= count && {
            let found = numbers(all);
            (0..count).all(|number| found.contains_key(&number.to_string()))
        }
    };
    numbers(&collector.until(LIMIT, wanted).await.unwrap()).values().filter(|times| **times > 1).count()
}
