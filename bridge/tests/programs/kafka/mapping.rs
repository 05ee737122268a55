//! What an event says in Kafka and in the mesh, and which topics a route reads.

use bytes::Bytes;
use eventmesh_wire::report::RouteState;
use krafka::Record;
use serde_json::json;

use super::world::{World, complete, says, start};

fn header(message: &async_nats::jetstream::Message, name: &str) -> Option<String> {
    Some(message.headers.as_ref()?.get(name)?.as_str().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_headers_times_and_tombstones_cross_both_ways() {
    let world = World::new().await;
    let mut config = world.config();
    config["inbound"][0]["to"] = json!("in.records");
    let bridge = start(&config);
    let topic = world.topic("in");
    let record = |value: &'static str| Record::new(&topic, value).partition(0);
    let binary: &[u8] = b"\x00\xff";
    let full = record("full").key("k").header("plain", "text").header("binary", binary).timestamp(1_700_000_000_123);
    for record in [full, record("no key"), Record::tombstone(&topic, binary).partition(0), record("").key("empty")] {
        world.outside.send(record).await.unwrap();
    }
    bridge.route("in", "four events", |route| route.counters.delivered == 4).await.unwrap();
    let messages = world.messages("IN").await;
    let all = |name: &str| messages.iter().map(|message| header(message, name)).collect::<Vec<_>>();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(all("kafka-key"), [text("k"), None, None, text("empty")]);
    assert_eq!(all("kafka-key-base64"), [None, None, text("AP8="), None]);
    assert_eq!(all("kafka-tombstone"), [None, None, text("true"), None]);
    assert_eq!(header(&messages[0], "plain"), text("text"));
    assert_eq!(header(&messages[0], "kafka-base64-binary"), text("AP8="));
    assert_eq!(header(&messages[0], "kafka-timestamp"), text("1700000000123"));

    // And out again, as they were.
    let context = async_nats::jetstream::new(world.client.clone());
    for message in &messages {
        let mut headers = async_nats::HeaderMap::new();
        for (name, values) in message.headers.as_ref().unwrap().iter() {
            let text = name.to_string();
            // The others belong to the mesh; a new event has its own.
            if text.starts_with("kafka-") || text == "plain" {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        let published = context.publish_with_headers("out.a", headers, message.payload.clone()).await.unwrap();
        published.await.unwrap();
    }
    let mut out = world.outside.collect(&world.topic("out"), |records| records.len() == 4).await.unwrap();
    out.sort_by_key(|record| record.value.as_ref().map(|value| std::cmp::Reverse(value.len())));
    let found = |value: Option<&'static str>| {
        out.iter().find(|record| record.value == value.map(|text| Bytes::from_static(text.as_bytes()))).unwrap()
    };
    let full = found(Some("full"));
    assert_eq!((full.key_str(), full.timestamp), (Some("k"), 1_700_000_000_123));
    assert_eq!(full.header("binary"), Some(Some(&Bytes::from_static(binary))));
    assert_eq!(full.header_str("plain"), Some("text"));
    assert!(full.header("kafka-offset").is_none(), "where it was is not where it is");
    assert_eq!(found(None).key.as_deref(), Some(binary));
    assert_eq!(found(Some("")).key_str(), Some("empty"));
    assert_eq!(found(Some("no key")).key_str(), Some("out.a"), "its subject, which keeps its order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_reads_each_topic_and_finds_those_that_come_later() {
    let world = World::new().await;
    let mut config = world.config();
    config["outbound"] = json!([]);
    config["inbound"][0]["from"] = json!(world.topic("*.orders"));
    config["inbound"][0]["to"] = json!("in.{1}.orders");
    world.outside.create_topic(&world.topic("east.orders"), 1, &[]).await.unwrap();
    world.outside.create_topic(&world.topic("east.invoices"), 1, &[]).await.unwrap();
    let bridge = start(&config);
    world.outside.produce(&world.topic("east.orders"), "e", 0..10, 0).await.unwrap();
    world.outside.produce(&world.topic("east.invoices"), "x", 0..10, 0).await.unwrap();
    bridge.route("in", "ten events", |route| route.counters.delivered == 10).await.unwrap();
    world.outside.create_topic(&world.topic("west.orders"), 2, &[]).await.unwrap();
    world.outside.produce(&world.topic("west.orders"), "w", 0..10, 0).await.unwrap();
    bridge.route("in", "twenty events", |route| route.counters.delivered == 20).await.unwrap();
    let mut subjects: Vec<_> = world.messages("IN").await.iter().map(|message| message.subject.to_string()).collect();
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects, ["in.east.orders", "in.west.orders"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudevents_cross_in_both_modes_and_one_that_can_not_be_read_is_a_dead_letter() {
    let world = World::new().await;
    let mut config = world.config();
    config["inbound"][0]["deadLetterSubject"] = json!("dead.in");
    let bridge = start(&config);
    let topic = world.topic("in");
    let structured = |text: String| Record::new(&topic, text).header("content-type", "application/cloudevents+json");
    let binary = Record::new(&topic, "b").header("ce_specversion", "1.0").header("ce_id", "1").header("ce_type", "t");
    world.outside.send(binary.header("ce_source", "s").header("content-type", "text/plain")).await.unwrap();
    let event = json!({"specversion": "1.0", "id": "2", "source": "s", "type": "t", "data": {"n": 1}});
    world.outside.send(structured(event.to_string())).await.unwrap();
    world.outside.send(structured("{".to_owned())).await.unwrap();
    let report = bridge
        .route("in", "two and a dead letter", |route| {
            route.counters.delivered == 2 && route.counters.dead_lettered == 1
        })
        .await
        .unwrap();
    complete(&report);
    let mut messages = world.messages("IN").await;
    messages.sort_by_key(|message| header(message, "ce-id"));
    assert_eq!(messages.iter().map(|message| header(message, "ce-id").unwrap()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(messages[1].payload, r#"{"n":1}"#);
    assert_eq!(header(&messages[0], "Nats-Msg-Id").as_deref(), Some("s#1"), "its own identity goes first");
    let cause = header(&world.messages("DEAD").await[0], "Em-Dead-Cause").unwrap();
    assert!(cause.contains("no CloudEvent"), "{cause}");

    let context = async_nats::jetstream::new(world.client.clone());
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [("ce-id", "3"), ("ce-source", "s"), ("ce-type", "t"), ("ce-specversion", "1.0")] {
        headers.insert(name, value);
    }
    headers.insert("ce-partitionkey", "p");
    context.publish_with_headers("out.a", headers, "o".into()).await.unwrap().await.unwrap();
    let out = world.outside.collect(&world.topic("out"), |records| records.len() == 1).await.unwrap();
    assert_eq!((out[0].header_str("ce_id"), out[0].key_str()), (Some("3"), Some("p")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_makes_keys_and_an_event_that_comes_back_is_filtered() {
    let world = World::new().await;
    let mut config = world.config();
    config["outbound"][0]["key"] = json!("customer-{1}");
    config["outbound"][0]["to"] = json!(world.topic("in"));
    let bridge = world.bridge(&config).await;
    world.publish("out.7", "o", 0..5).await;
    bridge.route("out", "five events", |route| route.counters.delivered == 5).await.unwrap();
    let out = world.outside.collect(&world.topic("in"), |records| records.len() == 5).await.unwrap();
    assert!(out.iter().all(|record| record.key_str() == Some("customer-7")));
    // murmur2, as Java's producers have it: of `customer-7` and three partitions.
    assert!(out.iter().all(|record| record.partition == out[0].partition));
    let report = bridge.route("in", "five that came back", |route| route.counters.filtered == 5).await.unwrap();
    complete(&report);
    assert!(world.messages("IN").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_may_begin_at_the_end_and_stays_where_it_began() {
    let world = World::new().await;
    let mut config = world.config();
    config["endpoint"]["kafka"]["startFrom"] = json!("Latest");
    world.outside.produce(&world.topic("in"), "old", 0..30, 0).await.unwrap();
    let mut bridge = start(&config);
    // Nothing has come yet, and still the group has its place: what is written while the bridge is dead is not skipped.
    world.committed(30).await;
    bridge.child.kill().unwrap();
    world.outside.produce(&world.topic("in"), "i", 0..30, 0).await.unwrap();
    bridge.start_again().unwrap();
    assert_eq!(world.holds_all("IN", "i", 30).await, 0);
    assert_eq!(world.messages("IN").await.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_commits_first_and_counts_what_the_mesh_did_not_take() {
    let world = World::new().await;
    let limit = json!({"max_msgs": 10, "discard": "new"});
    eventmesh_tests::process::nats::create_stream(&world.client, "FULL", &["full.>"], &limit).await.unwrap();
    let mut config = world.config();
    config["delivery"]["guarantee"] = json!("AtMostOnce");
    config["inbound"][0]["to"] = json!("full.all");
    config["inbound"][0]["stream"] = json!("FULL");
    config["inbound"][0]["ingest"] = json!("Single");
    let bridge = start(&config);
    world.outside.produce(&world.topic("in"), "i", 0..30, 0).await.unwrap();
    let settled =
        |route: &eventmesh_wire::report::RouteReport| route.counters.received == 30 && route.counters.in_flight == 0;
    let route = bridge.route("in", "30 events", settled).await.unwrap();
    assert_eq!((route.counters.delivered, route.counters.dropped), (10, 20));
    world.committed(30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_window_is_taken_in() {
    let world = World::new().await;
    let limit = json!({"max_msgs": 10, "discard": "new"});
    eventmesh_tests::process::nats::create_stream(&world.client, "FULL", &["full.>"], &limit).await.unwrap();
    let mut config = world.config();
    config["delivery"]["maxInFlight"] = json!(40);
    config["inbound"][0]["to"] = json!("full.all");
    config["inbound"][0]["stream"] = json!("FULL");
    config["inbound"][0]["ingest"] = json!("Single");
    let bridge = start(&config);
    world.outside.produce(&world.topic("in"), "i", 0..500, 0).await.unwrap();
    let route = bridge.route("in", "obstacle", |route| route.state == RouteState::Blocked).await.unwrap();
    assert!(says(&route, "maximum messages exceeded"), "{route:?}");
    assert!(route.counters.in_flight <= 40, "{route:?}");
    let room = json!({"name": "FULL", "subjects": ["full.>"], "max_msgs": 1_000, "discard": "new"});
    eventmesh_tests::process::nats::api(&world.client, "STREAM.UPDATE.FULL", &room).await.unwrap();
    let route = bridge.route("in", "delivered events", |route| route.counters.delivered == 500).await.unwrap();
    complete(&route);
    world.committed(500).await;
}
