//! What a listener answers, and what the mesh has then.

use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::json;

use super::world::{LIMIT, UID, World, change, complete, in_state, listening, port, problem};

const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
const BATCH: &str = "application/cloudevents-batch+json";
const BINARY: [(&str, &str); 5] = [
    ("ce-specversion", "1.0"),
    ("ce-id", "1"),
    ("ce-source", "/s"),
    ("ce-type", "t"),
    ("content-type", "application/json"),
];

#[rstest]
#[case::binary("POST", &BINARY, r#"{"a":1}"#)]
#[case::structured("POST", &[("content-type", "application/cloudevents+json")], EVENT)]
#[case::batch("POST", &[("content-type", BATCH)], "[EVENT]")]
#[case::put("PUT", &BINARY, r#"{"a":1}"#)]
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_any_mode_is_stored_before_it_is_answered(
    #[case] method: &str,
    #[case] headers: &[(&str, &str)],
    #[case] body: &str,
) {
    let world = World::new().await;
    let (bridge, client) = listening(&world.listener()).await;
    let body = body.replace("EVENT", EVENT);
    let answer = client.request(method, "/orders/7", headers, body.as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    let messages = world.messages("IN").await;
    assert_eq!(messages.len(), 1, "it is there when the answer is");
    let header = |name: &str| messages[0].headers.as_ref().unwrap().get(name).map(ToString::to_string);
    assert_eq!((messages[0].subject.as_str(), messages[0].payload.as_ref()), ("in.orders.7", &br#"{"a":1}"#[..]));
    assert_eq!(header("ce-id").as_deref(), Some("1"));
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    assert_eq!(header("Em-Bridge").as_deref(), Some(UID));
    let again = client.request(method, "/orders/7", headers, body.as_bytes()).await.unwrap();
    assert_eq!(again.status, 202);
    assert_eq!(world.messages("IN").await.len(), 1, "source and id say that it is the same");
    let report = bridge.route("orders", "both delivered", |route| route.counters.delivered == 2).await.unwrap();
    complete(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_stored_as_it_is_and_known_by_its_id() {
    let world = World::new().await;
    let (_bridge, client) = listening(&world.listener()).await;
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("webhook-id", "m1"), ("x-topic", "paid")];
    for _ in 0..2 {
        assert_eq!(client.post("/orders/a%20b.c", &headers, b"x=1").await.unwrap().status, 202);
    }
    let messages = world.messages("IN").await;
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].subject.as_str(), messages[0].payload.as_ref()), ("in.orders.a%20b%2Ec", &b"x=1"[..]));
    let headers = messages[0].headers.as_ref().unwrap();
    assert_eq!(headers.get("x-topic").unwrap().as_str(), "paid");
    assert!(headers.get("host").is_none());
    let another = [("webhook-id", "m2")];
    assert_eq!(client.post("/orders/7", &another, b"x=1").await.unwrap().status, 202);
    assert_eq!(world.messages("IN").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_when_all_of_it_is_stored_and_sent_again_it_changes_nothing() {
    let world = World::new().await;
    let (_bridge, client) = listening(&world.listener()).await;
    let events: Vec<String> = (0..100).map(|id| EVENT.replace("\"1\"", &format!("\"{id}\""))).collect();
    let batch = format!("[{}]", events.join(","));
    for _ in 0..2 {
        let answer = client.post("/orders/7", &[("content-type", BATCH)], batch.as_bytes()).await.unwrap();
        assert_eq!(answer.status, 202);
        assert_eq!(world.messages("IN").await.len(), 100);
    }
    assert_eq!(client.post("/orders/7", &[("content-type", BATCH)], b"[]").await.unwrap().status, 202);
}

#[rstest]
#[case::no_route("POST", "/nowhere", &[], "x", 404)]
#[case::too_deep("POST", "/orders/7/8", &[], "x", 404)]
#[case::no_method("GET", "/orders/7", &[], "", 405)]
#[case::no_such_method("DELETE", "/orders/7", &[], "", 405)]
#[case::no_path("POST", "/orders/%FF", &[], "x", 400)]
#[case::no_structured("POST", "/orders/7", &[("content-type", "application/cloudevents+json")], "{", 400)]
#[case::no_batch("POST", "/orders/7", &[("content-type", BATCH)], "{}", 400)]
#[case::half_a_batch("POST", "/orders/7", &[("content-type", BATCH)], "[EVENT,{}]", 400)]
#[case::no_binary("POST", "/orders/7", &[("ce-specversion", "1.0"), ("ce-id", "1")], "x", 400)]
#[case::another_version("POST", "/orders/7", &[("ce-specversion", "0.3"), ("ce-id", "1")], "x", 400)]
#[case::unknown_format("POST", "/orders/7", &[("content-type", "application/cloudevents+avro")], "x", 415)]
#[case::encoded("POST", "/orders/7", &[("content-type", BATCH), ("content-encoding", "gzip")], "[]", 415)]
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_taken_is_told_and_not_received(
    #[case] method: &str,
    #[case] path: &str,
    #[case] headers: &[(&str, &str)],
    #[case] body: &str,
    #[case] status: u16,
) {
    let world = World::new().await;
    let (bridge, client) = listening(&world.listener()).await;
    let body = body.replace("EVENT", EVENT);
    let answer = client.request(method, path, headers, body.as_bytes()).await.unwrap();
    assert_eq!(answer.status, status, "{answer:?}");
    problem(&answer);
    assert_eq!(answer.header("allow"), (status == 405).then_some("POST, PUT"));
    assert_eq!(client.post("/orders/7", &[], b"good").await.unwrap().status, 202, "it holds nobody up");
    let report = bridge.route("orders", "one event", |route| route.counters.delivered == 1).await.unwrap();
    assert_eq!(report.counters.received, 1);
    assert_eq!(world.stored("IN").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_whether_it_says_its_length_or_not() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new().await;
    let mut config = world.listener();
    config["endpoint"]["http"]["listen"]["maxBodyBytes"] = json!(1000);
    let (_bridge, client) = listening(&config).await;
    assert_eq!(client.post("/orders/7", &[], &[b'x'; 1000]).await.unwrap().status, 202);
    let answer = client.post("/orders/7", &[], &[b'x'; 1001]).await.unwrap();
    assert_eq!((answer.status, problem(&answer)["title"].as_str()), (413, Some("Payload Too Large")));
    let mut socket =
        tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(port(&config)).unwrap())).await.unwrap();
    let head = "POST /orders/7 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    socket.write_all(format!("{head}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)).as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    assert_eq!(world.stored("IN").await.len(), 1);
}

/// A connection that ends with input unread is reset, and the answer is lost with it.
#[rstest]
#[case::too_large("/orders/7", 413)]
#[case::no_route("/nowhere", 404)]
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_arrives_though_the_body_is_not_wanted(#[case] path: &str, #[case] status: u16) {
    let world = World::new().await;
    let (_bridge, client) = listening(&world.listener()).await;
    for _ in 0..20 {
        let answer = client.post(path, &[], &vec![b'x'; 4 * 1024 * 1024]).await.unwrap();
        assert_eq!(answer.status, status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_mesh_would_find_too_large_is_refused() {
    let world = World::new().await;
    let mut config = world.listener();
    config["endpoint"]["http"]["listen"]["maxBodyBytes"] = json!(8 * 1024 * 1024);
    let (_bridge, client) = listening(&config).await;
    // The broker's default limit is 1 MiB, headers included.
    let answer = client.post("/orders/7", &[], &vec![b'x'; 2 * 1024 * 1024]).await.unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
    let answer = client.post("/orders/7", &[], &vec![b'x'; 1024 * 1024 - 100]).await.unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(client.post("/orders/7", &[], &vec![b'x'; 1024 * 1024 - 4096]).await.unwrap().status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_events_dead_letters_and_events_of_its_own_are_answered_as_taken() {
    let world = World::new().await;
    let mut config = world.listener();
    config["inbound"][0]["filter"] = json!("event.data.a > 1");
    config["inbound"][0]["deadLetterSubject"] = json!("dead.letters");
    let (bridge, client) = listening(&config).await;
    assert_eq!(client.post("/orders/7", &[], br#"{"a": 1}"#).await.unwrap().status, 202);
    assert_eq!(client.post("/orders/7", &[], b"no number").await.unwrap().status, 202);
    assert_eq!(client.post("/orders/7", &[("em-bridge", UID)], br#"{"a": 2}"#).await.unwrap().status, 202);
    assert_eq!(client.post("/orders/7", &[], br#"{"a": 2}"#).await.unwrap().status, 202);
    let report = bridge.route("orders", "four events", |route| route.counters.received == 4).await.unwrap();
    let counters = report.counters;
    assert_eq!((counters.filtered, counters.dead_lettered, counters.delivered), (2, 1, 1));
    assert_eq!(world.messages("DEAD").await.len(), 1);
    complete(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_rate_limit_is_told_when_to_come_again() {
    let world = World::new().await;
    let mut config = world.listener();
    config["endpoint"]["http"]["listen"]["rateLimit"] = json!({"perSecond": 1, "burst": 3});
    let (bridge, client) = listening(&config).await;
    let mut statuses = Vec::new();
    let limited = loop {
        let answer = client.post("/orders/7", &[], b"x").await.unwrap();
        statuses.push(answer.status);
        if answer.status != 202 {
            break answer;
        }
    };
    assert!(statuses.len() > 3, "a burst is allowed: {statuses:?}");
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("1")));
    problem(&limited);
    eventually("room for another event", LIMIT, async || {
        let answer = client.post("/orders/7", &[], b"later").await.unwrap();
        Ok((answer.status == 202).then_some(()))
    })
    .await
    .unwrap();
    // Without a limit, and without a restart.
    config["endpoint"]["http"]["listen"]["rateLimit"] = json!(null);
    change(&bridge, &config).await;
    for _ in 0..20 {
        assert_eq!(client.post("/orders/7", &[], b"x").await.unwrap().status, 202);
    }
    assert_eq!(in_state(&bridge, "orders", RouteState::Running).await.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_answers_before_it_passes_on() {
    let world = World::new().await;
    let mut config = world.listener();
    config["delivery"]["guarantee"] = json!("AtMostOnce");
    let (bridge, client) = listening(&config).await;
    world.fill().await;
    assert_eq!(client.post("/small/7", &[], b"no room").await.unwrap().status, 202);
    assert_eq!(client.post("/orders/7", &[], b"x").await.unwrap().status, 202);
    bridge.route("small", "a dropped event", |route| route.counters.dropped == 1).await.unwrap();
    bridge.route("orders", "a delivered event", |route| route.counters.delivered == 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_change_while_it_listens() {
    let world = World::new().await;
    let mut config = world.listener();
    let (bridge, client) = listening(&config).await;
    assert_eq!(client.post("/new/a/b", &[], b"x").await.unwrap().status, 404);
    let route = json!({"name": "new", "from": "/new/**", "to": "in.new.{1}", "stream": "IN"});
    config["inbound"].as_array_mut().unwrap().push(route);
    change(&bridge, &config).await;
    assert_eq!(client.post("/new/a/b", &[], b"x").await.unwrap().status, 202);
    assert_eq!(world.messages("IN").await[0].subject.as_str(), "in.new.a.b");
}
