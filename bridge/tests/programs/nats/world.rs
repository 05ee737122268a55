//! A mesh, another NATS system, and a bridge between them.

use std::collections::BTreeMap;
use std::path::Path;

use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{api, create_consumer, create_lease_stream, create_stream, produce};
use eventmesh_tests::process::{Accounts, Bridge, Nats};
use serde_json::{Value, json};

use crate::common::{RIGHTS, UID};

pub struct Far {
    pub accounts: Accounts,
    pub nats: Nats,
    pub client: async_nats::Client,
    pub other: Nats,
    /// To the other system.
    pub outside: async_nats::Client,
}

impl Far {
    /// The mesh has the streams `IN` (`in.>`), `OUT` (`out.>`) with the consumer `c`, and `DEAD` (`dead.>`); the other system
    /// has `ORDERS` (`orders.>`) and `COPY` (`copy.>`).
    pub async fn new() -> Self {
        Self::with("").await
    }

    pub async fn with(other: &str) -> Self {
        let other = Nats::start(scratch("other").unwrap(), "2m", other).await.unwrap();
        let outside = other.client().await.unwrap();
        create_stream(&outside, "ORDERS", &["orders.>"], &json!({})).await.unwrap();
        create_stream(&outside, "COPY", &["copy.>"], &json!({})).await.unwrap();
        Self::between(other, outside).await
    }

    /// With another system as it is.
    pub async fn between(other: Nats, outside: async_nats::Client) -> Self {
        let accounts = Accounts::new(RIGHTS);
        let nats = Nats::verifying(scratch("nats").unwrap(), "2m", "", &accounts).await.unwrap();
        let client = nats.client().await.unwrap();
        create_stream(&client, "IN", &["in.>"], &json!({})).await.unwrap();
        create_stream(&client, "OUT", &["out.>"], &json!({})).await.unwrap();
        create_stream(&client, "DEAD", &["dead.>"], &json!({})).await.unwrap();
        create_consumer(&client, "OUT", "c", 5).await.unwrap();
        create_lease_stream(&client, 1).await.unwrap();
        Self { accounts, nats, client, other, outside }
    }

    /// The inbound route `in` (`orders.*` → `in.{1}`) and the outbound route `out` (`out.*` → `copy.{1}`), both of streams.
    pub fn config(&self) -> Value {
        json!({
            "version": 1,
            "bridge": {"namespace": "shop", "name": "factory", "uid": UID},
            "mesh": {"servers": [self.nats.url()], "credentials": self.accounts.bridge().unwrap().as_config()},
            "endpoint": {"nats": {"urls": [self.other.url()], "jetstream": {}}},
            "inbound": [{"name": "in", "from": "orders.*", "to": "in.{1}", "stream": "IN", "ingest": "Atomic"}],
            "outbound": [{"name": "out", "stream": "OUT", "consumer": "c", "subjects": ["out.*"], "to": "copy.{1}"}],
            "delivery": {"maxInFlight": 500, "retry": {"initialMs": 50, "maxMs": 500}},
            "reportIntervalSeconds": 1
        })
    }

    /// Stores numbers at the other system.
    pub async fn order(&self, prefix: &str, numbers: std::ops::Range<usize>) {
        produce(&self.outside, "orders.a", prefix, numbers).await.unwrap();
    }

    /// Stores numbers in the mesh.
    pub async fn publish(&self, prefix: &str, numbers: std::ops::Range<usize>) {
        produce(&self.client, "out.a", prefix, numbers).await.unwrap();
    }

    /// What a stream holds, in its order: subject, payload and headers.
    pub async fn messages(client: &async_nats::Client, stream: &str) -> Vec<async_nats::jetstream::Message> {
        eventmesh_tests::process::nats::messages(client, stream).await.unwrap()
    }

    /// Waits until a stream holds each of the numbers; gives how many are there more than once.
    pub async fn holds_all(client: &async_nats::Client, stream: &str, prefix: &str, count: usize) -> usize {
        let wanted: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
        eventmesh_tests::wait::eventually("all events stored", crate::common::LIMIT, async || {
            let mut found: BTreeMap<String, usize> = BTreeMap::new();
            for message in Self::messages(client, stream).await {
                *found.entry(String::from_utf8_lossy(&message.payload).into_owned()).or_default() += 1;
            }
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

    /// Publishes until the route `in` of each bridge has heard something: core NATS keeps nothing for who comes later, and a route
    /// runs a moment before the server knows what it listens to.
    pub async fn listens(&self, bridges: &[&Bridge], subject: &str) {
        let mut count = 0;
        eventmesh_tests::wait::eventually("bridges that listen", crate::common::LIMIT, async || {
            let payload = format!("heard{count}");
            count += 1;
            self.outside.publish(subject.to_owned(), payload.into()).await.map_err(|error| error.to_string())?;
            for bridge in bridges {
                let report = bridge.report().await.map_err(|error| error.to_string())?;
                if !report.routes.iter().any(|route| route.name == "in" && route.counters.received > 0) {
                    return Err(format!("{report:?}"));
                }
            }
            Ok(Some(()))
        })
        .await
        .unwrap();
    }

    /// Both ways, and the books.
    pub async fn carries(&self, bridge: &Bridge, prefix: &str, count: usize) {
        self.order(prefix, 0..count).await;
        self.publish(prefix, 0..count).await;
        Self::holds_all(&self.client, "IN", prefix, count).await;
        Self::holds_all(&self.outside, "COPY", prefix, count).await;
        for name in ["in", "out"] {
            let route = bridge.route(name, "settled route", |route| route.counters.in_flight == 0).await.unwrap();
            crate::common::complete(&route);
        }
    }

    pub async fn api(&self, operation: &str) -> Value {
        api(&self.outside, operation, &json!({})).await.unwrap()
    }
}

pub fn start_pod(config: &Value, pod: &str) -> Bridge {
    let program = Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge"));
    Bridge::start_pod(program, scratch(&format!("bridge-{pod}")).unwrap(), config, pod).unwrap()
}
