//! What goes wrong at Kafka: it is told, nothing is lost, and it goes on by itself.

use std::time::Duration;

use eventmesh_tests::child::free_port;
use eventmesh_tests::kafka::{Outside, number};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::world::{LIMIT, World, complete, own_kafka, says, start, start_with_clock};

#[derive(Clone, Copy, Debug)]
enum Server {
    Absent,
    /// Takes the connection and answers nothing.
    Silent,
    /// Reads the first bytes of a request and closes.
    Closing,
}

#[rstest]
#[case(Server::Absent, "can not be reached")]
#[case(Server::Silent, "does not answer")]
#[case(Server::Closing, "closes the connection")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_kafka_is_told(#[case] server: Server, #[case] words: &str) {
    let world = World::new().await;
    let port = free_port().unwrap();
    let serving = tokio::spawn(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut kept = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            match server {
                Server::Absent => unreachable!("nobody listens"),
                Server::Silent => kept.push(socket),
                Server::Closing => drop(socket.read_u8().await),
            }
        }
    });
    if matches!(server, Server::Absent) {
        serving.abort();
    }
    let mut config = world.config();
    config["endpoint"]["kafka"]["bootstrapServers"] = json!([format!("127.0.0.1:{port}")]);
    let bridge = start(&config);
    for route in ["in", "out"] {
        let route = bridge.route(route, "the reason", |route| says(route, words)).await.unwrap();
        assert_eq!(route.state, RouteState::Connecting);
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_hangs_is_told_and_goes_on() {
    let kafka = own_kafka().await;
    let world = World::at(&kafka).await;
    let bridge = world.bridge(&world.config()).await;
    world.outside.produce(&world.topic("in"), "i", 0..500, 0).await.unwrap();
    world.publish("out.a", "o", 0..10).await;
    bridge.route("out", "ten events", |route| route.counters.delivered == 10).await.unwrap();
    kafka.freeze().unwrap();
    world.publish("out.a", "o", 10..200).await;
    bridge.route("out", "word about it", |route| says(route, "has not confirmed an event")).await.unwrap();
    let lost = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Connecting && says(route, "does not answer")
    };
    bridge.route("in", "loss of Kafka", lost).await.unwrap();
    kafka.thaw().unwrap();
    world.holds_all("IN", "i", 500).await;
    world.outside.receives_all(&world.topic("out"), "o", 200).await.unwrap();
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 200).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_is_slow_is_waited_for() {
    let kafka = own_kafka().await;
    let world = World::at(&kafka).await;
    let bridge = world.bridge(&world.config()).await;
    for part in 0..3 {
        kafka.freeze().unwrap();
        world.publish("out.a", "o", part * 50..(part + 1) * 50).await;
        // The fault, not a wait for anything.
        tokio::time::sleep(Duration::from_secs(2)).await;
        kafka.thaw().unwrap();
    }
    assert_eq!(world.outside.receives_all(&world.topic("out"), "o", 150).await.unwrap(), 0, "each came once");
    let route = bridge.route("out", "all delivered", |route| route.counters.delivered == 150).await.unwrap();
    complete(&route);
    assert_eq!((route.state, route.retries, route.last_error), (RouteState::Running, 0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_told_and_found_when_it_is_made() {
    let world = World::new().await;
    let mut config = world.config();
    let (into, out) = (world.topic("late.in"), world.topic("late.out"));
    config["inbound"][0]["from"] = json!(into);
    config["outbound"][0]["to"] = json!(out);
    let bridge = start(&config);
    world.publish("out.a", "o", 0..50).await;
    let route = bridge.route("in", "missing topic", |route| route.state == RouteState::Failed).await.unwrap();
    assert!(says(&route, &format!("there is no topic `{into}`")), "{route:?}");
    let route = bridge.route("out", "missing topic", |route| route.state == RouteState::Blocked).await.unwrap();
    assert!(says(&route, &format!("topic `{out}`: there is no such topic")), "{route:?}");
    for topic in [&into, &out] {
        world.outside.create_topic(topic, 1, &[]).await.unwrap();
    }
    world.outside.produce(&into, "i", 0..50, 0).await.unwrap();
    world.holds_all("IN", "i", 50).await;
    for route in ["in", "out"] {
        let fifty = bridge.route(route, "fifty events", |route| route.counters.delivered == 50).await.unwrap();
        complete(&fifty);
        bridge.route(route, "running route", |route| route.state == RouteState::Running).await.unwrap();
    }
    let records = world.outside.collect(&out, |records| records.len() == 50).await.unwrap();
    let numbers: Vec<_> = records.iter().filter_map(|record| number(record, "o")).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>(), "what waited came in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_ahead_is_told_and_goes_on_when_it_is_right() {
    let world = World::new().await;
    let out = world.topic("clock.out");
    world.outside.create_topic(&out, 1, &[]).await.unwrap();
    let mut config = world.config();
    config["outbound"][0]["to"] = json!(out);
    // Were it the event's fault, this would give it up.
    config["outbound"][0]["deadLetterSubject"] = json!("dead.x");
    let (bridge, clock) = start_with_clock(&config);
    clock.jump(2 * 3_600).unwrap();
    world.publish("out.a", "o", 0..50).await;
    let route = bridge.route("out", "the clock", |route| says(route, "the clock of the bridge's node")).await.unwrap();
    assert_eq!(route.state, RouteState::Blocked);
    clock.jump(0).unwrap();
    complete(&bridge.route("out", "fifty events", |route| route.counters.delivered == 50).await.unwrap());
    let records = world.outside.collect(&out, |records| records.len() == 50).await.unwrap();
    let numbers: Vec<_> = records.iter().filter_map(|record| number(record, "o")).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>(), "in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_and_made_anew_is_read_from_its_beginning() {
    let world = World::new().await;
    let bridge = world.bridge(&world.config()).await;
    let (into, out) = (world.topic("in"), world.topic("out"));
    world.outside.produce(&into, "old", 0..300, 0).await.unwrap();
    world.publish("out.a", "old", 0..10).await;
    world.holds_all("IN", "old", 300).await;
    bridge.route("out", "ten events", |route| route.counters.delivered == 10).await.unwrap();
    for topic in [&into, &out] {
        world.outside.delete_topic(topic).await.unwrap();
    }
    // For a moment the old topic still takes events, confirms them, and is gone with them.
    eventually("an end of the old topic", LIMIT, async || {
        world.publish("out.a", "probe", 0..1).await;
        let report = bridge.report().await.map_err(|error| error.to_string())?;
        Ok(report.routes.iter().any(|route| route.name == "out" && route.state == RouteState::Blocked).then_some(()))
    })
    .await
    .unwrap();
    world.publish("out.a", "new", 0..100).await;
    for (topic, partitions) in [(&into, 3), (&out, 2)] {
        world.outside.create_topic(topic, partitions, &[]).await.unwrap();
    }
    // With the offsets that the old ones had.
    world.outside.produce(&into, "new", 0..300, 0).await.unwrap();
    world.holds_all("IN", "new", 300).await;
    // The client that knew the old topic goes on reading that.
    let afresh = Outside::connect(&world.bootstrap).await.unwrap();
    afresh.receives_all(&out, "new", 100).await.unwrap();
    complete(&bridge.route("in", "600 events", |route| route.counters.delivered >= 600).await.unwrap());
}

#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_stops_no_other(#[case] dead_letters: bool) {
    let world = World::new().await;
    let out = world.topic("small");
    world.outside.create_topic(&out, 1, &[("max.message.bytes", "2000")]).await.unwrap();
    let mut config = world.config();
    config["outbound"][0]["to"] = json!(out);
    if dead_letters {
        config["outbound"][0]["deadLetterSubject"] = json!("dead.out");
    }
    let bridge = world.bridge(&config).await;
    let context = async_nats::jetstream::new(world.client.clone());
    world.publish("out.a", "o", 0..10).await;
    context.publish("out.a", vec![7; 10_000].into()).await.unwrap().await.unwrap();
    world.publish("out.a", "o", 10..20).await;
    world.outside.receives_all(&out, "o", 20).await.unwrap();
    let route = if dead_letters {
        bridge.route("out", "a dead letter", |route| route.counters.dead_lettered == 1).await.unwrap()
    } else {
        bridge.route("out", "obstacle", |route| route.state == RouteState::Blocked).await.unwrap()
    };
    assert!(says(&route, "raise the topic's max.message.bytes"), "{route:?}");
    complete(&route);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_bridge_has_committed_what_it_took() {
    let world = World::new().await;
    let bridge = world.bridge(&world.config()).await;
    world.outside.produce(&world.topic("in"), "i", 0..1_000, 0).await.unwrap();
    bridge.route("in", "some events", |route| route.counters.delivered > 0).await.unwrap();
    bridge.child.terminate().unwrap();
    tokio::time::timeout(LIMIT, bridge.ended()).await.unwrap().unwrap();
    let stored = i64::try_from(world.messages("IN").await.len()).unwrap();
    world.committed(stored).await;
}
