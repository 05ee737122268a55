//! What an application answers, and what becomes of the event.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use eventmesh_tests::child::free_port;
use eventmesh_tests::http::{Collector, Reply};
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{NEVER, World, attempts, body, has_all, next_given_up, numbers, standing, subscription};
use crate::common::LIMIT;

#[tokio::test]
async fn events_are_cloud_events_and_acknowledged_when_they_are_taken() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    let push = world.push(&[subscription(app.port, &json!({}))]).await;
    world.publish(numbers(200)).await;
    let received = app.until(LIMIT, |all| has_all(all, 200)).await.unwrap();
    world.until_done().await;
    assert!(attempts(&received).values().all(|attempts| *attempts == [1]));
    let first = received.iter().find(|one| body(one) == "0").unwrap();
    let of = |name: &str| first.header(name).unwrap();
    assert_eq!((first.path.as_str(), of("ce-id"), of("em-sequence")), ("/events", "OUT/1", "1"));
    assert_eq!((of("em-subscription"), of("em-subject"), of("ce-subject")), ("shop/mail", "out.a", "out.a"));
    let standing = standing(&push, "delivered", |standing| standing.counters.delivered == 200).await;
    assert_eq!((standing.state, standing.counters.in_flight, standing.retries), (RouteState::Running, 0, 0));
    push.stop(LIMIT).await;
}

/// Whatever the consumer's own times are: the next try comes after the waits of the Subscription, and the end at once.
#[rstest]
#[case(json!({"max_deliver": 3}))]
#[case(json!({"max_deliver": 3, "backoff": [100_000_000_000_u64, 300_000_000_000_u64]}))]
#[tokio::test]
async fn one_poison_event_does_not_stop_the_others_and_is_given_up_at_once_after_its_last_try(#[case] consumer: Value) {
    let (world, app) = (World::with(NEVER, consumer).await, Collector::start().await.unwrap());
    app.answer(|request| Reply::Status(if body(request) == "3" { 500 } else { 202 }));
    let mut given_up = world.given_up().await;
    let push = world.push(&[subscription(app.port, &json!({"maxDeliver": 3}))]).await;
    world.publish(numbers(50)).await;
    assert_eq!(next_given_up(&mut given_up).await, (4, 3));
    let received = app.until(LIMIT, |all| has_all(all, 50)).await.unwrap();
    for (event, attempts) in attempts(&received) {
        assert_eq!(attempts, if event == "3" { vec![1, 2, 3] } else { vec![1] }, "{event}");
    }
    let standing = standing(&push, "books", |standing| standing.counters.delivered == 49).await;
    assert_eq!((standing.counters.dead_lettered, standing.counters.in_flight, standing.retries), (1, 0, 2));
    assert!(standing.last_error.unwrap().message.contains("given up after 3 tries"));
    push.stop(LIMIT).await;
}

#[rstest]
#[case(Reply::Status(400))]
#[case(Reply::Status(404))]
#[case(Reply::With { status: 307, headers: vec![("location", "/elsewhere".to_owned())], body: String::new() })]
#[case(Reply::Status(500))]
#[case(Reply::Close)]
#[case(Reply::Hang)]
#[tokio::test]
async fn what_is_not_taken_is_tried_again(#[case] reply: Reply) {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    app.answer(move |request| match request.header("em-attempt") {
        Some("1") if body(request) == "1" => reply.clone(),
        _ => Reply::Status(204),
    });
    let push = world.push(&[subscription(app.port, &json!({"timeoutMs": 5_000}))]).await;
    world.publish(numbers(3)).await;
    world.until_done().await;
    let found = attempts(&app.received());
    assert_eq!((&found["0"], &found["1"], &found["2"]), (&vec![1], &vec![1, 2], &vec![1]));
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn an_application_that_answers_garbage_gets_its_tries_and_no_more() {
    let world = World::with(NEVER, json!({"max_deliver": 2})).await;
    let port = free_port().unwrap();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let app = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let _ = socket.write_all(b"\0\0 what? \r\n\r\n").await;
                }
            });
        }
    });
    let mut given_up = world.given_up().await;
    let push = world.push(&[subscription(port, &json!({"maxDeliver": 2}))]).await;
    world.publish(numbers(2)).await;
    let mut all = [next_given_up(&mut given_up).await, next_given_up(&mut given_up).await];
    all.sort_unstable();
    assert_eq!(all, [(1, 2), (2, 2)]);
    push.stop(LIMIT).await;
    app.abort();
}

#[tokio::test]
async fn a_slow_application_gets_each_event_once() {
    // Far longer than the consumer waits, which waits long enough for a machine that stands still for seconds.
    let (world, app) = (World::with(8000, json!({})).await, Collector::start().await.unwrap());
    app.answer(|_| Reply::Late(Duration::from_secs(20)));
    let push = world.push(&[subscription(app.port, &json!({"timeoutMs": NEVER}))]).await;
    world.publish(numbers(20)).await;
    world.until_done().await;
    let found = attempts(&app.received());
    assert!(found.len() == 20 && found.values().all(|attempts| *attempts == [1]), "{found:?}");
    push.stop(LIMIT).await;
}

#[rstest]
#[case(429, vec![])]
#[case(503, vec![("retry-after", "5".to_owned())])]
#[tokio::test]
async fn an_application_that_asks_for_less_gets_less_and_no_event_loses_a_try(
    #[case] status: u16,
    #[case] headers: Vec<(&'static str, String)>,
) {
    let (world, app) = (World::with(6000, json!({"max_deliver": 1})).await, Collector::start().await.unwrap());
    let answered = AtomicUsize::new(0);
    app.answer(move |_| match answered.fetch_add(1, SeqCst) {
        0..18 => Reply::With { status, headers: headers.clone(), body: "too much".to_owned() },
        _ => Reply::Status(200),
    });
    let push = world.push(&[subscription(app.port, &json!({"maxDeliver": 1, "maxInFlight": 10}))]).await;
    world.publish(numbers(100)).await;
    let slowed = standing(&push, "slower", |standing| standing.concurrency <= 5).await;
    assert!(slowed.last_error.unwrap().message.contains("too much"));
    let info = world.until_done().await;
    assert_eq!((&info["delivered"]["consumer_seq"], &info["num_redelivered"]), (&json!(100), &json!(0)));
    let received = app.received();
    assert!(has_all(&received, 100) && received.iter().all(|one| one.header("em-attempt") == Some("1")));
    standing(&push, "as fast as before", |standing| standing.state == RouteState::Running).await;
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn no_more_than_max_in_flight_are_with_the_application() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    app.answer(|_| Reply::Hang);
    let push = world.push(&[subscription(app.port, &json!({"maxInFlight": 5, "timeoutMs": NEVER}))]).await;
    world.publish(numbers(20)).await;
    app.until(LIMIT, |all| all.len() == 5).await.unwrap();
    let info = world.until("full", |info| info["num_waiting"] == 0 && info["num_ack_pending"] == 5).await;
    assert_eq!((&info["num_pending"], app.received().len()), (&json!(15), 5));
    push.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn one_at_a_time_is_in_the_order_of_the_topic() {
    let (world, app) = (World::with(NEVER, json!({"max_ack_pending": 1})).await, Collector::start().await.unwrap());
    let failed = AtomicUsize::new(0);
    app.answer(move |_| Reply::Status(if failed.fetch_add(1, SeqCst) % 7 == 3 { 500 } else { 202 }));
    let push = world.push(&[subscription(app.port, &json!({"maxInFlight": 1}))]).await;
    world.publish(numbers(50)).await;
    world.until_done().await;
    let mut order: Vec<usize> = app.received().iter().map(|one| body(one).parse().unwrap()).collect();
    order.dedup();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
    push.stop(LIMIT).await;
}
