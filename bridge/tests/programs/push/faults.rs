//! What is killed, missing or moved in mid-load, judged from what the application saw.

use std::collections::BTreeMap;
use std::time::Duration;

use eventmesh_bridge::sidecar::push::{Push, Settings};
use eventmesh_tests::http::Collector;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{api, create_stream, produce};
use eventmesh_tests::process::{Accounts, Nats, Rights};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::app::{self, App};
use super::world::{NEVER, World, attempts, connect, create_consumer, has_all, numbers, standing, subscription};
use crate::common::LIMIT;

const EVENTS: usize = 5000;

/// Only what was with the application when it was killed may come again.
#[tokio::test]
async fn an_application_that_is_killed_in_mid_load_loses_nothing() {
    let (world, mut app) = (World::with(NEVER, json!({})).await, App::start());
    let push = world.push(&[subscription(app.port, &json!({"maxInFlight": 20}))]).await;
    let feed = tokio::spawn({
        let client = world.client.clone();
        async move { produce(&client, "out.a", "", 0..EVENTS).await }
    });
    for kill in 1..=3 {
        eventually("some events", LIMIT, async || Ok((app.history().len() > kill * 500).then_some(()))).await.unwrap();
        app.child.kill().unwrap();
        app.start_again();
    }
    feed.await.unwrap().unwrap();
    world.until_done().await;
    let history = app.history();
    let mut seen: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for (number, attempt) in &history {
        seen.entry(*number).or_default().push(*attempt);
    }
    assert_eq!(seen.len(), EVENTS);
    assert!(history.len() - EVENTS <= 3 * 20, "{} came again", history.len() - EVENTS);
    let late = seen.values().filter(|attempts| attempts.last() != Some(&1)).count();
    assert!(late <= 3 * 20, "{late} lost a try");
    assert!(push.standings()[0].counters.balances());
    push.stop(LIMIT).await;
}

/// Only what was open when it was killed may come again, when the consumer has waited for its acknowledgement.
#[tokio::test]
async fn a_sidecar_that_is_killed_in_mid_load_loses_nothing() {
    let (world, app) = (World::with(5000, json!({})).await, Collector::start().await.unwrap());
    let subscription = subscription(app.port, &json!({"maxInFlight": 20}));
    let mut sidecar = app::sidecar(&world, &subscription);
    world.publish(numbers(1000)).await;
    for kill in 1..=3 {
        app.until(LIMIT, |all| all.len() > kill * 200).await.unwrap();
        sidecar.kill().unwrap();
        sidecar = app::sidecar(&world, &subscription);
    }
    world.until_done().await;
    let (received, found) = (app.received(), attempts(&app.received()));
    assert!(has_all(&received, 1000));
    assert!(received.len() - 1000 <= 3 * 20, "{} came again", received.len() - 1000);
    assert!(found.values().all(|attempts| attempts.len() == 1 || attempts.last() > Some(&1)));
}

#[tokio::test]
async fn a_broker_that_is_killed_in_mid_load_loses_nothing() {
    let (mut world, app) = (World::with(2000, json!({})).await, Collector::start().await.unwrap());
    let push = world.push(&[subscription(app.port, &json!({}))]).await;
    world.publish(numbers(1000)).await;
    for kill in 1..=2 {
        app.until(LIMIT, |all| all.len() > kill * 300).await.unwrap();
        world.nats.kill().unwrap();
        standing(&push, "loss", |standing| standing.state == RouteState::Connecting).await;
        world.nats.start_again().await.unwrap();
        world.client = world.nats.client().await.unwrap();
    }
    world.until_done().await;
    assert!(has_all(&app.received(), 1000));
    standing(&push, "running again", |standing| standing.state == RouteState::Running).await;
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn a_consumer_that_is_missing_is_told_and_found_when_it_is_made() {
    let (world, app) = (World::new().await, Collector::start().await.unwrap());
    world.publish(numbers(5)).await;
    let push = world.push(&[subscription(app.port, &json!({}))]).await;
    let missing = standing(&push, "failure", |standing| standing.state == RouteState::Failed).await;
    assert!(missing.last_error.unwrap().message.contains("can not read from consumer `c`"));
    world.consumer("c", NEVER, &json!({})).await;
    app.until(LIMIT, |all| has_all(all, 5)).await.unwrap();
    // The same when it is deleted while it is read.
    api(&world.client, "CONSUMER.DELETE.OUT.c", &json!({})).await.unwrap();
    standing(&push, "failure", |standing| standing.state != RouteState::Running).await;
    world.consumer("c", NEVER, &json!({"deliver_policy": "new"})).await;
    world.publish(["5".to_owned()]).await;
    app.until(LIMIT, |all| has_all(all, 6)).await.unwrap();
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn a_consumer_that_is_paused_gives_nothing_and_goes_on_when_it_is_resumed() {
    let (world, app) = (World::with(NEVER, json!({})).await, Collector::start().await.unwrap());
    let push = world.push(&[subscription(app.port, &json!({}))]).await;
    world.publish(numbers(3)).await;
    world.until_done().await;
    let until = jiff::Timestamp::now() + Duration::from_hours(1);
    api(&world.client, "CONSUMER.PAUSE.OUT.c", &json!({"pause_until": until})).await.unwrap();
    world.publish(["3".to_owned()]).await;
    let mut requests = world.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.OUT.c").await.unwrap();
    for _ in 0..2 {
        timeout(LIMIT, requests.next()).await.expect("it asks again").unwrap();
    }
    assert_eq!(app.received().len(), 3);
    api(&world.client, "CONSUMER.PAUSE.OUT.c", &json!({})).await.unwrap();
    app.until(LIMIT, |all| has_all(all, 4)).await.unwrap();
    push.stop(LIMIT).await;
}

#[tokio::test]
async fn it_goes_on_when_another_broker_becomes_the_leader() {
    const RIGHTS: Rights =
        Rights { publish: &[], consume: &[("OUT", "c")], inspect: &[], reports_as: ("shop", "mail") };
    let accounts = Accounts::new(RIGHTS);
    let folders = [scratch("n").unwrap(), scratch("n").unwrap(), scratch("n").unwrap()];
    let brokers = Nats::cluster(folders, &accounts).await.unwrap();
    let client = brokers[0].client().await.unwrap();
    eventually("stream", LIMIT, async || {
        let made = create_stream(&client, "OUT", &["out.>"], &json!({"num_replicas": 3})).await;
        made.map(Some).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    create_consumer(&client, "c", 5000, &json!({})).await;
    let app = Collector::start().await.unwrap();
    let servers: Vec<String> = brokers.iter().map(Nats::url).collect();
    let mesh = connect(&accounts, &servers).await;
    let push = Push::start(mesh, Settings::new("shop", None), &[subscription(app.port, &json!({}))]);
    let feed = tokio::spawn({
        let client = client.clone();
        async move { produce(&client, "out.a", "", 0..2000).await }
    });
    for moves in 1..=4 {
        app.until(LIMIT, |all| all.len() > moves * 300).await.unwrap();
        api(&client, "CONSUMER.LEADER.STEPDOWN.OUT.c", &json!({})).await.unwrap();
    }
    feed.await.unwrap().unwrap();
    app.until(LIMIT, |all| has_all(all, 2000)).await.unwrap();
    let again = attempts(&app.received()).values().filter(|attempts| attempts.len() > 1).count();
    // What was acknowledged to a leader that had just left is given again.
    assert!(again <= 4 * 100, "{again} came again");
    push.stop(LIMIT).await;
}
