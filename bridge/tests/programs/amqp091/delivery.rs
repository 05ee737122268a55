//! Events cross both ways, with what they say of themselves, and none is lost whatever is killed.

use std::collections::BTreeSet;

use eventmesh_tests::ledger::Ledger;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::Rabbitmq;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::json;

use super::{endpoint, outside, unique, world};
use crate::amqp::{Mesh, inbound, outbound};
use crate::common::{complete, running, start};

fn payloads(ledger: &Ledger, count: u32) -> Vec<String> {
    (0..count).map(|number| ledger.event(number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_cross_both_ways() {
    let (mesh, rabbitmq, outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    outside.queue(&orders, &[]).await.unwrap();
    outside.queue(&target, &[]).await.unwrap();
    outside.bind(&target, "amq.topic", &format!("{target}.*.set")).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", &format!("amq.topic/{target}.{{1}}.set"))]);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;

    let mut ledger = Ledger::new("in");
    outside.produce("", &orders, &mut ledger, 0..2_000).await.unwrap();
    assert_eq!(mesh.holds_all("IN", &payloads(&ledger, 2_000)).await, 0, "nothing is there twice");
    complete(&bridge.route("in", "all delivered", |route| route.counters.delivered == 2_000).await.unwrap());

    let mut back = Ledger::new("out");
    for number in 0..500 {
        mesh.publish("out.a", back.event(number), &[]).await;
        back.confirmed(number);
    }
    outside.collect(&target, &mut back, 500).await.unwrap();
    assert_eq!((back.verdict().lost, back.verdict().duplicated), (0, 0));
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 500).await.unwrap());
    assert_eq!(outside.waiting(&orders).await.unwrap(), Some(0), "what is stored is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_message_says_of_itself_crosses() {
    let (mesh, rabbitmq, outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    outside.queue(&orders, &[]).await.unwrap();
    outside.queue(&target, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["inbound"] = json!([inbound("in", &format!("/{orders}"), "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.>", &target)]);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;

    let mut table = FieldTable::default();
    for (name, value) in
        [("cloudEvents:id", "1"), ("cloudEvents:source", "/a"), ("cloudEvents:specversion", "1.0"), ("x", "ä")]
    {
        table.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_headers(table)
        .with_content_type("application/json".into())
        .with_correlation_id("c-1".into());
    outside.publish("", &orders, b"{}", properties).await.unwrap();
    // The same message id twice is the same event; a CloudEvents source and id go before it.
    for _ in 0..2 {
        let properties = BasicProperties::default().with_message_id("m-1".into());
        outside.publish("", &orders, b"again", properties).await.unwrap();
    }
    bridge.route("in", "three taken", |route| route.counters.delivered == 3).await.unwrap();
    let messages = mesh.messages("IN").await;
    assert_eq!(messages.len(), 2, "{messages:?}");
    let headers = messages[0].headers.as_ref().unwrap();
    for (name, value) in [
        ("ce-id", "1"),
        ("ce-source", "/a"),
        ("content-type", "application/json"),
        ("correlation-id", "c-1"),
        ("x", "ä"),
        ("Nats-Msg-Id", "/a#1"),
    ] {
        assert_eq!(headers.get(name).map(async_nats::HeaderValue::as_str), Some(value), "{name}");
    }
    let headers = [("ce-id", "7"), ("content-type", "text/plain"), ("correlation-id", "c-2"), ("x", "y")];
    mesh.publish("out.a.b", "hello", &headers).await;
    mesh.publish("out.a.b", "anonymous", &[("message-id", "mine")]).await;
    let mut arrivals = outside.consume(&target).await.unwrap();
    let first = arrivals.next().await.unwrap();
    assert_eq!(first.payload, b"hello");
    assert_eq!(first.header("cloudEvents:id").as_deref(), Some("7"));
    assert_eq!(first.header("x").as_deref(), Some("y"));
    assert_eq!(first.header("em-bridge").as_deref(), Some(crate::common::UID));
    assert_eq!(first.properties.content_type().as_ref().map(ShortString::as_str), Some("text/plain"));
    assert_eq!(first.properties.correlation_id().as_ref().map(ShortString::as_str), Some("c-2"));
    assert_eq!(first.properties.message_id().as_ref().map(ShortString::as_str), Some("OUT:1"));
    assert_eq!(*first.properties.delivery_mode(), Some(2));
    let second = arrivals.next().await.unwrap();
    assert_eq!(second.properties.message_id().as_ref().map(ShortString::as_str), Some("mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_structured_mode_is_unwrapped_and_a_broken_one_is_a_dead_letter() {
    let (mesh, rabbitmq, outside) = world().await;
    let orders = unique("orders");
    outside.queue(&orders, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["inbound"][0]["deadLetterSubject"] = json!("dead.in");
    let bridge = start(&config);
    let structured = || BasicProperties::default().with_content_type("application/cloudevents+json".into());
    let event = br#"{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{"n":1}}"#;
    outside.publish("", &orders, event, structured()).await.unwrap();
    outside.publish("", &orders, b"{", structured()).await.unwrap();
    let route = bridge
        .route("in", "one of each", |route| (route.counters.delivered, route.counters.dead_lettered) == (1, 1))
        .await
        .unwrap();
    complete(&route);
    assert_eq!(mesh.messages("IN").await[0].headers.as_ref().unwrap().get("ce-type").unwrap().as_str(), "t");
    assert_eq!(mesh.stored("DEAD").await.keys().collect::<Vec<_>>(), ["{"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_events_do_not_come_back() {
    let (mesh, rabbitmq, outside) = world().await;
    let circle = unique("circle");
    outside.queue(&circle, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["inbound"] = json!([inbound("in", &circle, "in.circle")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", &circle)]);
    let bridge = start(&config);
    mesh.publish("out.a", "round", &[]).await;
    complete(&bridge.route("in", "filtered event", |route| route.counters.filtered == 1).await.unwrap());
    assert_eq!(mesh.messages("IN").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_has_a_queue_of_its_own_which_goes_with_its_route_when_it_is_empty() {
    let (mesh, rabbitmq, outside) = world().await;
    let (first, second) = (unique("first"), unique("second"));
    let own = |route: &str| format!("eventmesh-shop-factory-{route}");
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["inbound"] = json!([
        inbound(&first, &format!("amq.topic/{first}.*.t"), "in.first.{1}"),
        inbound(&second, &format!("amq.topic/{second}.#"), "in.second.{1}"),
    ]);
    let bridge = start(&config);
    running(&bridge, &[&first, &second]).await;
    let say = async |key: &str| outside.publish("amq.topic", key, key.as_bytes(), BasicProperties::default()).await;
    say(&format!("{first}.7.t")).await.unwrap();
    say(&format!("{second}.a.b")).await.unwrap();
    say(&second).await.unwrap();
    mesh.holds_all("IN", &[format!("{first}.7.t"), format!("{second}.a.b"), second.clone()]).await;
    let subjects: BTreeSet<String> = mesh.messages("IN").await.iter().map(|m| m.subject.to_string()).collect();
    assert_eq!(subjects, ["in.first.7", "in.second.%-", "in.second.a.b"].map(str::to_owned).into());

    // What comes after the route has gone is for nobody; what came before and was not taken stays.
    let kept = format!("{second}.kept");
    bridge.child.kill().unwrap();
    say(&kept).await.unwrap();
    // The broker may have given it to the dead, and takes it back when it hears of the death; with it what was not acknowledged yet.
    eventmesh_tests::wait::eventually("an event that waits", crate::common::LIMIT, async || {
        let waiting = outside.waiting(&own(&second)).await.map_err(|error| error.to_string())?;
        if waiting > Some(0) { Ok(Some(())) } else { Err(format!("{waiting:?}")) }
    })
    .await
    .unwrap();
    config["inbound"].as_array_mut().unwrap().remove(0);
    let bridge = start(&config);
    mesh.holds_all("IN", &[kept]).await;
    assert!(outside.waiting(&own(&first)).await.unwrap().is_some(), "no bridge ran that could have known the route");
    let mut without = config.clone();
    without["inbound"] = json!([inbound("other", &own(&first), "in.other")]);
    bridge.write_config(&without.to_string()).unwrap();
    eventmesh_tests::wait::eventually("the queue is gone", crate::common::LIMIT, async || {
        let waiting = outside.waiting(&own(&second)).await.map_err(|error| error.to_string())?;
        waiting.map_or(Ok(Some(())), |count| Err(format!("{count} waiting")))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_bridge_is_killed() {
    let (mesh, rabbitmq, outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    outside.queue(&orders, &[]).await.unwrap();
    outside.queue(&target, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", &target)]);
    let mut bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let (mut forth, mut back) = (Ledger::new("in"), Ledger::new("out"));
    for part in 0..4_u32 {
        outside.produce("", &orders, &mut forth, part * 1_000..(part + 1) * 1_000).await.unwrap();
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
    let route = bridge.route("out", "nothing in flight", |route| route.counters.in_flight == 0).await.unwrap();
    complete(&route);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_either_broker_is_killed() {
    let mut mesh = Mesh::new().await;
    let mut rabbitmq = Rabbitmq::start(scratch("rabbitmq").unwrap(), "").await.unwrap();
    let url = rabbitmq.url();
    let client = outside(&rabbitmq).await;
    client.queue("orders", &[]).await.unwrap();
    client.queue("target", &[]).await.unwrap();
    rabbitmq.write_definitions().unwrap();
    let mut config = mesh.config(&endpoint(&url));
    config["inbound"] = json!([inbound("in", "orders", "in.orders")]);
    config["outbound"] = json!([outbound("out", "c", "out.*", "target")]);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let (mut forth, mut back) = (Ledger::new("in"), Ledger::new("out"));
    client.produce("", "orders", &mut forth, 0..2_000).await.unwrap();
    for number in 0..1_000 {
        mesh.publish("out.a", back.event(number), &[]).await;
        back.confirmed(number);
    }
    rabbitmq.kill().unwrap();
    bridge
        .route("in", "a route that says the broker is away", |route| {
            route.state == eventmesh_wire::report::RouteState::Connecting
        })
        .await
        .unwrap();
    rabbitmq.start_again().await.unwrap();
    running(&bridge, &["in", "out"]).await;
    let client = outside(&rabbitmq).await;
    client.produce("", "orders", &mut forth, 2_000..4_000).await.unwrap();
    mesh.nats.kill().unwrap();
    client.produce("", "orders", &mut forth, 4_000..5_000).await.unwrap();
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
    let (mesh, rabbitmq, outside) = world().await;
    let (orders, target) = (unique("orders"), unique("target"));
    outside.queue(&orders, &[]).await.unwrap();
    outside.queue(&target, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    for number in 0..2_000 {
        outside.publish("", &orders, format!("{number}").as_bytes(), BasicProperties::default()).await.unwrap();
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
