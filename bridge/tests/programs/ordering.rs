//! `ordering: PerSource`: events of one address arrive in its order, through refusals, retries and killed bridges.

use crate::common::{LIMIT, Outside, World, complete, running, start};
use eventmesh_tests::process::nats::{api, create_stream};
use serde_json::{Value, json};

const COUNT: usize = 1_500;

fn ordered(world: &World) -> Value {
    let mut config = world.config("V5");
    config["delivery"]["ordering"] = json!("PerSource");
    config
}

/// The numbers behind the prefix, each where it came first.
fn first_arrivals<'a>(payloads: impl IntoIterator<Item = &'a [u8]>, prefix: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for payload in payloads {
        let number = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| text.strip_prefix(prefix)?.parse().ok())
            .expect("a number");
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn into_the_mesh_through_killed_bridges() {
    let world = World::new().await;
    let mut bridge = start(&ordered(&world));
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    for part in 0..3 {
        for number in part * COUNT / 3..(part + 1) * COUNT / 3 {
            outside.send("line/7/t", format!("i{number}"), &[]).await;
        }
        bridge.kill_and_start_again().unwrap();
    }
    outside.publish("line/7/t", "i", COUNT..COUNT + 1).await;
    world.holds_all("IN", "i", COUNT + 1).await;
    let stored = world.messages("IN").await;
    let numbers = first_arrivals(stored.iter().map(|message| message.payload.as_ref()), "i");
    assert!(numbers.is_sorted(), "{:?}", numbers.iter().zip(0..).find(|(a, b)| *a != b));
}

#[tokio::test(flavor = "multi_thread")]
async fn into_the_mesh_through_a_topic_that_is_full_again_and_again() {
    let world = World::new().await;
    let full = |limit: usize| json!({"max_msgs": limit, "discard": "new"});
    create_stream(&world.client, "FULL", &["full.>"], &full(10)).await.unwrap();
    let mut config = ordered(&world);
    config["inbound"][0]["to"] = json!("full.{1}");
    config["inbound"][0]["stream"] = json!("FULL");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..300).await;
    for limit in [60, 61, 199, 300] {
        let mut stream = full(limit);
        stream["name"] = json!("FULL");
        stream["subjects"] = json!(["full.>"]);
        api(&world.client, "STREAM.UPDATE.FULL", &stream).await.unwrap();
        bridge.route("in", "filled stream", |route| route.counters.delivered == limit as u64).await.unwrap();
    }
    let stored = world.messages("FULL").await;
    let numbers = first_arrivals(stored.iter().map(|message| message.payload.as_ref()), "i");
    assert!(numbers.is_sorted() && numbers.len() == 300, "{:?}", numbers.iter().zip(0..).find(|(a, b)| *a != b));
    complete(&bridge.route("in", "settled route", |route| route.counters.in_flight == 0).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_the_mesh_through_killed_bridges() {
    let world = World::new().await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    let mut bridge = start(&ordered(&world));
    running(&bridge, &["out"]).await;
    world.publish_mesh("o", 0..COUNT).await;
    let mut received = Vec::new();
    let mut kills = 0;
    while !received.iter().any(|payload: &bytes::Bytes| *payload == format!("o{}", COUNT - 1)) {
        received.push(outside.receive().await.payload);
        if kills < 3 && received.len() == (kills + 1) * COUNT / 4 {
            bridge.kill_and_start_again().unwrap();
            kills += 1;
        }
    }
    assert_eq!(kills, 3, "the events were through before the kills");
    let numbers = first_arrivals(received.iter().map(AsRef::as_ref), "o");
    assert!(numbers.is_sorted() && numbers.len() == COUNT, "{:?}", numbers.iter().zip(0..).find(|(a, b)| *a != b));
    let info = async || api(&world.client, "CONSUMER.INFO.OUT.c", &json!({})).await.map_err(|error| error.to_string());
    eventmesh_tests::wait::eventually("acknowledged events", LIMIT, async || {
        let info = info().await?;
        if info["num_ack_pending"] == 0 { Ok(Some(())) } else { Err(info.to_string()) }
    })
    .await
    .unwrap();
}
