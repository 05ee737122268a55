//! Neighbours that are away, slow or unwilling for a while: the bridge says what it waits for, and goes on at once.

use crate::common::hanging::{HangingBroker, Hangs};
use crate::common::{LIMIT, Outside, World, complete, running, says, start};
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::Nats;
use eventmesh_tests::process::nats::{api, create_consumer, create_stream};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use futures::StreamExt as _;
use rstest::rstest;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_told_and_what_waits_goes_as_soon_as_it_is_there() {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["inbound"][0]["to"] = json!("late.{1}");
    config["inbound"][0]["stream"] = json!("LATE");
    // Without a look at the stream it would be tried again after minutes at the earliest, when nobody waits any more.
    config["delivery"]["retry"] = json!({"initialMs": 600_000, "maxMs": 600_000});
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..20).await;
    let missing = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Blocked && says(route, "there is no stream `LATE`; is its Topic there")
    };
    bridge.route("in", "word about the stream", missing).await.unwrap();
    create_stream(&world.client, "LATE", &["other.>"], &json!({})).await.unwrap();
    bridge.route("in", "word about its subjects", |route| says(route, "takes `other.>`")).await.unwrap();
    let wider = json!({"name": "LATE", "subjects": ["late.>"], "storage": "file", "num_replicas": 1,
        "allow_atomic": true, "allow_batched": true});
    api(&world.client, "STREAM.UPDATE.LATE", &wider).await.unwrap();
    // The route runs when the events that met the obstacle are past it; others may still be on their way then.
    let settled = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Running && route.counters.in_flight == 0
    };
    bridge.route("in", "running route", settled).await.unwrap();
    assert_eq!(world.holds_all("LATE", "i", 20).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_choose_a_leader_are_not_taken_for_a_missing_topic() {
    let folders = ["nats-0", "nats-1", "nats-2"].map(|name| scratch(name).unwrap());
    let world = World::new().await;
    let mut brokers = Nats::cluster(folders, &world.accounts).await.unwrap();
    let client = brokers[0].client().await.unwrap();
    eventually("a stream in the cluster", LIMIT, async || {
        let created = create_stream(&client, "IN3", &["in3.>"], &json!({"num_replicas": 3})).await;
        created.map(Some).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    let mut config = world.config("V5");
    config["mesh"]["servers"] = json!([brokers[0].url()]);
    config["inbound"][0]["to"] = json!("in3.{1}");
    config["inbound"][0]["stream"] = json!("IN3");
    config["outbound"] = json!([]);
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..20).await;
    bridge.route("in", "20 events", |route| route.counters.delivered == 20).await.unwrap();
    // One of three can choose nobody.
    brokers[1].kill().unwrap();
    brokers[2].kill().unwrap();
    outside.publish("line/7/t", "i", 20..40).await;
    let route = bridge
        .route("in", "word about the leader", |route| {
            route.state == RouteState::Blocked && says(route, "choosing a leader")
        })
        .await
        .unwrap();
    assert!(!says(&route, "is its Topic there"), "{route:?}");
    brokers[1].start_again().await.unwrap();
    brokers[2].start_again().await.unwrap();
    let settled = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Running && route.counters.delivered == 40
    };
    complete(&bridge.route("in", "running route", settled).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_long_for_the_outside_broker_is_not_given_twice() {
    const COUNT: usize = 5;
    let world = World::new().await;
    // Long enough for a machine that stands still for seconds.
    create_consumer(&world.client, "OUT", "slow", 8).await.unwrap();
    let broker = HangingBroker::start(Hangs::WithPubacks).await;
    let mut config = world.config("V5");
    config["endpoint"]["mqtt"]["url"] = json!(broker.url);
    config["outbound"][0]["consumer"] = json!("slow");
    let bridge = start(&config);
    running(&bridge, &["out"]).await;
    let mut answers = world.client.subscribe("$JS.ACK.OUT.slow.>").await.unwrap();
    world.client.flush().await.unwrap();
    world.publish_mesh("o", 0..COUNT).await;
    // Each is told of at half the ack wait; four times is twice as long as the stream would have waited.
    let mut told = 0;
    while told < 4 * COUNT {
        let answer = tokio::time::timeout(LIMIT, answers.next()).await.expect("a sign of life in time").unwrap();
        assert_eq!(answer.payload.as_ref(), b"+WPI");
        told += 1;
    }
    let info = api(&world.client, "CONSUMER.INFO.OUT.slow", &json!({})).await.unwrap();
    assert_eq!((&info["num_redelivered"], &info["num_ack_pending"]), (&json!(0), &json!(COUNT)), "{info}");
    broker.go_on();
    let route =
        bridge.route("out", "delivered events", |route| route.counters.delivered == COUNT as u64).await.unwrap();
    complete(&route);
    assert_eq!(broker.published(), COUNT, "each once");
    eventually("acknowledged events", LIMIT, async || {
        let info = api(&world.client, "CONSUMER.INFO.OUT.slow", &json!({})).await.map_err(|error| error.to_string())?;
        if info["ack_floor"]["stream_seq"] == COUNT { Ok(Some(())) } else { Err(info.to_string()) }
    })
    .await
    .unwrap();
}

/// Another client with the bridge's client id, which connects again whenever it is thrown out.
struct Rival {
    pings: tokio::sync::mpsc::UnboundedReceiver<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Rival {
    fn connect(port: u16) -> Self {
        let mut options = MqttOptions::new("bridge", ("127.0.0.1".to_owned(), port));
        // Not so short that the broker ends the connection because this machine is slow.
        options.set_clean_start(true).set_keep_alive(4);
        let (client, mut events) = AsyncClient::builder(options).unbounded().build();
        let (pings_in, pings) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let _stays = client;
            loop {
                if let Ok(Event::Incoming(Packet::PingResp)) = events.poll().await {
                    let _ = pings_in.send(());
                }
            }
        });
        Self { pings, task }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// This mosquitto only closes, in both versions.
#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn another_client_with_the_same_id_is_told_and_not_fought(#[case] version: &str) {
    let world = World::with("", "log_type notice").await;
    let mut config = world.config(version);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let mut rival = Rival::connect(world.mosquitto.port);
    let told = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Failed && says(route, "another client may use the client id `bridge`")
    };
    bridge.route("in", "word about the other client", told).await.unwrap();
    for _ in 0..3 {
        tokio::time::timeout(LIMIT, rival.pings.recv()).await.expect("an undisturbed connection").unwrap();
    }
    let connects = world.mosquitto.connects("bridge");
    assert!(connects <= 10, "each of the two connected a few times and no more, not {connects} times");
    config["endpoint"]["mqtt"]["clientId"] = json!("bridge-2");
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in", "out"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..10).await;
    world.holds_all("IN", "i", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_tells_of_a_takeover_is_left_alone_at_once() {
    let world = World::new().await;
    let broker = HangingBroker::start(Hangs::WithPubacks).await;
    let mut config = world.config("V5");
    config["endpoint"]["mqtt"]["url"] = json!(broker.url);
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    broker.take_over();
    let told = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Failed && says(route, "another client connected with the client id `bridge`")
    };
    let route = bridge.route("in", "word about the other client", told).await.unwrap();
    eventually("five more seconds of reports", LIMIT, async || {
        let report = bridge.report().await.map_err(|error| error.to_string())?;
        Ok((report.at.as_second() >= route.since.as_second() + 5).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(broker.connects(), 1);
}

#[rstest]
#[case("Atomic")]
#[case("Single")]
#[tokio::test(flavor = "multi_thread")]
async fn wrong_mesh_credentials_are_told_and_can_be_corrected(#[case] ingest: &str) {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["inbound"][0]["ingest"] = json!(ingest);
    let forged = world.accounts.forged().unwrap();
    config["mesh"]["credentials"] = forged.as_config();
    let bridge = start(&config);
    let told = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Failed && says(route, "refuses the credentials")
    };
    bridge.route("in", "word about the credentials", told).await.unwrap();
    let report = bridge.report().await.unwrap();
    assert!(!report.connected.mesh);
    eventually("tries again", LIMIT, async || {
        let tries = world.nats.log().matches("authentication error").count();
        if tries >= 4 { Ok(Some(())) } else { Err(format!("{tries} tries")) }
    })
    .await
    .unwrap();
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..50).await;
    config["mesh"]["credentials"] = world.accounts.bridge().unwrap().as_config();
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in", "out"]).await;
    world.holds_all("IN", "i", 50).await;
    complete(&bridge.route("in", "settled route", |route| route.counters.in_flight == 0).await.unwrap());
    let log = bridge.child.log_tail(usize::MAX);
    assert!(!log.contains(&forged.seed) && !log.contains(&forged.jwt), "credentials are in the log");
}
