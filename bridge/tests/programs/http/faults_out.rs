//! What can go wrong with a target: every event arrives, or is a dead letter that tells why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventmesh_tests::child::free_port;
use eventmesh_tests::http::{Collector, Received, Reply};
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::{Value, json};

use super::world::{LIMIT, World, all_came, change, complete, in_state, start, told};

/// One try, and then a dead letter: nothing that is no try may cost an event this one.
fn one_try(config: &mut Value) {
    config["delivery"]["retry"]["attempts"] = json!(1);
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_there_costs_no_try() {
    let (world, mut target) = (World::new().await, Collector::start().await.unwrap());
    target.stop().await;
    let mut config = world.sender(&target.url());
    one_try(&mut config);
    let bridge = start(&config);
    world.publish_numbers(0..50).await;
    told(&bridge, "out", RouteState::Connecting, "Connection refused").await;
    assert_eq!(bridge.get("/readyz").await.unwrap().0, 503);
    target.start_again(None).await.unwrap();
    assert_eq!(all_came(&target, 50).await, 0);
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 50).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_has_is_told() {
    let world = World::new().await;
    let bridge = start(&world.sender("http://nobody.invalid:1"));
    told(&bridge, "out", RouteState::Connecting, "can not connect to http://nobody.invalid:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_goes_and_comes_back_gets_everything() {
    let (world, mut target) = (World::new().await, Collector::start().await.unwrap());
    let bridge = start(&world.sender(&target.url()));
    in_state(&bridge, "out", RouteState::Running).await;
    world.publish_numbers(0..300).await;
    target.until(LIMIT, |all| all.len() > 20).await.unwrap();
    target.stop().await;
    world.publish_numbers(300..500).await;
    in_state(&bridge, "out", RouteState::Connecting).await;
    target.start_again(None).await.unwrap();
    all_came(&target, 500).await;
    let report = bridge.route("out", "all delivered", |route| route.counters.delivered == 500).await.unwrap();
    complete(&report);
    assert_eq!(report.counters.dead_lettered, 0);
}

/// The link is thought to stand until the next event: that one, and those after it, must not pay for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_went_away_unnoticed_costs_no_try() {
    let (world, mut target) = (World::new().await, Collector::start().await.unwrap());
    // Each request needs a connection of its own.
    let answer = |_: &Received| Reply::With {
        status: 200,
        headers: vec![("connection", "close".to_owned())],
        body: String::new(),
    };
    target.answer(answer);
    let mut config = world.sender(&target.url());
    one_try(&mut config);
    let bridge = start(&config);
    world.publish_numbers(0..1).await;
    bridge.route("out", "delivered", |route| route.counters.delivered == 1).await.unwrap();
    target.stop().await;
    world.publish_numbers(1..50).await;
    told(&bridge, "out", RouteState::Connecting, "Connection refused").await;
    target.start_again(None).await.unwrap();
    assert_eq!(all_came(&target, 50).await, 0);
    let report = bridge.route("out", "all delivered", |route| route.counters.delivered == 50).await.unwrap();
    complete(&report);
    assert_eq!(report.counters.dead_lettered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_is_told_and_tried_again() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    target.answer(|_| Reply::Hang);
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["timeoutMs"] = json!(200);
    let bridge = start(&config);
    world.publish_numbers(0..5).await;
    told(&bridge, "out", RouteState::Blocked, "gave no answer in 200 ms").await;
    target.answer(|_| Reply::Status(200));
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 5).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_for_too_many_tries_makes_a_dead_letter() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    target.answer(|_| Reply::Hang);
    let mut config = world.sender(&target.url());
    one_try(&mut config);
    config["delivery"]["retry"]["attempts"] = json!(3);
    // Time for the target to have the request.
    config["endpoint"]["http"]["target"]["timeoutMs"] = json!(2_000);
    let _bridge = start(&config);
    world.publish("out.a", "x").await;
    assert!(world.dead_letter().await.contains("gave no answer in"));
    assert_eq!(target.received().len(), 3);
}

/// A port whose queue of connections is full takes none, and refuses none.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_no_connection_costs_no_try() {
    let world = World::new().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], free_port().unwrap()).into()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(one)) = tokio::time::timeout(Duration::from_secs(3), tokio::net::TcpStream::connect(address)).await
    {
        waiting.push(one);
    }
    let mut config = world.sender(&format!("http://{address}"));
    config["endpoint"]["http"]["target"]["timeoutMs"] = json!(1_000);
    one_try(&mut config);
    let bridge = start(&config);
    world.publish_numbers(0..3).await;
    let report = told(&bridge, "out", RouteState::Connecting, "can not connect").await;
    assert_eq!(report.counters.dead_lettered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_target_gets_each_event_once() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    // Longer than the consumer's ack wait of 5 s.
    target.answer(|_| Reply::Late(Duration::from_secs(7)));
    let bridge = start(&world.sender(&target.url()));
    world.publish_numbers(0..10).await;
    let report = bridge.route("out", "all delivered", |route| route.counters.delivered == 10).await.unwrap();
    complete(&report);
    assert_eq!((target.received().len(), report.retries), (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_closes_in_the_middle_is_tried_again() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let closed = AtomicBool::new(false);
    target.answer(move |_| if closed.swap(true, Ordering::Relaxed) { Reply::Status(200) } else { Reply::Close });
    let bridge = start(&world.sender(&target.url()));
    world.publish("out.a", "x").await;
    let report = bridge.route("out", "delivered", |route| route.counters.delivered == 1).await.unwrap();
    complete(&report);
    assert_eq!(target.received().len(), 2);
    assert!(super::world::says(&report, "no whole answer from"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_fail_the_route_and_cost_no_event() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    target.answer(|request| {
        Reply::Status(if request.header("authorization") == Some("Bearer right") { 200 } else { 401 })
    });
    let mut config = world.sender(&target.url());
    one_try(&mut config);
    config["endpoint"]["http"]["target"]["authentication"] = json!({"bearer": {"token": "wrong"}});
    let bridge = start(&config);
    world.publish_numbers(0..20).await;
    told(&bridge, "out", RouteState::Failed, "refuses the credentials").await;
    config["endpoint"]["http"]["target"]["authentication"] = json!({"bearer": {"token": "right"}});
    change(&bridge, &config).await;
    let report = bridge.route("out", "all delivered", |route| route.counters.delivered == 20).await.unwrap();
    complete(&report);
    assert_eq!(report.counters.dead_lettered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_not_read_to_it() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let long = "x".repeat(8 * 1024 * 1024);
    target.answer(move |request| {
        let status = if request.body.as_ref() == b"bad" { 400 } else { 200 };
        Reply::With { status, headers: vec![], body: long.clone() }
    });
    let mut config = world.sender(&target.url());
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
    let bridge = start(&config);
    world.publish("out.a", "bad").await;
    world.publish("out.a", "good").await;
    let cause = world.dead_letter().await;
    assert!(cause.len() < 400, "{} bytes of cause", cause.len());
    let done = |route: &eventmesh_wire::report::RouteReport| {
        (route.counters.delivered, route.counters.dead_lettered) == (1, 1)
    };
    complete(&bridge.route("out", "one of each", done).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_sends_everything() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let mut bridge = start(&world.sender(&target.url()));
    world.publish_numbers(0..1_000).await;
    target.until(LIMIT, |all| all.len() > 50).await.unwrap();
    bridge.kill_and_start_again().unwrap();
    all_came(&target, 1_000).await;
    complete(
        &bridge
            .route("out", "nothing left", |route| route.lag == Some(0) && route.counters.in_flight == 0)
            .await
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_killed_loses_nothing() {
    let (mut world, target) = (World::new().await, Collector::start().await.unwrap());
    let bridge = start(&world.sender(&target.url()));
    world.publish_numbers(0..1_000).await;
    target.until(LIMIT, |all| all.len() > 50).await.unwrap();
    world.nats.kill().unwrap();
    world.nats.start_again().await.unwrap();
    all_came(&target, 1_000).await;
    complete(
        &bridge
            .route("out", "nothing left", |route| route.lag == Some(0) && route.counters.in_flight == 0)
            .await
            .unwrap(),
    );
}

#[rstest]
#[case::ordered("PerSource")]
#[case::free("None")]
#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_where_it_was_asked_for(#[case] ordering: &str) {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let refused = AtomicBool::new(false);
    target.answer(move |request: &Received| {
        let first = request.body.as_ref() == b"3" && !refused.swap(true, Ordering::Relaxed);
        Reply::Status(if first { 503 } else { 200 })
    });
    let mut config = world.sender(&target.url());
    config["delivery"]["ordering"] = json!(ordering);
    let bridge = start(&config);
    world.publish_numbers(0..50).await;
    bridge.route("out", "all delivered", |route| route.counters.delivered == 50).await.unwrap();
    let mut came: Vec<String> =
        target.received().iter().map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect();
    assert_eq!(came.len(), 51);
    if ordering == "PerSource" {
        came.dedup();
        assert_eq!(came, (0..50).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
