//! Each thing that can go wrong at a broker of AMQP 1.0: what the bridge says, and that events survive it.

use eventmesh_tests::amqp1::{event, take};
use eventmesh_tests::child::free_port;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::artemis::Settings;
use eventmesh_tests::process::{Artemis, Authority};
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{artemis, endpoint, outside, unique, world};
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
    expect(&endpoint(&mesh.nats.url().replace("nats", "amqp")), RouteState::Failed, "does not speak AMQP 1.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_wrong() {
    let mut wrong = endpoint(&artemis().await.url());
    wrong["password"] = json!("another");
    expect(&wrong, RouteState::Failed, "correct the credentials").await;
}

#[rstest]
#[case::of_nobody_known(2020, 2090, false, "does not know")]
#[case::that_has_expired(2020, 2021, true, "has expired")]
#[tokio::test(flavor = "multi_thread")]
async fn the_certificate(#[case] from: i32, #[case] to: i32, #[case] trusted: bool, #[case] words: &str) {
    let authority = Authority::new().unwrap();
    let (folder, port) = (scratch("artemis").unwrap(), free_port().unwrap());
    let identity = authority.server_between(&["localhost"], from, to).unwrap();
    let acceptors = Artemis::tls(&folder, port, &identity, None).unwrap();
    let _artemis = Artemis::start(folder, &Settings { acceptors, ..Settings::default() }).await.unwrap();
    let mut endpoint = endpoint(&format!("amqps://localhost:{port}"));
    if trusted {
        endpoint["tls"] = json!({"caPem": authority.pem()});
    }
    expect(&endpoint, RouteState::Failed, words).await;
}

#[rstest]
#[case::and_says_who_the_bridge_is(false)]
#[case::beside_a_password(true)]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_asked_for(#[case] with_password: bool) {
    let authority = Authority::new().unwrap();
    let (folder, port) = (scratch("artemis").unwrap(), free_port().unwrap());
    let identity = authority.server(&["localhost"]).unwrap();
    let acceptors = Artemis::tls(&folder, port, &identity, Some(&authority)).unwrap();
    let artemis = Artemis::start(folder, &Settings { acceptors, ..Settings::default() }).await.unwrap();
    let url = format!("amqps://localhost:{port}");
    let mut endpoint = if with_password { endpoint(&url) } else { json!({"url": url, "version": "V1"}) };
    endpoint["tls"] = json!({"caPem": authority.pem()});
    let mesh = Mesh::new().await;
    let mut config = mesh.config(&endpoint);
    config["inbound"] = json!([inbound("in", "orders", "in.orders")]);
    let bridge = start(&config);
    bridge.route("in", "certificate asked for", |route| says(route, "client certificate")).await.unwrap();
    let client = authority.client(Artemis::USER).unwrap();
    config["endpoint"]["amqp"]["tls"]["clientCertPem"] = json!(client.certificate);
    config["endpoint"]["amqp"]["tls"]["clientKeyPem"] = json!(client.key);
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in"]).await;
    outside(&artemis).await.send("orders", event(b"one", None, &[])).await.unwrap();
    mesh.holds_all("IN", &["one".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_there_is_told_and_taken_up_when_it_is() {
    let (mesh, artemis, mut outside) = world().await;
    let (missing, good) = (format!("fixed.{}", unique("q")), unique("good"));
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("in", &missing, "in.orders")]);
    config["outbound"] =
        json!([outbound("out", "c", "out.missing", &missing), outbound("good", "d", "out.good", &good)]);
    let bridge = start(&config);
    mesh.publish("out.missing", "lost?", &[]).await;
    bridge
        .route("in", "failed route", |route| route.state == RouteState::Failed && says(route, "create the address"))
        .await
        .unwrap();
    bridge
        .route("out", "blocked route", |route| route.state == RouteState::Blocked && says(route, &missing))
        .await
        .unwrap();
    // Others go on.
    mesh.publish("out.good", "fine", &[]).await;
    let mut receiver = outside.receiver(&good).await.unwrap();
    take(&mut receiver).await.unwrap();
}

#[rstest]
#[case::and_rejects("small.refuse", "the address is full")]
#[case::and_gives_no_credit("small.wait", "gives no credit")]
#[tokio::test(flavor = "multi_thread")]
async fn the_address_is_full(#[case] below: &str, #[case] words: &str) {
    let (mesh, _artemis, mut outside) = world().await;
    let target = format!("{below}.{}", unique("q"));
    let frugal = format!("amqp://127.0.0.1:{}", super::FRUGAL.get().unwrap());
    let mut config = mesh.config(&endpoint(&frugal));
    config["outbound"] = json!([outbound("out", "c", "out.*", &target)]);
    let bridge = start(&config);
    for number in 0..30 {
        mesh.publish("out.a", format!("{number}"), &[]).await;
    }
    bridge.route("out", words, |route| route.state == RouteState::Blocked && says(route, words)).await.unwrap();
    let mut receiver = outside.receiver(&target).await.unwrap();
    let mut found = std::collections::BTreeSet::new();
    while found.len() < 30 {
        found.insert(eventmesh_tests::amqp1::data(&take(&mut receiver).await.unwrap()));
    }
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 30).await.unwrap());
    running(&bridge, &["out"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_breaks_in_the_middle_of_messages() {
    let (mesh, artemis, mut outside) = world().await;
    let orders = unique("orders");
    let breaking = Breaking::start(artemis.port, 3, 40_000).await;
    let mut config = mesh.config(&endpoint(&format!("amqp://127.0.0.1:{}", breaking.port)));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    let bridge = start(&config);
    let mut ledger = eventmesh_tests::ledger::Ledger::new("in");
    // More than all the connections to be cut let by, also when nothing is given twice.
    outside.produce(&orders, &mut ledger, 0..3_000).await.unwrap();
    let wanted: Vec<String> = (0..3_000).map(|number| ledger.event(number)).collect();
    assert_eq!(mesh.holds_all("IN", &wanted).await, 0);
    assert_eq!(breaking.left(), 0, "the connection was cut");
    complete(&bridge.route("in", "nothing in flight", |route| route.counters.in_flight == 0).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_hangs_while_events_are_on_their_way() {
    let mesh = Mesh::new().await;
    let artemis = Artemis::start(scratch("artemis").unwrap(), &Settings::default()).await.unwrap();
    let mut endpoint = endpoint(&artemis.url());
    endpoint["heartbeatSeconds"] = json!(1);
    let mut config = mesh.config(&endpoint);
    config["outbound"] = json!([outbound("out", "c", "out.*", "target")]);
    let bridge = start(&config);
    running(&bridge, &["out"]).await;
    artemis.signal("STOP").unwrap();
    for number in 0..50 {
        mesh.publish("out.a", format!("{number}"), &[]).await;
    }
    bridge
        .route("out", "silence", |route| route.state == RouteState::Connecting && says(route, "silent"))
        .await
        .unwrap();
    artemis.signal("CONT").unwrap();
    running(&bridge, &["out"]).await;
    let mut client = outside(&artemis).await;
    let mut receiver = client.receiver("target").await.unwrap();
    let mut found = std::collections::BTreeSet::new();
    while found.len() < 50 {
        found.insert(eventmesh_tests::amqp1::data(&take(&mut receiver).await.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_at_their_address_while_the_mesh_is_away() {
    let (mut mesh, artemis, mut outside) = world().await;
    let orders = unique("orders");
    let mut config = mesh.config(&endpoint(&artemis.url()));
    config["inbound"] = json!([inbound("in", &orders, "in.orders")]);
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    mesh.nats.kill().unwrap();
    for number in 0..20 {
        outside.send(&orders, event(format!("{number}").as_bytes(), Some(&format!("{number}")), &[])).await.unwrap();
    }
    bridge.route("in", "mesh away", |route| route.state == RouteState::Connecting).await.unwrap();
    mesh.comes_back().await;
    let wanted: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(mesh.holds_all("IN", &wanted).await, 0);
}
