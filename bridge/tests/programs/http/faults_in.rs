//! What can go wrong with a listener: nothing that was answered with 202 is lost, and nobody is left without an answer.

use std::collections::BTreeMap;
use std::time::Duration;

use eventmesh_tests::child::free_port;
use eventmesh_tests::http::Sender;
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::{LIMIT, World, client, complete, in_state, listening, port, problem, start, told};

fn answer_within(config: &mut Value, milliseconds: u32) {
    config["endpoint"]["http"]["listen"]["answerWithinMs"] = json!(milliseconds);
}

/// Posts this many numbers, each until it is taken.
async fn produce(client: &Sender, count: u32) {
    client.produce("/orders/7", 0..count, 16, |number| (number.to_string(), number.to_string()), |_| ()).await;
}

/// Waits until the stream holds something, in the middle of [`produce`].
async fn flowing(world: &World) {
    eventually("events in the stream", LIMIT, async || {
        let found = eventmesh_tests::process::nats::stored(&world.client, "IN").await;
        Ok((found.map_err(|error| error.to_string())? > 200).then_some(()))
    })
    .await
    .unwrap();
}

fn each_once(count: u32) -> BTreeMap<String, usize> {
    (0..count).map(|number| (number.to_string(), 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_loses_nothing_that_it_answered() {
    let world = World::new().await;
    let config = world.listener();
    let (mut bridge, client) = listening(&config).await;
    let kill = async {
        flowing(&world).await;
        bridge.kill_and_start_again().unwrap();
    };
    tokio::join!(produce(&client, 3_000), kill);
    assert_eq!(world.stored("IN").await, each_once(3_000), "what was sent again is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_killed_loses_nothing_that_was_answered() {
    let mut world = World::new().await;
    let (bridge, client) = listening(&world.listener()).await;
    let (flow, kill) = (produce(&client, 3_000), async {
        flowing(&world).await;
        world.nats.kill().unwrap();
        world.nats.start_again().await.unwrap();
    });
    tokio::join!(flow, kill);
    world.client = world.nats.client().await.unwrap();
    assert_eq!(world.stored("IN").await, each_once(3_000));
    let report = bridge.route("orders", "nothing on its way", |route| route.counters.in_flight == 0).await.unwrap();
    complete(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mesh_is_away_senders_are_told_when_to_come_again() {
    let mut world = World::new().await;
    let (bridge, client) = listening(&world.listener()).await;
    world.nats.kill().unwrap();
    in_state(&bridge, "orders", RouteState::Connecting).await;
    let answer = client.post("/orders/7", &[], b"x").await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert!(problem(&answer)["detail"].as_str().unwrap().contains("the mesh is not connected"));
    world.nats.start_again().await.unwrap();
    in_state(&bridge, "orders", RouteState::Running).await;
    assert_eq!(client.post("/orders/7", &[], b"x").await.unwrap().status, 202);
    complete(&in_state(&bridge, "orders", RouteState::Running).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_mesh_does_not_take_in_time_is_given_back_and_not_stored_behind_its_senders_back() {
    let world = World::new().await;
    let mut config = world.listener();
    answer_within(&mut config, 5_000);
    let (bridge, client) = listening(&config).await;
    world.fill().await;
    let answer = client.post("/small/7", &[], b"late").await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    problem(&answer);
    let report = bridge.route("small", "event given back", |route| route.counters.in_flight == 0).await.unwrap();
    assert_eq!(report.counters.received, 0, "it was not received after all");
    assert!(report.last_error.as_ref().unwrap().message.contains("maximum messages exceeded"), "{report:?}");
    world.purge("SMALL").await;
    assert_eq!(client.post("/small/7", &[], b"late").await.unwrap().status, 202);
    assert_eq!(world.stored("SMALL").await, BTreeMap::from([("late".to_owned(), 1)]), "without any id, and once");
    complete(&in_state(&bridge, "small", RouteState::Running).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_batch_is_told_and_the_whole_sent_again_is_stored_once() {
    let world = World::new().await;
    let mut config = world.listener();
    answer_within(&mut config, 5_000);
    let (_bridge, client) = listening(&config).await;
    world.publish("small.x", "first").await;
    let event = |id: u32| json!({"specversion": "1.0", "id": id.to_string(), "source": "s", "type": "t", "data": id});
    let batch = json!([event(1), event(2)]).to_string();
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let answer = client.post("/small/7", &headers, batch.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(problem(&answer)["detail"].as_str().unwrap().starts_with("1 of 2 events are stored"), "{answer:?}");
    // Room for the other one; the one that is stored stays.
    let context = async_nats::jetstream::new(world.client.clone());
    context.get_stream("SMALL").await.unwrap().delete_message(1).await.unwrap();
    assert_eq!(client.post("/small/7", &headers, batch.as_bytes()).await.unwrap().status, 202);
    let expected = BTreeMap::from([("1".to_owned(), 1), ("2".to_owned(), 1)]);
    assert_eq!(world.stored("SMALL").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_max_in_flight_wait_and_others_are_told_at_once() {
    let world = World::new().await;
    let mut config = world.listener();
    config["delivery"]["maxInFlight"] = json!(2);
    answer_within(&mut config, 60_000);
    let (bridge, client) = listening(&config).await;
    world.fill().await;
    let waits = |body: &'static [u8]| {
        let client = client.clone();
        tokio::spawn(async move { client.post("/small/7", &[], body).await.unwrap().status })
    };
    let waiting = [waits(b"a"), waits(b"b")];
    bridge.route("small", "two events waiting", |route| route.counters.in_flight == 2).await.unwrap();
    let answer = client.post("/orders/7", &[], b"c").await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let batch =
        json!([1, 2, 3].map(|id| json!({"specversion": "1.0", "id": id.to_string(), "source": "s", "type": "t"})));
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let answer = client.post("/orders/7", &headers, batch.to_string().as_bytes()).await.unwrap();
    assert_eq!(answer.status, 413, "it would never fit: {answer:?}");
    world.purge("SMALL").await;
    for one in waiting {
        assert_eq!(one.await.unwrap(), 202);
    }
    assert_eq!(client.post("/orders/7", &[], b"c").await.unwrap().status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_stops_answers_those_who_wait() {
    let world = World::new().await;
    let mut config = world.listener();
    answer_within(&mut config, 60_000);
    let (bridge, client) = listening(&config).await;
    world.nats.pause().unwrap();
    let waiting: Vec<_> = (0..5)
        .map(|number: u32| {
            let client = client.clone();
            tokio::spawn(async move {
                // With an id: the bridge may have asked the mesh twice.
                let number = number.to_string();
                client.post("/orders/7", &[("webhook-id", &number)], number.as_bytes()).await.unwrap()
            })
        })
        .collect();
    bridge.route("orders", "five events waiting", |route| route.counters.in_flight == 5).await.unwrap();
    bridge.child.terminate().unwrap();
    eventually("a bridge that takes nothing more in", LIMIT, async || {
        // One that comes before the bridge has heard of its end waits like the others.
        let asked = client.post("/orders/7", &[], b"too late");
        let answer = tokio::time::timeout(Duration::from_secs(1), asked).await.map_err(|_| "it waits")?;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status == 503 && answer.body.contains("stopping") { Ok(Some(())) } else { Err(format!("{answer:?}")) }
    })
    .await
    .unwrap();
    world.nats.go_on().unwrap();
    for one in waiting {
        let answer = one.await.unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    assert!(bridge.ended().await.unwrap().success());
    let stored = world.stored("IN").await;
    assert!((0..5).all(|number| stored.get(&number.to_string()) == Some(&1)), "{stored:?}");
}

async fn connect(config: &Value) -> TcpStream {
    TcpStream::connect(("127.0.0.1", u16::try_from(port(config)).unwrap())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_is_nothing() {
    let world = World::new().await;
    let config = world.listener();
    let (bridge, client) = listening(&config).await;
    let mut socket = connect(&config).await;
    socket.write_all(b"POST /orders/7 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    drop(socket);
    assert_eq!(client.post("/orders/7", &[], b"whole").await.unwrap().status, 202);
    assert_eq!(world.stored("IN").await, BTreeMap::from([("whole".to_owned(), 1)]));
    complete(&in_state(&bridge, "orders", RouteState::Running).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_answer_gets_the_event_back() {
    let world = World::new().await;
    let mut config = world.listener();
    answer_within(&mut config, 60_000);
    let (bridge, client) = listening(&config).await;
    world.fill().await;
    let mut socket = connect(&config).await;
    socket.write_all(b"POST /small/7 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx").await.unwrap();
    bridge.route("small", "an event waiting", |route| route.counters.in_flight == 1).await.unwrap();
    drop(socket);
    bridge.route("small", "nothing waiting", |route| route.counters.in_flight == 0).await.unwrap();
    world.purge("SMALL").await;
    assert_eq!(client.post("/small/7", &[], b"another").await.unwrap().status, 202);
    assert_eq!(world.stored("SMALL").await, BTreeMap::from([("another".to_owned(), 1)]));
}

#[rstest]
#[case::head("POST /orders/7 HTTP/1.1\r\nHost: x\r\n", "")]
#[case::body("POST /orders/7 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 408")]
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_to_an_end_is_cut_off(#[case] begun: &str, #[case] answer: &str) {
    let world = World::new().await;
    let config = world.listener();
    let (_bridge, client) = listening(&config).await;
    let mut socket = connect(&config).await;
    socket.write_all(begun.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    tokio::time::timeout(LIMIT, socket.read_to_end(&mut told)).await.expect("an end in time").unwrap();
    assert!(told.starts_with(answer.as_bytes()), "{}", String::from_utf8_lossy(&told));
    assert_eq!(client.post("/orders/7", &[], b"x").await.unwrap().status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_an_end_too() {
    let world = World::new().await;
    let config = world.listener();
    let (_bridge, client) = listening(&config).await;
    let mut socket = connect(&config).await;
    let head = format!("POST /orders/7 HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(200_000));
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert_eq!(client.post("/orders/7", &[], b"x").await.unwrap().status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_told_and_used_when_it_is_free() {
    let world = World::new().await;
    let mut config = world.listener();
    let port = free_port().unwrap();
    config["endpoint"]["http"]["listen"]["port"] = json!(port);
    let other = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let bridge = start(&config);
    told(&bridge, "orders", RouteState::Connecting, &format!("can not listen on port {port}")).await;
    assert_eq!(bridge.get("/readyz").await.unwrap().0, 503);
    drop(other);
    in_state(&bridge, "orders", RouteState::Running).await;
    let client = client(&config);
    assert_eq!(client.post("/orders/7", &[], b"x").await.unwrap().status, 202);
}

/// A stream that is missing, and then is there: what waits is stored as soon as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_comes_late_takes_what_still_waits() {
    let world = World::new().await;
    let mut config = world.listener();
    answer_within(&mut config, 60_000);
    let route = json!({"name": "late", "from": "/late/*", "to": "late.{1}", "stream": "LATE"});
    config["inbound"].as_array_mut().unwrap().push(route);
    let (bridge, client) = listening(&config).await;
    let waiting = tokio::spawn(async move { client.post("/late/7", &[], b"x").await.unwrap().status });
    told(&bridge, "late", RouteState::Blocked, "LATE").await;
    eventmesh_tests::process::nats::create_stream(&world.client, "LATE", &["late.>"], &json!({})).await.unwrap();
    let status = tokio::time::timeout(Duration::from_secs(40), waiting).await.expect("an answer in time").unwrap();
    assert_eq!(status, 202);
    complete(&in_state(&bridge, "late", RouteState::Running).await);
}
