//! An application that is not ready gets nothing, and loses no try.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Duration;

use eventmesh_bridge::sidecar::push::{Push, Settings};
use eventmesh_tests::http::{Collector, Reply};
use eventmesh_wire::report::RouteState;
use serde_json::json;

use super::world::{NEVER, PATIENCE, World, attempts, has_all, numbers, standing, subscription};
use crate::common::LIMIT;

#[tokio::test]
async fn nothing_is_pulled_for_a_port_that_is_closed_and_all_comes_when_it_opens() {
    let (world, mut app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    app.stop().await;
    world.publish(numbers(20)).await;
    let push = world.push(&[subscription(app.port, &json!({}))]).await;
    let refused = |why: &Option<String>| why.as_ref().is_some_and(|why| why.contains("Connection refused"));
    let standing = standing(&push, "refusal", |standing| refused(&standing.not_ready)).await;
    assert_eq!(standing.state, RouteState::Connecting);
    assert_eq!(world.info("c").await["delivered"]["consumer_seq"], 0);
    app.start_again(None).await.unwrap();
    world.until_done().await;
    assert!(attempts(&app.received()).values().all(|attempts| *attempts == [1]) && has_all(&app.received(), 20));
    push.stop(LIMIT).await;
}

/// The application's own probe decides, also while its port is open.
#[tokio::test]
async fn nothing_is_pulled_while_the_probe_of_the_application_fails() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    let (probe, status) = (Collector::start().await.unwrap(), Arc::new(AtomicU16::new(503)));
    let answers = Arc::clone(&status);
    probe.answer(move |_| Reply::Status(answers.load(SeqCst)));
    world.publish(numbers(20)).await;
    let push =
        world.push_when(&format!("http://127.0.0.1:{}/ready", probe.port), &[subscription(app.port, &json!({}))]).await;
    probe.until(LIMIT, |all| all.len() >= 3).await.unwrap();
    let fails = |why: &Option<String>| why.as_ref().is_some_and(|why| why.contains("answers 503"));
    standing(&push, "not ready", |standing| fails(&standing.not_ready)).await;
    assert_eq!(world.info("c").await["delivered"]["consumer_seq"], 0);
    status.store(204, SeqCst);
    world.until_done().await;

    status.store(500, SeqCst);
    standing(&push, "not ready again", |standing| standing.not_ready.is_some()).await;
    world.until("no request for events", |info| info["num_waiting"] == 0).await;
    world.publish(["20".to_owned()]).await;
    let asked = probe.received().len();
    probe.until(LIMIT, |all| all.len() > asked + 2).await.unwrap();
    assert_eq!(world.info("c").await["num_pending"], 1);
    status.store(302, SeqCst);
    world.until_done().await;
    assert!(has_all(&app.received(), 21) && attempts(&app.received()).values().all(|attempts| *attempts == [1]));
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn a_probe_can_be_a_port() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    let mut probe = Collector::start().await.unwrap();
    probe.stop().await;
    world.publish(numbers(3)).await;
    let push = world.push_when(&format!("tcp://127.0.0.1:{}", probe.port), &[subscription(app.port, &json!({}))]).await;
    let refused = |why: &Option<String>| why.as_ref().is_some_and(|why| why.contains("Connection refused"));
    standing(&push, "not ready", |standing| refused(&standing.not_ready)).await;
    probe.start_again(None).await.unwrap();
    world.until_done().await;
    assert_eq!(app.received().len(), 3);
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn events_that_were_pulled_for_an_application_that_left_are_held_and_lose_no_try() {
    let (world, mut app) = (World::with(6000, json!({"max_deliver": 1})).await, Collector::start().await.unwrap());
    let push = world.push(&[subscription(app.port, &json!({"maxDeliver": 1}))]).await;
    world.publish(numbers(1)).await;
    world.until_done().await;
    // Events are asked for already, so what is published now comes to nobody who takes it.
    world.until("request for events", |info| info["num_waiting"].as_u64() > Some(0)).await;
    app.stop().await;
    world.publish((1..6).map(|number| number.to_string())).await;
    standing(&push, "held events", |standing| standing.counters.in_flight > 0).await;
    // Longer than the consumer waits for what it hears nothing of.
    tokio::time::sleep(3 * PATIENCE).await;
    app.start_again(None).await.unwrap();
    let info = world.until_done().await;
    assert_eq!((&info["delivered"]["consumer_seq"], &info["num_redelivered"]), (&json!(6), &json!(0)));
    assert!(has_all(&app.received(), 6) && attempts(&app.received()).values().all(|attempts| *attempts == [1]));
    push.stop(LIMIT).await;
}

/// Pods share what may wait to be acknowledged: one whose application is away must not keep it for good.
#[tokio::test]
async fn what_was_held_for_too_long_is_another_pods_but_never_its_last_try() {
    let (world, mut app) = (World::with(NEVER, json!({"max_deliver": 2})).await, Collector::start().await.unwrap());
    let settings = Settings { hold: PATIENCE, ..Settings::new("shop", None) };
    let list = [subscription(app.port, &json!({"maxDeliver": 2}))];
    let push = Push::start(world.mesh().await, settings.clone(), &list);
    standing(&push, "ready", |standing| standing.not_ready.is_none()).await;
    world.until("request for events", |info| info["num_waiting"].as_u64() > Some(0)).await;
    app.stop().await;
    world.publish(numbers(1)).await;
    world.until("given event", |info| info["delivered"]["consumer_seq"] == 1).await;
    standing(&push, "nothing held", |standing| standing.counters.in_flight == 0).await;

    let other = Collector::start().await.unwrap();
    other.answer(|_| Reply::Hang);
    let elsewhere = Push::start(world.mesh().await, settings, &[subscription(other.port, &json!({"maxDeliver": 2}))]);
    let received = other.until(LIMIT, |all| all.len() == 1).await.unwrap();
    assert_eq!(received[0].header("em-attempt"), Some("2"));
    elsewhere.stop(Duration::ZERO).await;
    push.stop(LIMIT).await;
}
