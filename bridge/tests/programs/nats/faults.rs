//! Everything that can go wrong at the other system, between it and the bridge, and with the bridge.

use async_nats::HeaderMap;
use eventmesh_tests::process::Bridge;
use eventmesh_tests::process::nats::{api, create_stream};
use eventmesh_wire::report::{RouteReport, RouteState};
use serde_json::{Value, json};

use super::world::Far;
use crate::common::{LIMIT, complete, running, says, start};

async fn said(bridge: &Bridge, route: &str, state: RouteState, words: &str) -> RouteReport {
    let what = format!("{} route that says `{words}`", state.label());
    bridge.route(route, &what, |route| route.state == state && says(route, words)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_is_not_there_is_waited_for() {
    let mut far = Far::new().await;
    far.other.kill().unwrap();
    let bridge = start(&far.config());
    said(&bridge, "in", RouteState::Connecting, "can not connect to the NATS server").await;
    far.other.start_again().await.unwrap();
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listens_there_and_says_nothing_is_told() {
    let far = Far::new().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = far.config();
    config["endpoint"]["nats"]["urls"] = json!([format!("nats://{}", silent.local_addr().unwrap())]);
    let bridge = start(&config);
    said(&bridge, "in", RouteState::Connecting, "did not answer in 10 s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_system_loses_nothing() {
    let far = Far::new().await;
    let bridge = start(&far.config());
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 100).await;
    far.other.pause().unwrap();
    far.publish("y", 0..100).await;
    said(&bridge, "out", RouteState::Blocked, "did not confirm the event in 5 s").await;
    far.other.go_on().unwrap();
    far.order("y", 0..100).await;
    Far::holds_all(&far.client, "IN", "y", 100).await;
    let twice = Far::holds_all(&far.outside, "COPY", "y", 100).await;
    assert_eq!(twice, 0, "what was tried again is known by its id");
    for name in ["in", "out"] {
        complete(&bridge.route(name, "settled route", |route| route.counters.in_flight == 0).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_is_killed_while_events_flow_loses_nothing() {
    let mut far = Far::with("").await;
    let bridge = start(&far.config());
    running(&bridge, &["in", "out"]).await;
    far.order("x", 0..3_000).await;
    far.publish("x", 0..3_000).await;
    for _ in 0..2 {
        bridge.route("out", "events under way", |route| route.counters.received > 0).await.unwrap();
        far.other.kill().unwrap();
        far.other.start_again().await.unwrap();
    }
    Far::holds_all(&far.client, "IN", "x", 3_000).await;
    let outside = far.other.client().await.unwrap();
    assert_eq!(Far::holds_all(&outside, "COPY", "x", 3_000).await, 0);
    for name in ["in", "out"] {
        complete(&bridge.route(name, "settled route", |route| route.counters.in_flight == 0).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_while_events_flow_loses_nothing() {
    let far = Far::new().await;
    let mut bridge = start(&far.config());
    for part in 0..3 {
        running(&bridge, &["in", "out"]).await;
        // Enough for this bridge, however much those before it have carried.
        let numbers = part * 2_000..(part + 1) * 2_000;
        let (orders, events) = (far.order("x", numbers.clone()), far.publish("x", numbers));
        let kill = async {
            bridge.route("out", "events under way", |route| route.counters.received > 50).await.unwrap();
            bridge.kill_and_start_again().unwrap();
        };
        tokio::join!(orders, events, kill);
    }
    assert_eq!(Far::holds_all(&far.client, "IN", "x", 6_000).await, 0, "ids are those of the stream");
    assert_eq!(Far::holds_all(&far.outside, "COPY", "x", 6_000).await, 0, "ids are those of the mesh");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_killed_while_events_flow_loses_nothing() {
    let mut far = Far::new().await;
    let bridge = start(&far.config());
    running(&bridge, &["in", "out"]).await;
    far.publish("x", 0..2_000).await;
    far.order("x", 0..2_000).await;
    far.nats.kill().unwrap();
    far.nats.start_again().await.unwrap();
    let client = far.nats.client().await.unwrap();
    Far::holds_all(&client, "IN", "x", 2_000).await;
    assert_eq!(Far::holds_all(&far.outside, "COPY", "x", 2_000).await, 0);
    for name in ["in", "out"] {
        complete(&bridge.route(name, "settled route", |route| route.counters.in_flight == 0).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_told_and_waited_for() {
    let far = Far::new().await;
    for stream in ["ORDERS", "COPY"] {
        far.api(&format!("STREAM.DELETE.{stream}")).await;
    }
    let bridge = start(&far.config());
    said(&bridge, "in", RouteState::Failed, "no stream of the other system stores `orders.*`").await;
    far.publish("x", 0..10).await;
    said(&bridge, "out", RouteState::Blocked, "no stream of the other system takes the subject `copy.a`").await;
    create_stream(&far.outside, "ORDERS", &["orders.>"], &json!({})).await.unwrap();
    create_stream(&far.outside, "COPY", &["copy.>"], &json!({})).await.unwrap();
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_named_must_be_there() {
    let far = Far::new().await;
    let mut config = far.config();
    config["endpoint"]["nats"]["jetstream"]["stream"] = json!("OTHER");
    let bridge = start(&config);
    said(&bridge, "in", RouteState::Failed, "the other system has no stream `OTHER`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_is_made_again_where_it_was() {
    let far = Far::new().await;
    let bridge = start(&far.config());
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 500).await;
    let deleted = far.api("CONSUMER.DELETE.ORDERS.eventmesh_shop_factory_in").await;
    assert_eq!(deleted["success"], json!(true));
    far.order("y", 0..100).await;
    Far::holds_all(&far.client, "IN", "y", 100).await;
    far.order("z", 0..1).await;
    let route = bridge.route("in", "last event", |route| route.counters.delivered >= 601).await.unwrap();
    assert_eq!(route.counters.delivered, 601, "none of what was handled came again: {route:?}");
    complete(&route);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_anew_is_another_stream() {
    let far = Far::new().await;
    let bridge = start(&far.config());
    running(&bridge, &["in", "out"]).await;
    far.order("x", 0..100).await;
    Far::holds_all(&far.client, "IN", "x", 100).await;
    far.api("STREAM.DELETE.ORDERS").await;
    said(&bridge, "in", RouteState::Failed, "no stream").await;
    create_stream(&far.outside, "ORDERS", &["orders.>"], &json!({})).await.unwrap();
    // The same numbers in a stream of the same name, within the de-duplication window: not the same events.
    far.order("y", 0..100).await;
    Far::holds_all(&far.client, "IN", "y", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_holds_the_route_until_there_is_room() {
    let far = Far::new().await;
    far.api("STREAM.DELETE.COPY").await;
    let full = json!({"max_msgs": 10, "discard": "new"});
    create_stream(&far.outside, "COPY", &["copy.>"], &full).await.unwrap();
    let bridge = start(&far.config());
    far.publish("x", 0..15).await;
    said(&bridge, "out", RouteState::Blocked, "make room there").await;
    far.api("STREAM.PURGE.COPY").await;
    running(&bridge, &["out"]).await;
    let route = bridge.route("out", "delivered events", |route| route.counters.delivered == 15).await.unwrap();
    complete(&route);
}

async fn too_large(far: &Far, words: &str) {
    let mut config = far.config();
    let bridge = start(&config);
    running(&bridge, &["out"]).await;
    let context = async_nats::jetstream::new(far.client.clone());
    context.publish("out.large", vec![b'x'; 100_000].into()).await.unwrap().await.unwrap();
    context.publish("out.small", "x".into()).await.unwrap().await.unwrap();
    let route = said(&bridge, "out", RouteState::Blocked, words).await;
    complete(&route);
    bridge.route("out", "delivered small one", |route| route.counters.delivered == 1).await.unwrap();
    config["outbound"][0]["deadLetterSubject"] = json!("dead.out");
    bridge.write_config(&config.to_string()).unwrap();
    let route = bridge.route("out", "dead letter", |route| route.counters.dead_lettered == 1).await.unwrap();
    complete(&route);
    let letters = Far::messages(&far.client, "DEAD").await;
    let cause = letters[0].headers.as_ref().unwrap().get("Em-Dead-Cause").unwrap().as_str();
    assert!(cause.contains(words), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_too_large_for_the_server_is_a_dead_letter() {
    too_large(&Far::with("max_payload: 65536").await, "takes 65536 at most").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_too_large_for_the_stream_is_a_dead_letter() {
    let far = Far::new().await;
    far.api("STREAM.DELETE.COPY").await;
    create_stream(&far.outside, "COPY", &["copy.>"], &json!({"max_msg_size": 1_000})).await.unwrap();
    too_large(&far, "the stream of the other system refused the event").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_cloud_event_is_a_dead_letter() {
    let far = Far::new().await;
    let mut config = far.config();
    config["inbound"][0]["deadLetterSubject"] = json!("dead.in");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/cloudevents+json");
    let context = async_nats::jetstream::new(far.outside.clone());
    context.publish_with_headers("orders.a", headers, "no json".into()).await.unwrap().await.unwrap();
    far.order("x", 0..10).await;
    let settled = |route: &RouteReport| route.counters.dead_lettered == 1 && route.counters.delivered == 10;
    complete(&bridge.route("in", "dead letter", settled).await.unwrap());
    eventmesh_tests::wait::eventually("acknowledged events", LIMIT, async || {
        let info = far.api("CONSUMER.INFO.ORDERS.eventmesh_shop_factory_in").await;
        if info["ack_floor"]["stream_seq"] == 11 { Ok(Some(())) } else { Err(info.to_string()) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_before_the_mesh_has_stored_it() {
    let far = Far::new().await;
    let full = json!({"max_msgs": 5, "discard": "new", "subjects": ["in.>"], "name": "IN"});
    let mut limited = api(&far.client, "STREAM.INFO.IN", &json!({})).await.unwrap()["config"].clone();
    for (key, value) in full.as_object().unwrap() {
        limited[key] = value.clone();
    }
    let updated = api(&far.client, "STREAM.UPDATE.IN", &limited).await.unwrap();
    assert!(updated.get("error").is_none(), "{updated}");
    let bridge = start(&far.config());
    running(&bridge, &["in"]).await;
    far.order("x", 0..20).await;
    let route = bridge.route("in", "blocked route", |route| route.state == RouteState::Blocked).await.unwrap();
    complete(&route);
    // What is not stored is not acknowledged. Which five are stored is open: order does not matter on this route.
    eventmesh_tests::wait::eventually("five acknowledged, and fifteen not", LIMIT, async || {
        let info = far.api("CONSUMER.INFO.ORDERS.eventmesh_shop_factory_in").await;
        let (handed_out, waits) = (&info["delivered"]["stream_seq"], &info["num_ack_pending"]);
        if (handed_out, waits) == (&json!(20), &json!(15)) { Ok(Some(())) } else { Err(info.to_string()) }
    })
    .await
    .unwrap();
    limited["max_msgs"] = json!(-1);
    api(&far.client, "STREAM.UPDATE.IN", &limited).await.unwrap();
    assert_eq!(Far::holds_all(&far.client, "IN", "x", 20).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_may_not_do_is_told() {
    let users = "authorization { users: [{user: all, password: p}, {user: few, password: p, \
                 permissions: {publish: {deny: [\"copy.>\"]}}}] }";
    let other =
        eventmesh_tests::process::Nats::start(eventmesh_tests::paths::scratch("other").unwrap(), "2m", users).await;
    let other = other.unwrap();
    let options = async_nats::ConnectOptions::with_user_and_password("all".into(), "p".into());
    let outside = options.connect(other.url()).await.unwrap();
    create_stream(&outside, "COPY", &["copy.>"], &json!({})).await.unwrap();
    create_stream(&outside, "ORDERS", &["orders.>"], &json!({})).await.unwrap();
    let far = Far::between(other, outside).await;
    let mut config = far.config();
    config["endpoint"]["nats"]["credentials"] = json!({"login": {"username": "few", "password": "p"}});
    let bridge = start(&config);
    far.publish("x", 0..5).await;
    said(&bridge, "out", RouteState::Blocked, "ermissions").await;
    config["endpoint"]["nats"]["credentials"]["login"]["username"] = json!("all");
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn core_nats_drops_what_the_mesh_does_not_take_and_counts_it() {
    let far = Far::new().await;
    let mut config = far.config();
    config["endpoint"]["nats"]["jetstream"] = Value::Null;
    config["delivery"]["guarantee"] = json!("AtMostOnce");
    config["inbound"][0]["stream"] = json!("MISSING");
    config["outbound"] = json!([]);
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    far.listens(&[&bridge], "orders.a").await;
    for number in 0..20 {
        far.outside.publish("orders.a", format!("x{number}").into()).await.unwrap();
    }
    let route = bridge.route("in", "dropped events", |route| route.counters.dropped > 20).await.unwrap();
    crate::common::balanced(&route);
}
