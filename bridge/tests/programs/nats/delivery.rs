//! What comes through, and how.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use eventmesh_wire::report::RouteState;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::world::Far;
use crate::common::{LIMIT, UID, complete, running, start};

#[tokio::test(flavor = "multi_thread")]
async fn events_cross_both_ways_with_their_headers() {
    let far = Far::new().await;
    let bridge = start(&far.config());
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 2_000).await;
    let headers = |pairs: &[(&str, &str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, *value);
        }
        map
    };
    let event = [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/s"), ("ce-type", "t"), ("k", "v")];
    let out = async_nats::jetstream::new(far.outside.clone());
    let structured = r#"{"specversion":"1.0","id":"8","source":"/s","type":"t","data":{"a":1}}"#;
    let content = [("content-type", "application/cloudevents+json")];
    out.publish_with_headers("orders.h", headers(&event), "7".into()).await.unwrap().await.unwrap();
    out.publish_with_headers("orders.h", headers(&content), structured.into()).await.unwrap().await.unwrap();
    let mesh = async_nats::jetstream::new(far.client.clone());
    mesh.publish_with_headers("out.h", headers(&event), "7".into()).await.unwrap().await.unwrap();
    bridge.route("in", "two more", |route| route.counters.delivered == 2_002).await.unwrap();
    bridge.route("out", "one more", |route| route.counters.delivered == 2_001).await.unwrap();
    let inside = Far::messages(&far.client, "IN").await;
    let read = |message: &async_nats::jetstream::Message| -> BTreeMap<String, String> {
        let all = message.headers.clone().unwrap_or_default();
        all.iter().map(|(name, values)| (name.to_string(), values[0].to_string())).collect()
    };
    let plain = read(&inside[2_000]);
    for (name, value) in event {
        assert_eq!(plain[name], value);
    }
    assert_eq!((plain["Em-Bridge"].as_str(), plain["Nats-Msg-Id"].as_str()), (UID, "/s#7"));
    let unwrapped = read(&inside[2_001]);
    assert_eq!((unwrapped["ce-id"].as_str(), &inside[2_001].payload[..]), ("8", br#"{"a":1}"#.as_slice()));
    let numbers = read(&inside[0]);
    assert!(numbers["Nats-Msg-Id"].starts_with("ORDERS/") && numbers["Nats-Msg-Id"].ends_with("/1"), "{numbers:?}");
    let outside = read(&Far::messages(&far.outside, "COPY").await[2_000]);
    for (name, value) in event {
        assert_eq!(outside[name], value);
    }
    assert_eq!(outside["em-bridge"], UID);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_back_is_filtered() {
    let far = Far::new().await;
    let mut config = far.config();
    config["outbound"][0]["to"] = json!("orders.{1}");
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    far.publish("x", 0..50).await;
    let route = bridge.route("in", "filtered events", |route| route.counters.filtered == 50).await.unwrap();
    complete(&route);
    assert_eq!(Far::messages(&far.client, "IN").await.len(), 0);
}

/// Without `JetStream`: what nobody confirms is promised to nobody.
fn core(far: &Far) -> Value {
    let mut config = far.config();
    config["endpoint"]["nats"]["jetstream"] = Value::Null;
    config["delivery"]["guarantee"] = json!("AtMostOnce");
    config["inbound"][0]["from"] = json!("plain.*");
    config["outbound"][0]["to"] = json!("heard.{1}");
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn core_nats_crosses_both_ways() {
    let far = Far::new().await;
    let bridge = start(&core(&far));
    running(&bridge, &["in", "out"]).await;
    let mut heard = far.outside.subscribe("heard.>").await.unwrap();
    far.outside.flush().await.unwrap();
    far.listens(&[&bridge], "plain.a").await;
    for number in 0..500 {
        far.outside.publish("plain.a", format!("x{number}").into()).await.unwrap();
    }
    far.publish("x", 0..500).await;
    Far::holds_all(&far.client, "IN", "x", 500).await;
    for number in 0..500 {
        let message = tokio::time::timeout(LIMIT, heard.next()).await.unwrap().unwrap();
        assert_eq!((message.subject.as_str(), message.payload), ("heard.a", format!("x{number}").into()));
    }
    for name in ["in", "out"] {
        complete(&bridge.route(name, "delivered events", |route| route.counters.delivered >= 500).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_share_a_core_subscription() {
    let far = Far::new().await;
    let config = |pod: &str| {
        let mut config = core(&far);
        config["inbound"][0]["to"] = json!(format!("in.{{1}}.{pod}"));
        config
    };
    let (a, b) = (super::world::start_pod(&config("a"), "a"), super::world::start_pod(&config("b"), "b"));
    running(&a, &["in"]).await;
    running(&b, &["in"]).await;
    far.listens(&[&a, &b], "plain.a").await;
    for number in 0..1_000 {
        far.outside.publish("plain.a", format!("x{number}").into()).await.unwrap();
    }
    assert_eq!(Far::holds_all(&far.client, "IN", "x", 1_000).await, 0, "each event came to one of them");
    for bridge in [&a, &b] {
        assert!(bridge.route("in", "its part", |route| route.counters.delivered > 0).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn core_nats_promises_nothing() {
    let far = Far::new().await;
    let mut config = core(&far);
    config["delivery"]["guarantee"] = json!("AtLeastOnce");
    let file = eventmesh_tests::paths::scratch("config").unwrap().join("bridge.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let program = env!("CARGO_BIN_EXE_eventmesh-bridge");
    let output = std::process::Command::new(program).arg("validate").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("core NATS confirms nothing"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_change_while_events_flow() {
    let far = Far::new().await;
    let mut config = far.config();
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    far.order("x", 0..100).await;
    Far::holds_all(&far.client, "IN", "x", 100).await;
    config["inbound"][0]["to"] = json!("in.next.{1}");
    bridge.write_config(&config.to_string()).unwrap();
    bridge.route("in", "restarted route", |route| route.restarts == 1).await.unwrap();
    far.order("y", 0..100).await;
    assert_eq!(Far::holds_all(&far.client, "IN", "y", 100).await, 0);
    let late = Far::messages(&far.client, "IN").await;
    assert!(late[100..].iter().all(|message| message.subject.starts_with("in.next.")));
    let route = bridge.route("in", "running route", |route| route.state == RouteState::Running).await.unwrap();
    complete(&route);
}
