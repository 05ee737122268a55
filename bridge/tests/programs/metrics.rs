//! The metrics of a bridge are those that docs/reference/metrics.md promises, whatever its endpoint.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{World, start};
use eventmesh_tests::child::free_port;
use eventmesh_tests::paths::repository;
use eventmesh_tests::wait::eventually;
use rstest::rstest;
use serde_json::{Value, json};

/// By name: type and labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// The table below the heading `## Bridge`.
fn promised() -> Families {
    let text = std::fs::read_to_string(repository().join("docs/reference/metrics.md")).unwrap();
    let section = text.split("## Bridge\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut families = Families::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        for name in quoted(cells[1]) {
            families.insert(name, (cells[2].to_owned(), quoted(cells[3]).into_iter().collect()));
        }
    }
    families
}

/// What the text of an answer holds.
fn given(text: &str) -> Families {
    let mut families = Families::new();
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            kinds.insert(format!("{name}{suffix}"), kind.to_owned());
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_once('{').unwrap();
            let labels =
                rest.split('}').next().unwrap().split("\",").map(|pair| pair.split('=').next().unwrap().to_owned());
            families.insert(name.to_owned(), (kinds[name].clone(), labels.collect()));
        }
    }
    families
}

#[rstest]
#[case::http_listener(json!({"http": {"listen": {"port": free_port().unwrap(), "authentication": {"bearer": {"tokens": ["t"]}}}}}), "/in/*", None)]
#[case::http_target(json!({"http": {"target": {"url": "http://127.0.0.1:9"}}}), "/in", Some("/out/{1}"))]
#[case::amqp_091(json!({"amqp": {"url": "amqp://127.0.0.1:9", "version": "V091"}}), "in", Some("out"))]
#[case::amqp_1(json!({"amqp": {"url": "amqp://127.0.0.1:9", "version": "V1"}}), "in", Some("out"))]
#[case::kafka(json!({"kafka": {"bootstrapServers": ["127.0.0.1:9"], "group": "g"}}), "in.*", Some("out.{1}"))]
#[case::mqtt(json!({"mqtt": {"url": "mqtt://127.0.0.1:9", "clientId": "c"}}), "in/+", Some("out/{1}"))]
#[case::nats(json!({"nats": {"urls": ["nats://127.0.0.1:9"], "jetstream": {}}}), "in.*", Some("out.{1}"))]
#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_tells_the_same(#[case] endpoint: Value, #[case] from: &str, #[case] to: Option<&str>) {
    let world = World::new().await;
    let mut config = world.config("V5");
    let is_target = endpoint.pointer("/http/target").is_some();
    let real = endpoint.get("mqtt").is_some();
    config["endpoint"] = endpoint;
    if real {
        config["endpoint"]["mqtt"]["url"] = json!(world.mosquitto.url());
    }
    config["inbound"][0]["from"] = json!(from);
    config["inbound"][0]["to"] = json!("in.x");
    if is_target {
        config["inbound"] = json!([]);
    }
    match to {
        Some(to) => config["outbound"][0]["to"] = json!(to),
        None => config["outbound"] = json!([]),
    }
    let bridge = start(&config);
    let text = eventually("metrics", crate::common::LIMIT, async || {
        let (_, text) = bridge.get("/metrics").await.map_err(|error| error.to_string())?;
        let connected = text.contains("eventmesh_bridge_connected{side=\"mesh\"} 1");
        let reads = !real || text.contains("eventmesh_bridge_lag{");
        if connected && reads { Ok(Some(text)) } else { Err(text) }
    });
    let text = text.await.unwrap();
    let mut promised = promised();
    assert!(promised.len() >= 7, "{promised:?}");
    if !real {
        // A route that has not heard of its source yet knows no lag.
        promised.remove("eventmesh_bridge_lag");
    }
    assert_eq!(given(&text), promised, "{text}");
}
