//! Changes of the list, and the end.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use eventmesh_tests::child::free_port;
use eventmesh_tests::http::{Collector, Reply};
use eventmesh_wire::report::RouteState;
use futures::StreamExt as _;
use serde_json::json;

use super::world::{NEVER, PATIENCE, World, attempts, body, has_all, numbers, standing, subscription};
use crate::common::LIMIT;

/// The next event of the consumer `c`, as another pod gets it: its payload, and how often it was given.
async fn pulled(world: &World) -> (String, i64) {
    let context = async_nats::jetstream::new(world.client.clone());
    let consumer: PullConsumer = context.get_consumer_from_stream("c", "OUT").await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let message = tokio::time::timeout(LIMIT, messages.next()).await.expect("an event in time").unwrap().unwrap();
    message.ack().await.unwrap();
    (String::from_utf8_lossy(&message.payload).into_owned(), message.info().unwrap().delivered)
}

#[tokio::test]
async fn at_the_end_what_is_with_the_application_is_finished() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    app.answer(|_| Reply::Late(Duration::from_secs(1)));
    let push = world.push(&[subscription(app.port, &json!({"maxInFlight": 5}))]).await;
    world.publish(numbers(20)).await;
    app.until(LIMIT, |all| all.len() == 5).await.unwrap();
    push.stop(LIMIT).await;
    let info = world.until("nothing under way", |info| info["num_ack_pending"] == 0).await;
    let taken = app.received().len();
    assert_eq!(info["num_pending"], 20 - taken);
    assert!(taken < 20 && attempts(&app.received()).values().all(|attempts| *attempts == [1]), "{taken}");
}

#[tokio::test]
async fn at_the_end_what_is_not_answered_is_handed_back_at_once() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    app.answer(|_| Reply::Hang);
    let push = world.push(&[subscription(app.port, &json!({"timeoutMs": NEVER}))]).await;
    world.publish(numbers(1)).await;
    app.until(LIMIT, |all| all.len() == 1).await.unwrap();
    push.stop(PATIENCE).await;
    assert_eq!(pulled(&world).await, ("0".to_owned(), 2));
}

#[tokio::test]
async fn at_the_end_what_waits_for_the_application_is_handed_back_at_once() {
    let (world, mut app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    let push = world.push(&[subscription(app.port, &json!({}))]).await;
    standing(&push, "ready", |standing| standing.not_ready.is_none()).await;
    world.until("request for events", |info| info["num_waiting"].as_u64() > Some(0)).await;
    app.stop().await;
    world.publish(numbers(1)).await;
    standing(&push, "held event", |standing| standing.counters.in_flight == 1).await;
    push.stop(LIMIT).await;
    assert_eq!(pulled(&world).await, ("0".to_owned(), 2));
}

#[tokio::test]
async fn an_event_for_a_wrong_port_goes_to_the_right_one_when_it_is_known_and_others_are_not_disturbed() {
    let (world, app) = (World::with(NEVER, json!({"max_deliver": 1})).await, Collector::start().await.unwrap());
    world.consumer("d", NEVER, &json!({})).await;
    let (mut wrong, other) = (Collector::start().await.unwrap(), Collector::start().await.unwrap());
    other.answer(|_| Reply::Late(Duration::from_secs(2)));
    let undisturbed = subscription(other.port, &json!({"name": "other", "consumer": "d"}));
    let first = subscription(wrong.port, &json!({"maxDeliver": 1}));
    let mut push = world.push(&[first.clone(), undisturbed.clone()]).await;
    standing(&push, "ready", |standing| standing.not_ready.is_none()).await;
    world.until("request for events", |info| info["num_waiting"].as_u64() > Some(0)).await;
    wrong.stop().await;
    world.publish(numbers(1)).await;
    standing(&push, "held event", |standing| standing.counters.in_flight == 1).await;
    other.until(LIMIT, |all| all.len() == 1).await.unwrap();

    push.set(&[subscription(app.port, &json!({"maxDeliver": 1, "path": "/new"})), undisturbed]);
    let received = app.until(LIMIT, |all| all.len() == 1).await.unwrap();
    assert_eq!((received[0].path.as_str(), received[0].header("em-attempt")), ("/new", Some("1")));
    world.publish(["1".to_owned()]).await;
    app.until(LIMIT, |all| has_all(all, 2)).await.unwrap();
    other.until(LIMIT, |all| has_all(all, 2)).await.unwrap();
    push.stop(LIMIT).await;
    let twice = |app: &Collector| app.received().iter().filter(|one| body(one) == "0").count();
    assert_eq!((twice(&app), twice(&other)), (1, 1));
}

#[tokio::test]
async fn what_is_taken_off_the_list_finishes_and_what_is_added_starts() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    world.consumer("d", NEVER, &json!({})).await;
    app.answer(|_| Reply::Late(Duration::from_secs(1)));
    let mut push = world.push(&[subscription(app.port, &json!({}))]).await;
    world.publish(numbers(1)).await;
    app.until(LIMIT, |all| all.len() == 1).await.unwrap();
    push.set(&[subscription(app.port, &json!({"name": "other", "consumer": "d"}))]);
    world.until_done().await;
    let received = app.until(LIMIT, |all| all.len() == 2).await.unwrap();
    let names: Vec<_> = received.iter().map(|one| one.header("em-subscription").unwrap()).collect();
    assert_eq!(names, ["shop/mail", "shop/other"]);
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn a_path_that_is_none_is_told_and_nothing_is_pulled_for_it() {
    let world = World::with(NEVER, json!({})).await;
    world.publish(numbers(1)).await;
    let push = world.push(&[subscription(free_port().unwrap(), &json!({"path": "events"}))]).await;
    let standing = standing(&push, "failure", |standing| standing.state == RouteState::Failed).await;
    assert!(standing.last_error.unwrap().message.contains("push.path"));
    assert_eq!(world.info("c").await["delivered"]["consumer_seq"], 0);
    push.stop(LIMIT).await;
}
