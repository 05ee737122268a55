//! What a target is sent, and what its answers mean.

use std::time::Instant;

use data_encoding::BASE64;
use eventmesh_tests::http::{Collector, Received, Reply};
use eventmesh_wire::report::RouteState;
use ring::hmac;
use rstest::rstest;
use serde_json::json;

use super::world::{LIMIT, World, all_came, change, complete, in_state, start};

async fn one(collector: &Collector) -> Received {
    collector.until(LIMIT, |all| !all.is_empty()).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_cloud_event_is_sent_as_one() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let config = world.sender(&format!("{}/base/", target.url()));
    let bridge = start(&config);
    world.publish("out.7%2E5%20x", "hello").await;
    let request = one(&target).await;
    assert_eq!((request.path.as_str(), request.body.as_ref()), ("/base/take/7.5%20x", &b"hello"[..]));
    let expected = [
        ("ce-specversion", "1.0"),
        ("ce-id", "OUT/1"),
        ("ce-source", "/shop/hooks"),
        ("ce-type", "dev.eventmesh.event"),
        ("em-bridge", super::world::UID),
    ];
    for (name, value) in expected {
        assert_eq!(request.header(name), Some(value), "{request:?}");
    }
    let report = bridge.route("out", "delivered", |route| route.counters.delivered == 1).await.unwrap();
    complete(&report);
    assert_eq!((report.lag, report.retries), (Some(0), 0));
}

#[rstest]
#[case("Binary")]
#[case("Structured")]
#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_event_keeps_its_attributes(#[case] mode: &str) {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["mode"] = json!(mode);
    let _bridge = start(&config);
    let mut headers = async_nats::HeaderMap::new();
    let pairs = [
        ("ce-specversion", "1.0"),
        ("ce-id", "a 1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-shop", "Zürich"),
        ("content-type", "application/json"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    for (name, value) in pairs {
        headers.insert(name, value);
    }
    let context = async_nats::jetstream::new(world.client.clone());
    context.publish_with_headers("out.a", headers, r#"{"n": 1.50}"#.into()).await.unwrap().await.unwrap();
    let request = one(&target).await;
    assert_eq!(request.header("traceparent"), Some(pairs[6].1));
    if mode == "Binary" {
        assert_eq!((request.header("ce-id"), request.header("ce-shop")), (Some("a%201"), Some("Z%C3%BCrich")));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.body.as_ref(), br#"{"n": 1.50}"#);
    } else {
        assert_eq!(request.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
        let event: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let expected = json!({"specversion": "1.0", "id": "a 1", "source": "/s", "type": "t", "shop": "Zürich",
            "datacontenttype": "application/json", "data": {"n": 1.5}});
        assert_eq!(event, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_carry_credentials_headers_and_one_signature_a_secret() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let keys = [b"0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"];
    let mut config = world.sender(&target.url());
    let settings = &mut config["endpoint"]["http"]["target"];
    settings["authentication"] = json!({"bearer": {"token": "hunter2"}});
    settings["headers"] = json!({"X-Api-Key": "hunter3"});
    settings["signingSecrets"] = json!(keys.map(|key| format!("whsec_{}", BASE64.encode(key))));
    let bridge = start(&config);
    world.publish("out.a", "hello").await;
    let request = one(&target).await;
    assert_eq!(request.header("authorization"), Some("Bearer hunter2"));
    assert_eq!(request.header("x-api-key"), Some("hunter3"));
    let (id, time) = (request.header("webhook-id").unwrap(), request.header("webhook-timestamp").unwrap());
    assert_eq!(id, "OUT/1");
    let signed = keys.map(|key| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        format!("v1,{}", BASE64.encode(hmac::sign(&key, format!("{id}.{time}.hello").as_bytes()).as_ref()))
    });
    assert_eq!(request.header("webhook-signature"), Some(signed.join(" ").as_str()));
    bridge.route("out", "delivered", |route| route.counters.delivered == 1).await.unwrap();
    let log = bridge.child.log_tail(usize::MAX);
    assert!(!log.contains("hunter") && !log.contains("whsec"), "a secret is in the log: {log}");
}

#[rstest]
#[case(408)]
#[case(425)]
#[case(429)]
#[case(500)]
#[case(502)]
#[case(503)]
#[case(504)]
#[tokio::test(flavor = "multi_thread")]
async fn what_may_work_later_is_tried_again(#[case] status: u16) {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let refusals = std::sync::atomic::AtomicU32::new(2);
    target.answer(move |_| {
        let left =
            refusals.fetch_update(std::sync::atomic::Ordering::Relaxed, std::sync::atomic::Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        Reply::Status(if left.is_ok() { status } else { 200 })
    });
    let bridge = start(&world.sender(&target.url()));
    world.publish("out.a", "x").await;
    let report = bridge.route("out", "delivered", |route| route.counters.delivered == 1).await.unwrap();
    complete(&report);
    assert_eq!((report.retries, target.received().len()), (2, 3));
    assert!(super::world::says(&report, &format!("answered {status}")), "{report:?}");
    assert_eq!(report.state, RouteState::Running);
}

#[rstest]
#[case(300)]
#[case(400)]
#[case(403)]
#[case(404)]
#[case(410)]
#[case(413)]
#[case(422)]
#[tokio::test(flavor = "multi_thread")]
async fn what_will_never_work_is_a_dead_letter_that_tells_why(#[case] status: u16) {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    target.answer(move |request| match request.body.as_ref() {
        b"bad" => Reply::With { status, headers: vec![], body: "no such\r\n order\u{1b}[31m".to_owned() },
        _ => Reply::Status(204),
    });
    let mut config = world.sender(&target.url());
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
    let bridge = start(&config);
    world.publish("out.a", "bad").await;
    world.publish("out.a", "good").await;
    let cause = world.dead_letter().await;
    assert!(cause.contains(&format!("answered {status}")) && cause.contains("no such order [31m"), "{cause}");
    assert_eq!(cause.contains("redirects are not followed"), status == 300);
    let done = |route: &eventmesh_wire::report::RouteReport| {
        (route.counters.delivered, route.counters.dead_lettered) == (1, 1)
    };
    complete(&bridge.route("out", "one of each", done).await.unwrap());
    assert_eq!(target.received().len(), 2, "it is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_dead_letters_what_is_refused_holds_the_route_up_and_others_go_on() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let refuse = |request: &Received| Reply::Status(if request.body.as_ref() == b"bad" { 404 } else { 200 });
    target.answer(refuse);
    let bridge = start(&world.sender(&target.url()));
    world.publish("out.a", "bad").await;
    world.publish("out.a", "good").await;
    super::world::told(&bridge, "out", RouteState::Blocked, "answered 404").await;
    bridge.route("out", "the other delivered", |route| route.counters.delivered == 1).await.unwrap();
    target.answer(|_| Reply::Status(200));
    complete(&bridge.route("out", "both delivered", |route| route.counters.delivered == 2).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let (world, target, other) =
        (World::new().await, Collector::start().await.unwrap(), Collector::start().await.unwrap());
    let elsewhere = other.url();
    target.answer(move |_| Reply::With {
        status: 307,
        headers: vec![("location", elsewhere.clone())],
        body: String::new(),
    });
    let mut config = world.sender(&target.url());
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
    let _bridge = start(&config);
    world.publish("out.a", "x").await;
    assert!(world.dead_letter().await.contains("redirects are not followed"));
    assert!(other.received().is_empty());
}

#[rstest]
#[case::seconds(|| "2".to_owned())]
#[case::date(|| {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap()
})]
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_asks_for_rest_gets_it(#[case] retry_after: fn() -> String) {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    target.answer(move |_| Reply::With {
        status: 429,
        headers: vec![("retry-after", retry_after())],
        body: String::new(),
    });
    let bridge = start(&world.sender(&target.url()));
    // Before the rest begins, however late this test hears of that.
    let begun = Instant::now();
    world.publish("out.a", "0").await;
    one(&target).await;
    target.answer(|_| Reply::Status(200));
    // Another event waits too, though it was never refused.
    world.publish("out.b", "1").await;
    bridge.route("out", "both delivered", |route| route.counters.delivered == 2).await.unwrap();
    assert!(begun.elapsed().as_millis() >= 1_900, "asked again after {:?}", begun.elapsed());
    assert_eq!(target.received().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_requests_are_on_their_way_than_may_be() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    target.answer(|_| Reply::Hang);
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["maxConcurrency"] = json!(3);
    config["endpoint"]["http"]["target"]["timeoutMs"] = json!(600_000);
    let bridge = start(&config);
    world.publish_numbers(0..20).await;
    target.until(LIMIT, |all| all.len() == 3).await.unwrap();
    bridge.route("out", "all taken from the mesh", |route| route.counters.in_flight == 20).await.unwrap();
    assert_eq!(target.received().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_events_a_second_are_sent_than_may_be() {
    let (world, target) = (World::new().await, Collector::start().await.unwrap());
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["rateLimit"] = json!({"perSecond": 10, "burst": 1});
    world.publish_numbers(0..21).await;
    // Before the first is sent, however late this test hears of that.
    let begun = Instant::now();
    let _bridge = start(&config);
    assert_eq!(all_came(&target, 21).await, 0);
    assert!(begun.elapsed().as_millis() >= 1_900, "20 more came within {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_address_change_while_events_flow() {
    let (world, target, next) =
        (World::new().await, Collector::start().await.unwrap(), Collector::start().await.unwrap());
    let known = |token: &'static str| {
        move |request: &Received| Reply::Status(if request.header("authorization") == Some(token) { 200 } else { 500 })
    };
    target.answer(known("Bearer old"));
    next.answer(known("Bearer new"));
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["authentication"] = json!({"bearer": {"token": "old"}});
    let bridge = start(&config);
    in_state(&bridge, "out", RouteState::Running).await;
    let change_in_the_middle = async {
        target.until(LIMIT, |all| all.len() > 50).await.unwrap();
        config["endpoint"]["http"]["target"] =
            json!({"url": next.url(), "authentication": {"bearer": {"token": "new"}}});
        change(&bridge, &config).await;
        world.publish_numbers(500..600).await;
    };
    tokio::join!(world.publish_numbers(0..500), change_in_the_middle);
    let report = bridge.route("out", "all delivered", |route| route.counters.delivered == 600).await.unwrap();
    complete(&report);
    assert_eq!((report.retries, report.restarts), (0, 0), "no request went with the wrong credentials");
    assert_eq!(target.received().len() + next.received().len(), 600);
    assert!(next.received().len() >= 100);
}
