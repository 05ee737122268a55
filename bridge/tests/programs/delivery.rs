//! Events cross both ways in both versions, and none is lost whatever is killed.

use crate::common::hanging::{HangingBroker, Hangs};
use crate::common::{Outside, World, balanced, complete, running, start};
use eventmesh_tests::process::nats::{api, create_stream};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::json;

#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn events_cross_both_ways(#[case] version: &str) {
    let world = World::new().await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    let bridge = start(&world.config(version));
    running(&bridge, &["in", "out"]).await;
    outside.publish("line/7/t", "i", 0..2_000).await;
    world.publish_mesh("o", 0..500).await;
    assert_eq!(world.holds_all("IN", "i", 2_000).await, 0, "nothing is there twice");
    assert_eq!(outside.receives_all("o", 500).await, 0);
    let report = bridge.route("in", "all delivered", |route| route.counters.delivered == 2_000).await.unwrap();
    assert_eq!(report.counters.received, 2_000);
    assert_eq!(report.retries, 0, "no batch is refused");
    let report = bridge.route("out", "all delivered", |route| route.counters.delivered == 500).await.unwrap();
    assert_eq!(report.lag, Some(0));
    eventually("acknowledged events", crate::common::LIMIT, async || {
        let info = api(&world.client, "CONSUMER.INFO.OUT.c", &json!({})).await.map_err(|error| error.to_string())?;
        if info["num_ack_pending"] == 0 { Ok(Some(())) } else { Err(info.to_string()) }
    })
    .await
    .unwrap();
    let message = &world.messages("IN").await[0];
    assert_eq!(message.subject.as_str(), "in.7.t");
    assert_eq!(message.headers.as_ref().unwrap().get("Em-Bridge").unwrap().as_str(), crate::common::UID);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_a_bridge_suffice() {
    let world = World::new().await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    let mut config = world.config("V5");
    config["inbound"].as_array_mut().unwrap().push(json!({"name": "odd", "from": "odd/+", "to": "in.{1}.odd",
        "stream": "IN", "filter": "event.data.number > 1", "deadLetterSubject": "dead.letters"}));
    let bridge = start(&config);
    running(&bridge, &["in", "out", "odd"]).await;
    outside.publish("line/7/t", "i", 0..500).await;
    outside.publish("odd/7", "no number ", 0..1).await;
    world.publish_mesh("o", 0..500).await;
    world.holds_all("IN", "i", 500).await;
    assert_eq!(outside.receives_all("o", 500).await, 0);
    bridge.route("odd", "dead letter", |route| route.counters.dead_lettered == 1).await.unwrap();
    for route in ["in", "out"] {
        complete(&bridge.route(route, "delivered events", |route| route.counters.delivered == 500).await.unwrap());
    }
    // A missing stream is asked about, which must be allowed too.
    api(&world.client, "STREAM.DELETE.IN", &json!({})).await.unwrap();
    outside.publish("line/7/t", "late", 0..1).await;
    bridge
        .route("in", "word about the stream", |route| crate::common::says(route, "there is no stream `IN`"))
        .await
        .unwrap();
    create_stream(&world.client, "IN", &["in.>"], &json!({})).await.unwrap();
    world.holds_all("IN", "late", 1).await;
    let log = bridge.child.log_tail(usize::MAX).to_lowercase();
    assert!(!log.contains("permissions violation"), "{log}");
}

#[rstest]
#[case("Single")]
#[case("Fast")]
#[case("Atomic")]
#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_stores_each_event_once(#[case] ingest: &str) {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["inbound"][0]["ingest"] = json!(ingest);
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..3_000).await;
    assert_eq!(world.holds_all("IN", "i", 3_000).await, 0);
    let route = bridge.route("in", "all delivered", |route| route.counters.delivered == 3_000).await.unwrap();
    assert_eq!(route.retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_drops_and_says_so() {
    let world = World::new().await;
    let limit = json!({"max_msgs": 10, "discard": "new"});
    create_stream(&world.client, "FULL", &["full.>"], &limit).await.unwrap();
    let mut config = world.config("V5");
    config["delivery"]["guarantee"] = json!("AtMostOnce");
    config["inbound"][0]["to"] = json!("full.{1}");
    config["inbound"][0]["stream"] = json!("FULL");
    config["inbound"][0]["ingest"] = json!("Single");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..30).await;
    let route = bridge
        .route("in", "30 events", |route| route.counters.received == 30 && route.counters.in_flight == 0)
        .await
        .unwrap();
    assert_eq!((route.counters.delivered, route.counters.dropped), (10, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_counts_what_a_lost_connection_took_with_it() {
    const COUNT: u64 = 200;
    let world = World::new().await;
    let broker = HangingBroker::start(Hangs::WithReading).await;
    let mut config = world.config("V5");
    config["delivery"]["guarantee"] = json!("AtMostOnce");
    config["endpoint"]["mqtt"]["url"] = json!(broker.url);
    let bridge = start(&config);
    running(&bridge, &["out"]).await;
    // More than the sockets can hold.
    let context = async_nats::jetstream::new(world.client.clone());
    for _ in 0..COUNT {
        context.publish("out.a", vec![7; 100_000].into()).await.unwrap().await.unwrap();
    }
    bridge
        .route("out", "events in hand", |route| route.counters.received == COUNT && route.counters.in_flight > 0)
        .await
        .unwrap();
    broker.go_on();
    let route = bridge.route("out", "settled route", |route| route.counters.in_flight == 0).await.unwrap();
    balanced(&route);
    assert!(route.counters.dropped > 0, "{route:?}");
    assert_eq!(route.counters.delivered + route.counters.dropped, COUNT, "each is counted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_counts_what_the_mesh_did_not_confirm() {
    let mut world = World::new().await;
    let mut config = world.config("V5");
    config["delivery"]["guarantee"] = json!("AtMostOnce");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let port = world.mosquitto.port;
    let publishing = tokio::spawn(async move {
        let mut sender = Outside::connect(port, "sender", "none").await;
        sender.publish("line/7/t", "i", 0..3_000).await;
    });
    bridge.route("in", "events on their way", |route| route.counters.delivered > 200).await.unwrap();
    world.nats.kill().unwrap();
    bridge.route("in", "loss of the mesh", |route| route.state == RouteState::Connecting).await.unwrap();
    publishing.await.unwrap();
    world.mesh_comes_back().await;
    running(&bridge, &["in"]).await;
    let route = bridge.route("in", "settled route", |route| route.counters.in_flight == 0).await.unwrap();
    balanced(&route);
    let stored = world.stored("IN").await;
    assert!(stored.values().all(|times| *times == 1), "at most once");
    let (stored, sure) = (stored.len() as u64, route.counters.delivered);
    assert!((sure..=sure + route.counters.dropped).contains(&stored), "{stored} stored, {route:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_tried_often_enough_is_a_dead_letter() {
    let world = World::new().await;
    let limit = json!({"max_msgs": 10, "discard": "new"});
    create_stream(&world.client, "FULL", &["full.>"], &limit).await.unwrap();
    let mut config = world.config("V5");
    config["delivery"]["retry"]["attempts"] = json!(3);
    config["inbound"][0]["to"] = json!("full.{1}");
    config["inbound"][0]["stream"] = json!("FULL");
    config["inbound"][0]["deadLetterSubject"] = json!("dead.letters");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..30).await;
    let route = bridge.route("in", "dead letters", |route| route.counters.dead_lettered == 20).await.unwrap();
    balanced(&route);
    let headers = world.messages("DEAD").await[0].headers.clone().unwrap();
    assert_eq!(headers.get("Em-Dead-Tries").unwrap().as_str(), "3");
    assert_eq!(headers.get("Em-Dead-Origin").unwrap().as_str(), "line/7/t");
    assert!(headers.get("Em-Dead-Cause").unwrap().as_str().contains("maximum messages exceeded"));
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Bridge,
    Mesh,
}

#[rstest]
#[case("V5", Victim::Bridge)]
#[case("V5", Victim::Mesh)]
#[case("V311", Victim::Bridge)]
#[case("V311", Victim::Mesh)]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_something_is_killed(#[case] version: &str, #[case] victim: Victim) {
    let mut world = World::new().await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    let mut bridge = start(&world.config(version));
    running(&bridge, &["in", "out"]).await;
    world.publish_mesh("o", 0..300).await;
    let port = world.mosquitto.port;
    let publishing = tokio::spawn(async move {
        let mut sender = Outside::connect(port, "sender", "none").await;
        sender.publish("line/7/t", "i", 0..3_000).await;
    });
    bridge.route("in", "events on their way", |route| route.counters.delivered > 200).await.unwrap();
    match victim {
        Victim::Bridge => bridge.kill_and_start_again().unwrap(),
        Victim::Mesh => {
            world.nats.kill().unwrap();
            bridge.route("in", "loss of the mesh", |route| route.state == RouteState::Connecting).await.unwrap();
            world.mesh_comes_back().await;
        }
    }
    publishing.await.unwrap();
    world.publish_mesh("o", 300..400).await;
    world.holds_all("IN", "i", 3_000).await;
    outside.receives_all("o", 400).await;
    for route in ["in", "out"] {
        complete(&bridge.route(route, "settled route", |route| route.counters.in_flight == 0).await.unwrap());
    }
}

#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_mesh_has_not_stored_stays_with_the_outside_broker(#[case] version: &str) {
    let mut world = World::new().await;
    let mut bridge = start(&world.config(version));
    running(&bridge, &["in"]).await;
    world.nats.kill().unwrap();
    bridge.route("in", "loss of the mesh", |route| route.state == RouteState::Connecting).await.unwrap();
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..300).await;
    bridge.route("in", "events in hand", |route| route.counters.in_flight > 0).await.unwrap();
    bridge.child.kill().unwrap();
    world.mesh_comes_back().await;
    bridge.start_again().unwrap();
    world.holds_all("IN", "i", 300).await;
}

/// mosquitto acknowledges before it saves, so what it holds is put on disk before it is killed: the loss looked for here is
/// the bridge's, when the broker comes back with an older state of the session.
#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_outside_broker_is_killed(#[case] version: &str) {
    let mut world = World::new().await;
    let mut bridge = start(&world.config(version));
    running(&bridge, &["in"]).await;
    bridge.child.terminate().unwrap();
    bridge.ended().await.unwrap();
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..3_000).await;
    world.mosquitto.saved().await.unwrap();
    bridge.start_again().unwrap();
    bridge.route("in", "events on their way", |route| route.counters.delivered > 100).await.unwrap();
    world.mosquitto.kill().unwrap();
    bridge.route("in", "loss of the broker", |route| route.state == RouteState::Connecting).await.unwrap();
    world.mosquitto.start_again().await.unwrap();
    world.holds_all("IN", "i", 3_000).await;
    complete(&bridge.route("in", "settled route", |route| route.counters.in_flight == 0).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_on_its_way_and_leaves_the_rest_with_the_broker() {
    let world = World::new().await;
    let mut bridge = start(&world.config("V5"));
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..500).await;
    bridge.child.terminate().unwrap();
    assert!(bridge.ended().await.unwrap().success());
    outside.publish("line/7/t", "i", 500..1_000).await;
    bridge.start_again().unwrap();
    assert_eq!(world.holds_all("IN", "i", 1_000).await, 0, "a clean stop repeats nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_is_stored_once() {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["inbound"][0]["idHeader"] = json!("order");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    for number in 0..300 {
        outside.send("line/7/t", format!("i{number}"), &[("order", &number.to_string())]).await;
        outside.send("line/7/t", format!("i{number}"), &[("order", &number.to_string())]).await;
    }
    let cloud = [("specversion", "1.0"), ("id", "1"), ("source", "a"), ("order", "")];
    outside.send("line/7/t", "i300", &cloud).await;
    outside.send("line/7/t", "i300", &cloud).await;
    let route = bridge.route("in", "602 events", |route| route.counters.delivered == 602).await.unwrap();
    balanced(&route);
    assert_eq!(world.holds_all("IN", "i", 301).await, 0, "the id is known to the stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_stopped_and_filters_are_counted() {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["outbound"][0]["to"] = json!("line/{1}/t");
    config["inbound"][0]["filter"] = json!("event.data != 'no'");
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    world.publish_mesh("o", 0..10).await;
    let outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.send("line/7/t", "no", &[]).await;
    outside.send("line/7/t", "yes", &[]).await;
    let route = bridge
        .route("in", "12 events", |route| route.counters.received == 12 && route.counters.in_flight == 0)
        .await
        .unwrap();
    assert_eq!((route.counters.filtered, route.counters.delivered), (11, 1));
}
