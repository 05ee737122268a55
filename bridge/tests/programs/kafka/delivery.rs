//! Events cross both ways, in order, and none is lost whatever is killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use eventmesh_tests::kafka::number;
use eventmesh_tests::process::nats::{api, create_stream};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::json;

use super::world::{LIMIT, UID, World, complete, own_kafka, start};

#[tokio::test(flavor = "multi_thread")]
async fn events_cross_both_ways() {
    let world = World::new().await;
    let bridge = world.bridge(&world.config()).await;
    world.outside.produce(&world.topic("in"), "i", 0..2_000, 64).await.unwrap();
    world.publish("out.a", "o", 0..500).await;
    assert_eq!(world.holds_all("IN", "i", 2_000).await, 0, "nothing is there twice");
    assert_eq!(world.outside.receives_all(&world.topic("out"), "o", 500).await.unwrap(), 0);
    for (route, count) in [("in", 2_000), ("out", 500)] {
        let report = bridge.route(route, "all delivered", |route| route.counters.delivered == count).await.unwrap();
        complete(&report);
        assert_eq!((report.counters.received, report.retries), (count, 0));
    }
    world.committed(2_000).await;
    let message = &world.messages("IN").await[0];
    let headers = message.headers.as_ref().unwrap();
    assert_eq!(headers.get("Em-Bridge").unwrap().as_str(), UID);
    assert!(headers.get("Nats-Msg-Id").unwrap().as_str().ends_with(&format!(
        "/{}/{}",
        headers.get("kafka-partition").unwrap().as_str(),
        headers.get("kafka-offset").unwrap().as_str()
    )));
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_both_ways() {
    let world = World::new().await;
    let mut config = world.config();
    config["delivery"]["ordering"] = json!("PerSource");
    let bridge = world.bridge(&config).await;
    world.outside.produce(&world.topic("in"), "i", 0..3_000, 0).await.unwrap();
    for subject in ["out.a", "out.b"] {
        world.publish(subject, "o", 0..300).await;
    }
    bridge.route("in", "all delivered", |route| route.counters.delivered == 3_000).await.unwrap();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for message in world.messages("IN").await {
        let headers = message.headers.as_ref().unwrap();
        let offset: i64 = headers.get("kafka-offset").unwrap().as_str().parse().unwrap();
        let before = last.insert(headers.get("kafka-partition").unwrap().to_string(), offset);
        assert!(before.is_none_or(|before| before < offset), "{before:?} came before {offset}");
    }
    assert_eq!(last.len(), 3, "all partitions were read");
    bridge.route("out", "all delivered", |route| route.counters.delivered == 600).await.unwrap();
    let records = world.outside.collect(&world.topic("out"), |records| records.len() == 600).await.unwrap();
    for subject in ["out.a", "out.b"] {
        let of_subject: Vec<_> = records.iter().filter(|record| record.key_str() == Some(subject)).collect();
        assert!(of_subject.iter().all(|record| record.partition == of_subject[0].partition), "one partition");
        let numbers: Vec<_> = of_subject.iter().filter_map(|record| number(record, "o")).collect();
        assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    }
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Bridge,
    Mesh,
    Kafka,
}

#[rstest]
#[case(Victim::Bridge)]
#[case(Victim::Mesh)]
#[case(Victim::Kafka)]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_something_is_killed(#[case] victim: Victim) {
    const COUNT: usize = 6_000;
    let mut kafka = own_kafka().await;
    let mut world = World::at(&kafka).await;
    world.outside.produce(&world.topic("in"), "i", 0..COUNT, 200).await.unwrap();
    world.publish("out.a", "o", 0..1_000).await;
    let mut bridge = world.bridge(&world.config()).await;
    bridge.route("in", "events on their way", |route| route.counters.delivered > 300).await.unwrap();
    match victim {
        Victim::Bridge => bridge.kill_and_start_again().unwrap(),
        Victim::Mesh => {
            world.nats.kill().unwrap();
            bridge.route("in", "loss of the mesh", |route| route.state == RouteState::Connecting).await.unwrap();
            world.nats.start_again().await.unwrap();
            world.client = world.nats.client().await.unwrap();
        }
        Victim::Kafka => {
            kafka.kill().unwrap();
            bridge.route("in", "loss of Kafka", |route| route.state == RouteState::Connecting).await.unwrap();
            kafka.start_again().await.unwrap();
        }
    }
    assert_eq!(world.holds_all("IN", "i", COUNT).await, 0, "the mesh knows what it has");
    world.outside.receives_all(&world.topic("out"), "o", 1_000).await.unwrap();
    for route in ["in", "out"] {
        complete(&bridge.route(route, "quiet route", |route| route.counters.in_flight == 0).await.unwrap());
    }
    world.committed(i64::try_from(COUNT).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_partitions_change_hands() {
    const PART: usize = 100;
    let world = World::new().await;
    let config = world.config();
    let stays = world.bridge(&config).await;
    let topic = world.topic("in");
    let enough = AtomicBool::new(false);
    let writing = async {
        let mut count = 0;
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while !enough.load(Ordering::Acquire) {
            pace.tick().await;
            world.outside.produce(&topic, "i", count..count + PART, 100).await.unwrap();
            count += PART;
        }
        count
    };
    let changing = async {
        for round in 0..4 {
            let other = world.bridge(&config).await;
            other.route("in", "events of its own", |route| route.counters.delivered > 0).await.unwrap();
            if round % 2 == 0 {
                other.child.kill().unwrap();
            } else {
                other.child.terminate().unwrap();
                other.ended().await.unwrap();
                println!("ended:\n{}", other.child.log_tail(6));
            }
        }
        enough.store(true, Ordering::Release);
    };
    let (count, ()) = tokio::join!(writing, changing);
    println!("{count} events; stays:\n{}", stays.child.log_tail(40));
    assert_eq!(world.holds_all("IN", "i", count).await, 0);
    complete(&stays.route("in", "quiet route", |route| route.counters.in_flight == 0).await.unwrap());
    world.committed(i64::try_from(count).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_that_the_mesh_does_not_have() {
    const STORED: i64 = 40;
    let world = World::new().await;
    let limit = |most: i64| json!({"name": "FULL", "subjects": ["full.>"], "max_msgs": most, "discard": "new"});
    create_stream(&world.client, "FULL", &["full.>"], &limit(STORED)).await.unwrap();
    let mut config = world.config();
    config["inbound"][0]["to"] = json!("full.all");
    config["inbound"][0]["stream"] = json!("FULL");
    config["inbound"][0]["ingest"] = json!("Single");
    let mut bridge = start(&config);
    world.outside.produce(&world.topic("in"), "i", 0..400, 0).await.unwrap();
    bridge.route("in", "obstacle", |route| route.state == RouteState::Blocked).await.unwrap();
    let committed = eventually("a commit", LIMIT, async || {
        let offsets = world.outside.committed(&world.topic("group"), &world.topic("in"), 3).await;
        let sum: i64 = offsets.map_err(|error| error.to_string())?.iter().flatten().sum();
        Ok((sum > 0).then_some(sum))
    })
    .await
    .unwrap();
    assert!(committed <= STORED, "{committed} are committed");
    bridge.kill_and_start_again().unwrap();
    api(&world.client, "STREAM.UPDATE.FULL", &limit(1_000)).await.unwrap();
    assert_eq!(world.holds_all("FULL", "i", 400).await, 0);
    world.committed(400).await;
}
