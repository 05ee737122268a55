//! What bad input and bad neighbours get: a precise word, endless patience, and no loss.

use std::path::PathBuf;

use crate::common::{Outside, World, running, start};
use eventmesh_tests::child::free_port;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::Mosquitto;
use eventmesh_tests::process::nats::{api, create_stream};
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::json;

#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told(#[case] version: &str) {
    let folder: PathBuf = scratch("passwords").unwrap();
    let extra = Mosquitto::password(&folder, "bridge", "right").unwrap();
    let world = World::with("", &extra).await;
    let mut config = world.config(version);
    config["endpoint"]["mqtt"]["username"] = json!("bridge");
    config["endpoint"]["mqtt"]["password"] = json!("wrong");
    let bridge = start(&config);
    let told = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Failed
            && route.last_error.as_ref().is_some_and(|error| error.message.contains("check username and password"))
    };
    bridge.route("in", "word about the password", told).await.unwrap();
    assert!(!bridge.child.log_tail(1_000).contains("wrong"), "the password is in the log");
    config["endpoint"]["mqtt"]["password"] = json!("right");
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in", "out"]).await;
}

#[rstest]
#[case("hangs", "hangs")]
#[case("closes", "closed the connection")]
#[case("refuses", "refuses the connection")]
#[case("unknown", "can not connect")]
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_none_is_told(#[case] kind: &str, #[case] word: &str) {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut url = format!("mqtt://{}", listener.local_addr().unwrap());
    match kind {
        "hangs" => drop(tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                held.push(socket);
            }
        })),
        "closes" => drop(tokio::spawn(async move { while listener.accept().await.is_ok() {} })),
        // Not the one of the listener: others could get that when it is free.
        "refuses" => url = format!("mqtt://127.0.0.1:{}", free_port().unwrap()),
        _ => url = "mqtt://broker.invalid".to_owned(),
    }
    let mut config = world.config("V5");
    config["endpoint"]["mqtt"]["url"] = json!(url);
    let bridge = start(&config);
    let told = |route: &eventmesh_wire::report::RouteReport| {
        route.last_error.as_ref().is_some_and(|error| error.message.contains(word))
    };
    let route = bridge.route("in", word, told).await.unwrap();
    assert_eq!(route.state, RouteState::Connecting);
    assert_eq!(bridge.get("/readyz").await.unwrap().0, 503);
    assert_eq!(bridge.get("/livez").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_blocks_the_route_until_there_is_room() {
    let world = World::new().await;
    let limit = json!({"max_msgs": 10, "discard": "new"});
    create_stream(&world.client, "FULL", &["full.>"], &limit).await.unwrap();
    let mut config = world.config("V5");
    config["inbound"][0]["to"] = json!("full.{1}");
    config["inbound"][0]["stream"] = json!("FULL");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..30).await;
    let route = bridge
        .route("in", "blocked route", |route| route.state == RouteState::Blocked && route.counters.in_flight == 20)
        .await
        .unwrap();
    assert!(route.last_error.unwrap().message.contains("maximum messages exceeded"));
    let stream = api(&world.client, "STREAM.INFO.FULL", &json!({})).await.unwrap();
    let mut config = stream["config"].clone();
    config["max_msgs"] = json!(1_000);
    api(&world.client, "STREAM.UPDATE.FULL", &config).await.unwrap();
    world.holds_all("FULL", "i", 30).await;
    bridge
        .route("in", "running route", |route| route.state == RouteState::Running && route.counters.in_flight == 0)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_kept_in_parts_or_blocks() {
    let world = World::with("max_payload: 65536", "").await;
    let mut config = world.config("V5");
    config["inbound"].as_array_mut().unwrap().push(json!({"name": "dead", "from": "big/+", "to": "in.{1}.big", "stream": "IN", "deadLetterSubject": "dead.letters"}));
    let bridge = start(&config);
    running(&bridge, &["in", "dead"]).await;
    let payload: Vec<u8> = (0..150_000_u32).map(|number| (number % 251) as u8).collect();
    let outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.send("big/x", payload.clone(), &[]).await;
    bridge.route("dead", "dead letter", |route| route.counters.dead_lettered == 1).await.unwrap();
    let parts = world.messages("DEAD").await;
    let joined: Vec<u8> = parts.iter().flat_map(|message| message.payload.to_vec()).collect();
    assert_eq!(joined, payload);
    assert_eq!(parts[0].headers.as_ref().unwrap().get("Em-Part").unwrap().as_str(), format!("1/{}", parts.len()));
    outside.send("line/7/t", payload, &[]).await;
    let route = bridge.route("in", "blocked route", |route| route.state == RouteState::Blocked).await.unwrap();
    assert!(route.last_error.unwrap().message.contains("maxPayload"));
    assert_eq!(route.counters.in_flight, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_outside_broker_does_not_take_blocks_until_it_is_settled_and_others_pass() {
    let world = World::with("", "max_packet_size 5000").await;
    let mut config = world.config("V5");
    let bridge = start(&config);
    running(&bridge, &["out"]).await;
    let context = async_nats::jetstream::new(world.client.clone());
    context.publish("out.a", vec![b'x'; 10_000].into()).await.unwrap().await.unwrap();
    bridge.route("out", "blocked route", |route| route.state == RouteState::Blocked).await.unwrap();
    world.publish_mesh("o", 0..20).await;
    let route = bridge.route("out", "20 events", |route| route.counters.delivered == 20).await.unwrap();
    assert_eq!((route.state, route.counters.in_flight), (RouteState::Blocked, 1), "the large one is still there");
    assert!(crate::common::says(&route, "the MQTT broker takes 5000 at most"), "{route:?}");
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
    bridge.write_config(&config.to_string()).unwrap();
    let settled = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Running && route.counters.dead_lettered == 1 && route.counters.in_flight == 0
    };
    crate::common::complete(&bridge.route("out", "dead letter", settled).await.unwrap());
    assert_eq!(world.messages("DEAD").await[0].payload.len(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_never_replaces_a_good_one() {
    let world = World::new().await;
    let config = world.config("V5");
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let hash = bridge.report().await.unwrap().config_hash;
    let mut bad = config.clone();
    bad["inbound"][0]["to"] = json!("in.{3}");
    bridge.write_config(&bad.to_string()).unwrap();
    let report = eventmesh_tests::wait::eventually("word about the file", crate::common::LIMIT, async || {
        Ok(bridge.report().await.ok().filter(|report| report.config_problem.is_some()))
    });
    let report = report.await.unwrap();
    assert!(report.config_problem.unwrap().contains("inbound[0].to"));
    assert_eq!(report.config_hash, hash);
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..10).await;
    world.holds_all("IN", "i", 10).await;
    let mut next = config.clone();
    next["inbound"][0]["from"] = json!("hall/+/t");
    bridge.write_config(&next.to_string()).unwrap();
    bridge
        .route("in", "restarted route", |route| route.restarts == 1 && route.state == RouteState::Running)
        .await
        .unwrap();
    assert_eq!(
        bridge.report().await.unwrap().routes.iter().find(|route| route.name == "out").unwrap().restarts,
        0,
        "only what changed"
    );
    outside.publish("hall/7/t", "h", 0..10).await;
    world.holds_all("IN", "h", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_keeps_events_with_their_source() {
    let world = World::new().await;
    let mut config = world.config("V5");
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    config["state"] = json!("Paused");
    bridge.write_config(&config.to_string()).unwrap();
    bridge.route("in", "paused route", |route| route.state == RouteState::Paused).await.unwrap();
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    outside.publish("line/7/t", "i", 0..100).await;
    world.publish_mesh("o", 0..100).await;
    assert_eq!(world.stored("IN").await.len(), 0);
    config["state"] = json!("Running");
    bridge.write_config(&config.to_string()).unwrap();
    assert_eq!(world.holds_all("IN", "i", 100).await, 0);
    outside.receives_all("o", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_consumer_fails_the_route_until_it_is_there() {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["outbound"][0]["consumer"] = json!("later");
    let bridge = start(&config);
    let failed = bridge.route("out", "failed route", |route| route.state == RouteState::Failed).await.unwrap();
    assert!(failed.last_error.unwrap().message.contains("`later`"));
    eventmesh_tests::process::nats::create_consumer(&world.client, "OUT", "later", 30).await.unwrap();
    running(&bridge, &["out"]).await;
}
