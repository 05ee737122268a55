//! Events cross both ways, with what they say of themselves, and none is lost whatever is killed.

use eventmesh_tests::amqp1::{data, event, header, take};
use eventmesh_tests::ledger::Ledger;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::Artemis;
use eventmesh_tests::process::artemis::Settings;
use eventmesh_wire::report::RouteState;
use fe2o3_amqp::types::messaging::{AmqpValue, Body, Message, MessageId};
use fe2o3_amqp::types::primitives::{Symbol, Value};
use serde_json::json;

use super::{endpoint, outside, unique, world};
use crate::amqp::{Mesh, inbound, outbound};
use crate::common::{complete, running, start};

fn payloads(ledger: &Ledger, count: u32) -> Vec<String> {
    (0..count).map(|number| ledger.event(number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_cross_both_ways() {
    let (mesh, artemis, mut outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", &format!("{target}.{{1}}"))]);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;

    let mut ledger = Ledger::new("in");
    outside.produce(&orders, &mut ledger, 0..2_000).await.unwrap();
    assert_eq!(mesh.holds_all("IN", &payloads(&ledger, 2_000)).await, 0, "nothing is there twice");
    complete(&bridge.route("in", "all delivered", |route| route.counters.delivered == 2_000).await.unwrap());

    let mut back = Ledger::new("out");
    for number in 0..500 {
        mesh.publish("out.a", back.event(number), &[]).await;
        back.confirmed(number);
    }
    outside.collect(&format!("{target}.a"), &mut back, 500).await.unwrap();
    assert_eq!((back.verdict().lost, back.verdict().duplicated), (0, 0));
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 500).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_message_says_of_itself_crosses() {
    let (mesh, artemis, mut outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.>", &target)]);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;

    let cloud = [("cloudEvents:id", "1"), ("cloudEvents:source", "/a"), ("cloudEvents:specversion", "1.0"), ("x", "ä")];
    let mut first = event(b"{}", Some("m-0"), &cloud);
    let properties = first.properties.as_mut().unwrap();
    properties.content_type = Some(Symbol::from("application/json"));
    properties.correlation_id = Some(MessageId::Ulong(7));
    properties.subject = Some("opened".to_owned());
    outside.send(&orders, first).await.unwrap();
    for _ in 0..2 {
        outside.send(&orders, event(b"again", Some("m-1"), &[])).await.unwrap();
    }
    let text = Message::builder().body(Body::Value(AmqpValue(Value::String("text".to_owned())))).build();
    outside.send(&orders, text).await.unwrap();
    let map = Value::List(vec![Value::Int(1), Value::Bool(true)]);
    outside.send(&orders, Message::builder().body(Body::Value(AmqpValue(map))).build()).await.unwrap();
    bridge.route("in", "five taken", |route| route.counters.delivered == 5).await.unwrap();
    let stored = mesh.stored("IN").await;
    for payload in ["{}", "again", "text", "[1,true]"] {
        assert_eq!(stored.get(payload), Some(&1), "{payload} of {stored:?}");
    }
    let messages = mesh.messages("IN").await;
    let first = messages.iter().find(|message| message.payload.as_ref() == b"{}").unwrap();
    let headers = first.headers.as_ref().unwrap();
    for (name, value) in [
        ("ce-id", "1"),
        ("content-type", "application/json"),
        ("correlation-id", "7"),
        ("amqp-subject", "opened"),
        ("x", "ä"),
        ("Nats-Msg-Id", "/a#1"),
    ] {
        assert_eq!(headers.get(name).map(async_nats::HeaderValue::as_str), Some(value), "{name}");
    }

    let headers = [("ce-id", "7"), ("content-type", "text/plain"), ("correlation-id", "c-2"), ("x", "y")];
    mesh.publish("out.a.b", "hello", &headers).await;
    let mut receiver = outside.receiver(&target).await.unwrap();
    let arrival = take(&mut receiver).await.unwrap();
    assert_eq!(data(&arrival), b"hello");
    assert_eq!(header(&arrival, "cloudEvents:id").as_deref(), Some("7"));
    assert_eq!(header(&arrival, "x").as_deref(), Some("y"));
    assert_eq!(header(&arrival, "em-bridge").as_deref(), Some(crate::common::UID));
    assert!(arrival.header.as_ref().unwrap().durable);
    let properties = arrival.properties.unwrap();
    assert_eq!(properties.content_type, Some(Symbol::from("text/plain")));
    assert_eq!(properties.correlation_id, Some(MessageId::String("c-2".to_owned())));
    assert_eq!(properties.message_id, Some(MessageId::String("OUT:1".to_owned())));
    assert_eq!(properties.to.as_deref(), Some(target.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_structured_mode_is_unwrapped_and_a_broken_one_is_a_dead_letter() {
    let (mesh, artemis, mut outside) = world().await;
    let orders = unique("orders");
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["inbound"][0]["deadLetterSubject"] = json!("dead.in");
    let bridge = start(&config);
    for payload in [br#"{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{"n":1}}"#.as_slice(), b"{"] {
        let mut message = event(payload, None, &[]);
        message.properties.as_mut().unwrap().content_type = Some(Symbol::from("application/cloudevents+json"));
        outside.send(&orders, message).await.unwrap();
    }
    let route = bridge
        .route("in", "one of each", |route| (route.counters.delivered, route.counters.dead_lettered) == (1, 1))
        .await
        .unwrap();
    complete(&route);
    assert_eq!(mesh.messages("IN").await[0].headers.as_ref().unwrap().get("ce-type").unwrap().as_str(), "t");
    assert_eq!(mesh.stored("DEAD").await.keys().collect::<Vec<_>>(), ["{"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_ends_and_another_begins_while_the_bridge_runs() {
    let (mesh, artemis, mut outside) = world().await;
    let (first, second) = (unique("first"), unique("second"));
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("a", &first, "in.first")]);
    let bridge = start(&config);
    outside.send(&first, event(b"one", None, &[])).await.unwrap();
    mesh.holds_all("IN", &["one".to_owned()]).await;
    config["inbound"] = json!([inbound("b", &second, "in.second")]);
    bridge.write_config(&config.to_string()).unwrap();
    outside.send(&second, event(b"two", None, &[])).await.unwrap();
    mesh.holds_all("IN", &["two".to_owned()]).await;
    // The link of the route that is gone is gone too.
    outside.send(&first, event(b"three", None, &[])).await.unwrap();
    let mut receiver = outside.receiver(&first).await.unwrap();
    assert_eq!(data(&take(&mut receiver).await.unwrap()), b"three");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_bridge_is_killed() {
    let (mesh, artemis, mut outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", &target)]);
    let mut bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let (mut forth, mut back) = (Ledger::new("in"), Ledger::new("out"));
    for part in 0..4_u32 {
        outside.produce(&orders, &mut forth, part * 1_000..(part + 1) * 1_000).await.unwrap();
        for number in part * 250..(part + 1) * 250 {
            mesh.publish("out.a", back.event(number), &[]).await;
            back.confirmed(number);
        }
        if part < 3 {
            bridge.kill_and_start_again().unwrap();
        }
    }
    assert_eq!(mesh.holds_all("IN", &payloads(&forth, 4_000)).await, 0, "a message id makes an event the same");
    outside.collect(&target, &mut back, 1_000).await.unwrap();
    assert_eq!(back.verdict().lost, 0);
    complete(&bridge.route("out", "nothing in flight", |route| route.counters.in_flight == 0).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_either_broker_is_killed() {
    let mut mesh = Mesh::new().await;
    let mut artemis = Artemis::start(scratch("artemis").unwrap(), &Settings::default()).await.unwrap();
    let mut client = outside(&artemis).await;
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("in", "orders", "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", "target")]);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let (mut forth, mut back) = (Ledger::new("in"), Ledger::new("out"));
    client.produce("orders", &mut forth, 0..2_000).await.unwrap();
    for number in 0..1_000 {
        mesh.publish("out.a", back.event(number), &[]).await;
        back.confirmed(number);
    }
    artemis.kill().unwrap();
    bridge
        .route("in", "a route that says the broker is away", |route| route.state == RouteState::Connecting)
        .await
        .unwrap();
    artemis.start_again().await.unwrap();
    running(&bridge, &["in", "out"]).await;
    let mut client = outside(&artemis).await;
    client.produce("orders", &mut forth, 2_000..4_000).await.unwrap();
    mesh.nats.kill().unwrap();
    client.produce("orders", &mut forth, 4_000..5_000).await.unwrap();
    mesh.comes_back().await;
    assert_eq!(mesh.holds_all("IN", &payloads(&forth, 5_000)).await, 0, "a message id makes an event the same");
    client.collect("target", &mut back, 1_000).await.unwrap();
    assert_eq!(back.verdict().lost, 0);
    for route in ["in", "out"] {
        complete(&bridge.route(route, "nothing in flight", |route| route.counters.in_flight == 0).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_nothing_to_come_twice() {
    let (mesh, artemis, mut outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    let mut config = mesh.config(&endpoint(&artemis.url()));
    let mut sender = outside.sender(&orders).await.unwrap();
    for number in 0..2_000 {
        sender.send(event(format!("{number}").as_bytes(), None, &[])).await.unwrap();
    }
    let mut back = Ledger::new("out");
    for number in 0..500 {
        mesh.publish("out.a", back.event(number), &[]).await;
        back.confirmed(number);
    }
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", &target)]);
    let mut bridge = start(&config);
    bridge.route("in", "some taken", |route| route.counters.delivered > 0).await.unwrap();
    bridge.child.terminate().unwrap();
    bridge.ended().await.unwrap();
    bridge.start_again().unwrap();
    let wanted: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    assert_eq!(
        mesh.holds_all("IN", &wanted).await,
        0,
        "without ids, so that only an acknowledgement keeps them from coming again"
    );
    outside.collect(&target, &mut back, 500).await.unwrap();
    assert_eq!((back.verdict().lost, back.verdict().duplicated), (0, 0));
}
