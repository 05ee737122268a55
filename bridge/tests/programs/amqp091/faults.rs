//! Each thing that can go wrong at a broker of AMQP 0-9-1: what the bridge says, and that events survive it.

use std::collections::BTreeSet;

use eventmesh_tests::child::free_port;
use eventmesh_tests::ledger::Ledger;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::{Authority, Rabbitmq};
use eventmesh_wire::report::RouteState;
use lapin::BasicProperties;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{endpoint, outside, rabbitmq, unique, world};
use crate::amqp::{Breaking, Mesh, inbound, outbound};
use crate::common::{complete, running, says, start};

/// A bridge with an inbound route says so.
async fn expect(endpoint: &Value, state: RouteState, words: &str) {
    let mesh = Mesh::new().await;
    let mut config = mesh.config(endpoint);
    config["inbound"] = json!([inbound("in", "orders", "in.orders")]);
    let bridge = start(&config);
    bridge.route("in", words, |route| route.state == state && says(route, words)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens() {
    let url = format!("amqp://127.0.0.1:{}", free_port().unwrap());
    expect(&endpoint(&url), RouteState::Connecting, "refuses the connection").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_takes_connections_and_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    expect(&endpoint(&url), RouteState::Connecting, "accepted no AMQP connection within 10 s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_listens() {
    let mesh = Mesh::new().await;
    expect(&endpoint(&mesh.nats.url().replace("nats", "amqp")), RouteState::Connecting, "does not speak AMQP 0-9-1")
        .await;
}

#[rstest]
#[case::password("password", "another", "correct the credentials")]
#[case::virtual_host("url", "/nowhere", "virtual host")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_the_configuration(#[case] field: &str, #[case] value: &str, #[case] words: &str) {
    let mut wrong = endpoint(&rabbitmq().await.url());
    wrong[field] =
        if field == "url" { json!(format!("{}{value}", wrong["url"].as_str().unwrap())) } else { json!(value) };
    expect(&wrong, RouteState::Failed, words).await;
}

#[rstest]
#[case::of_nobody_known(2020, 2090, false, "does not know")]
#[case::that_has_expired(2020, 2021, true, "has expired")]
#[tokio::test(flavor = "multi_thread")]
async fn the_certificate(#[case] from: i32, #[case] to: i32, #[case] trusted: bool, #[case] words: &str) {
    let authority = Authority::new().unwrap();
    let (folder, port) = (scratch("rabbitmq").unwrap(), free_port().unwrap());
    let identity = authority.server_between(&["localhost"], from, to).unwrap();
    let tls = Rabbitmq::tls(&folder, port, &identity, None).unwrap();
    let _rabbitmq = Rabbitmq::start(folder, &tls).await.unwrap();
    let mut endpoint = endpoint(&format!("amqps://localhost:{port}"));
    if trusted {
        endpoint["tls"] = json!({"caPem": authority.pem()});
    }
    expect(&endpoint, RouteState::Failed, words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_says_who_the_bridge_is() {
    let authority = Authority::new().unwrap();
    let (folder, port) = (scratch("rabbitmq").unwrap(), free_port().unwrap());
    let identity = authority.server(&["localhost"]).unwrap();
    let tls = Rabbitmq::tls(&folder, port, &identity, Some(&authority)).unwrap();
    let rabbitmq = Rabbitmq::start(folder, &tls).await.unwrap();
    outside(&rabbitmq).await.queue("orders", &[]).await.unwrap();
    let mesh = Mesh::new().await;
    let mut config = mesh.config(&json!({"url": format!("amqps://localhost:{port}"), "version": "V091"}));
    config["inbound"] = json!([inbound("in", "orders", "in.orders")]);
    config["endpoint"]["amqp"]["tls"] = json!({"caPem": authority.pem()});
    let bridge = start(&config);
    bridge.route("in", "certificate asked for", |route| says(route, "client certificate")).await.unwrap();
    let client = authority.client(Rabbitmq::USER).unwrap();
    config["endpoint"]["amqp"]["tls"]["clientCertPem"] = json!(client.certificate);
    config["endpoint"]["amqp"]["tls"]["clientKeyPem"] = json!(client.key);
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_not_there_is_told_and_taken_up_when_it_is() {
    let (mesh, rabbitmq, outside) = world().await;
    let (orders, other) = (unique("orders"), unique("other"));
    outside.queue(&other, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["inbound"] = json!([
        inbound("in", &orders, "in.orders"),
        inbound("bound", "nowhere/a.*", "in.bound.{1}"),
        inbound("other", &other, "in.other")
    ]);
    let bridge = start(&config);
    let failed = async |route: &str, words: &str| {
        let is = bridge.route(route, words, |route| route.state == RouteState::Failed && says(route, words)).await;
        is.unwrap();
    };
    failed("in", "create the queue").await;
    failed("bound", "create the exchange").await;
    outside.publish("", &other, b"fine", BasicProperties::default()).await.unwrap();
    mesh.holds_all("IN", &["fine".to_owned()]).await;
    outside.queue(&orders, &[]).await.unwrap();
    running(&bridge, &["in"]).await;
    outside.publish("", &orders, b"first", BasicProperties::default()).await.unwrap();
    mesh.holds_all("IN", &["first".to_owned()]).await;
    outside.delete_queue(&orders).await.unwrap();
    // That it was deleted is said until the next try; that it must be created, from then on too.
    failed("in", "create the queue").await;
    outside.queue(&orders, &[]).await.unwrap();
    running(&bridge, &["in"]).await;
    outside.publish("", &orders, b"second", BasicProperties::default()).await.unwrap();
    mesh.holds_all("IN", &["second".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_not_there_holds_up_nobody_else() {
    let (mesh, rabbitmq, outside) = world().await;
    let (exchange, target) = (unique("exchange"), unique("target"));
    outside.queue(&target, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["outbound"] = json!([
        outbound("missing", "c", "out.missing", &format!("{exchange}/k")),
        outbound("good", "d", "out.good", &target)
    ]);
    let bridge = start(&config);
    mesh.publish("out.missing", "early", &[]).await;
    for number in 0..200 {
        mesh.publish("out.good", format!("{number}"), &[]).await;
    }
    bridge
        .route("missing", "blocked route", |route| {
            route.state == RouteState::Blocked && says(route, "create the exchange")
        })
        .await
        .unwrap();
    let good = bridge.route("good", "all delivered", |route| route.counters.delivered == 200).await.unwrap();
    assert_eq!((good.retries, outside.waiting(&target).await.unwrap()), (0, Some(200)), "none twice");
    outside.exchange(&exchange).await.unwrap();
    outside.bind(&target, &exchange, "k").await.unwrap();
    complete(&bridge.route("missing", "delivered event", |route| route.counters.delivered == 1).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_takes_is_a_dead_letter_and_nothing_else_is() {
    let (mesh, rabbitmq, outside) = world().await;
    let (exchange, target) = (unique("exchange"), unique("target"));
    outside.exchange(&exchange).await.unwrap();
    outside.queue(&target, &[]).await.unwrap();
    outside.bind(&target, &exchange, "known").await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["outbound"] = json!([outbound("out", "c", "out.*", &format!("{exchange}/{{1}}"))]);
    config["outbound"][0]["deadLetterSubject"] = json!("dead.out");
    let (mut taken, mut returned) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..3_000 {
        let (subject, set) = if number % 10 == 3 { ("out.unknown", &mut returned) } else { ("out.known", &mut taken) };
        mesh.publish(subject, format!("{number}"), &[]).await;
        set.insert(format!("{number}"));
    }
    let bridge = start(&config);
    let all = bridge
        .route("out", "all settled", |route| route.counters.delivered + route.counters.dead_lettered == 3_000)
        .await
        .unwrap();
    complete(&all);
    let mut arrivals = outside.consume(&target).await.unwrap();
    let mut found = BTreeSet::new();
    while found.len() < taken.len() {
        found.insert(String::from_utf8(arrivals.next().await.unwrap().payload).unwrap());
    }
    assert_eq!(found, taken);
    let dead = mesh.messages("DEAD").await;
    let cause = dead[0].headers.as_ref().unwrap().get("Em-Dead-Cause").unwrap().as_str();
    assert!(cause.contains("no queue takes"), "{cause}");
    let dead: BTreeSet<String> = dead.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect();
    assert_eq!(dead, returned);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_full() {
    let (mesh, rabbitmq, outside) = world().await;
    let target = unique("target");
    outside.queue(&target, &[("x-max-length", "10"), ("x-overflow", "reject-publish")]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["outbound"] = json!([outbound("out", "c", "out.*", &target)]);
    let bridge = start(&config);
    for number in 0..30 {
        mesh.publish("out.a", format!("{number}"), &[]).await;
    }
    bridge
        .route("out", "full queue", |route| route.state == RouteState::Blocked && says(route, "basic.nack"))
        .await
        .unwrap();
    let mut arrivals = outside.consume(&target).await.unwrap();
    let mut found = BTreeSet::new();
    while found.len() < 30 {
        found.insert(arrivals.next().await.unwrap().payload);
    }
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 30).await.unwrap());
    running(&bridge, &["out"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_a_dead_letter_and_its_neighbours_are_not() {
    let (mesh, rabbitmq, outside) = world().await;
    let target = unique("target");
    outside.queue(&target, &[]).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["outbound"] = json!([outbound("out", "c", "out.*", &target)]);
    config["outbound"][0]["deadLetterSubject"] = json!("dead.out");
    for number in 0..40 {
        let payload = if number == 20 { "x".repeat(300_000) } else { number.to_string() };
        mesh.publish("out.a", payload, &[]).await;
    }
    let bridge = start(&config);
    let settled = bridge
        .route("out", "all settled", |route| (route.counters.delivered, route.counters.dead_lettered) == (39, 1))
        .await
        .unwrap();
    complete(&settled);
    assert!(says(&settled, "max_message_size"), "{settled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_short_of_memory() {
    let mesh = Mesh::new().await;
    let rabbitmq = Rabbitmq::start(scratch("rabbitmq").unwrap(), "").await.unwrap();
    let client = outside(&rabbitmq).await;
    client.queue("orders", &[]).await.unwrap();
    client.queue("target", &[]).await.unwrap();
    let mut ledger = Ledger::new("in");
    client.produce("", "orders", &mut ledger, 0..500).await.unwrap();
    let mut config = mesh.config(&endpoint(&rabbitmq.url()));
    config["outbound"] = json!([outbound("out", "c", "out.*", "target")]);
    let bridge = start(&config);
    running(&bridge, &["out"]).await;
    rabbitmq.control(&["set_vm_memory_high_watermark", "absolute", "1"]).unwrap();
    for number in 0..50 {
        mesh.publish("out.a", format!("{number}"), &[]).await;
    }
    bridge
        .route("out", "blocked route", |route| route.state == RouteState::Blocked && says(route, "takes nothing in"))
        .await
        .unwrap();
    // What comes in goes on.
    config["inbound"] = json!([inbound("in", "orders", "in.orders")]);
    bridge.write_config(&config.to_string()).unwrap();
    complete(&bridge.route("in", "all taken", |route| route.counters.delivered == 500).await.unwrap());
    rabbitmq.control(&["set_vm_memory_high_watermark", "0.4"]).unwrap();
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 50).await.unwrap());
    running(&bridge, &["in", "out"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_hangs_while_events_are_on_their_way() {
    let mesh = Mesh::new().await;
    let rabbitmq = Rabbitmq::start(scratch("rabbitmq").unwrap(), "").await.unwrap();
    let client = outside(&rabbitmq).await;
    client.queue("target", &[]).await.unwrap();
    let mut endpoint = endpoint(&rabbitmq.url());
    endpoint["heartbeatSeconds"] = json!(1);
    let mut config = mesh.config(&endpoint);
    config["outbound"] = json!([outbound("out", "c", "out.*", "target")]);
    let bridge = start(&config);
    running(&bridge, &["out"]).await;
    rabbitmq.signal("STOP").unwrap();
    for number in 0..50 {
        mesh.publish("out.a", format!("{number}"), &[]).await;
    }
    bridge
        .route("out", "silence", |route| route.state == RouteState::Connecting && says(route, "silent"))
        .await
        .unwrap();
    rabbitmq.signal("CONT").unwrap();
    running(&bridge, &["out"]).await;
    let client = outside(&rabbitmq).await;
    let mut arrivals = client.consume("target").await.unwrap();
    let mut found = BTreeSet::new();
    while found.len() < 50 {
        found.insert(arrivals.next().await.unwrap().payload);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_breaks_in_the_middle_of_messages() {
    let (mesh, rabbitmq, outside) = world().await;
    let orders = unique("orders");
    outside.queue(&orders, &[]).await.unwrap();
    let breaking = Breaking::start(rabbitmq.port, 6, 40_000).await;
    let mut config = mesh.config(&endpoint(&format!("amqp://127.0.0.1:{}", breaking.port)));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    let bridge = start(&config);
    let mut ledger = Ledger::new("in");
    // More than all the connections to be cut let by, also when nothing is given twice.
    outside.produce("", &orders, &mut ledger, 0..3_000).await.unwrap();
    let wanted: Vec<String> = (0..3_000).map(|number| ledger.event(number)).collect();
    assert_eq!(mesh.holds_all("IN", &wanted).await, 0);
    assert_eq!(breaking.left(), 0, "the connection was cut");
    complete(&bridge.route("in", "nothing in flight", |route| route.counters.in_flight == 0).await.unwrap());
}
