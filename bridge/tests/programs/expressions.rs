//! Filters and transforms see one view of an event, and what gives no answer never stops a route.

use crate::common::{Outside, World, complete, running, start};
use serde_json::json;

const EVENT: &str =
    r#"{"specversion":"1.0","id":"1","source":"/line/7","type":"temperature","shop":"x","data":{"celsius":81.5}}"#;
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

fn header<'m>(message: &'m async_nats::jetstream::Message, name: &str) -> Option<&'m str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_either_mode_is_filtered_changed_and_stored_once() {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["inbound"][0]["filter"] =
        json!("event.type == 'temperature' && event.attributes.shop == 'x' && event.data.celsius > 80");
    config["inbound"][0]["transform"] = json!("{'c': event.data.celsius, 'at': event.subject}");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.send("line/7/t", EVENT, &[STRUCTURED]).await;
    outside.send("line/7/t", EVENT, &[STRUCTURED]).await;
    let binary =
        [("specversion", "1.0"), ("id", "2"), ("source", "/line/7"), ("type", "temperature"), ("traceparent", "t")];
    outside.send("line/7/t", r#"{"celsius":90}"#, &binary).await;
    outside.send("line/7/t", r#"{"celsius":90}"#, &[("ce-shop", "x"), ("ce-type", "temperature")]).await;
    outside.send("line/7/t", EVENT.replace("81.5", "1"), &[STRUCTURED]).await;
    let route =
        bridge.route("in", "five events", |route| route.counters.received == 5 && route.counters.in_flight == 0);
    let route = route.await.unwrap();
    // The event without the attribute `shop` has no answer, and does not pass.
    assert_eq!((route.counters.delivered, route.counters.filtered), (3, 2), "{route:?}");
    complete(&route);
    let stored = world.messages("IN").await;
    assert_eq!(stored.len(), 2, "the one that came twice is there once");
    // In any order: a batch that holds an event twice is refused whole, and its events go one by one.
    let first = stored.iter().find(|event| event.payload == r#"{"at":"line/7/t","c":81.5}"#).expect("the first");
    let expected = [("ce-id", "1"), ("ce-source", "/line/7"), ("ce-shop", "x"), ("content-type", "application/json")];
    for (name, value) in expected {
        assert_eq!(header(first, name), Some(value), "{name}");
    }
    assert_eq!(header(first, "Nats-Msg-Id"), Some("/line/7#1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_or_answered_is_a_dead_letter_and_the_next_event_passes() {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["inbound"][0]["deadLetterSubject"] = json!("dead.letters");
    config["inbound"][0]["transform"] = json!("event.data.celsius");
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
    config["outbound"][0]["filter"] = json!("event.data.number > 1");
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    outside.send("line/7/t", r#"{"specversion":"1.0","id":"1"}"#, &[STRUCTURED, ("k", "v")]).await;
    outside.send("line/7/t", "no number", &[]).await;
    outside.send("line/7/t", r#"{"celsius":90}"#, &[]).await;
    let route =
        bridge.route("in", "three events", |route| route.counters.received == 3 && route.counters.in_flight == 0);
    let route = route.await.unwrap();
    let stored = world.stored("IN").await;
    assert_eq!((route.counters.delivered, route.counters.dead_lettered), (1, 2), "{stored:?}");
    let context = async_nats::jetstream::new(world.client.clone());
    context.publish("out.a", "no number".into()).await.unwrap().await.unwrap();
    context.publish("out.a", r#"{"number":2}"#.into()).await.unwrap().await.unwrap();
    assert_eq!(outside.receive().await.payload, r#"{"number":2}"#);
    complete(&bridge.route("out", "a dead letter", |route| route.counters.dead_lettered == 1).await.unwrap());
    let dead = world.messages("DEAD").await;
    let causes: Vec<&str> = dead.iter().filter_map(|letter| header(letter, "Em-Dead-Cause")).collect();
    assert!(causes.iter().any(|cause| cause.contains("`source` is missing")), "{causes:?}");
    assert_eq!(causes.iter().filter(|cause| cause.contains("could not be evaluated")).count(), 2, "{causes:?}");
    let unreadable = dead.iter().find(|letter| header(letter, "k") == Some("v")).unwrap();
    assert_eq!(unreadable.payload, r#"{"specversion":"1.0","id":"1"}"#, "as it came");
    assert_eq!(header(unreadable, "Em-Dead-Origin"), Some("line/7/t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_expressions_can_be_asked_to_filter() {
    let world = World::new().await;
    let mut config = world.config("V5");
    config["inbound"][0]["deadLetterSubject"] = json!("dead.letters");
    config["inbound"][0]["filter"] = json!("event.data.celsius > 80");
    config["delivery"]["evaluationErrors"] = json!("Filter");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    let outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    outside.send("line/7/t", "no number", &[]).await;
    let route = bridge.route("in", "one event", |route| route.counters.filtered == 1).await.unwrap();
    assert!(crate::common::says(&route, "could not be evaluated"), "{route:?}");
}
