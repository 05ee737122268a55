//! TLS in both directions: what is wrong with a certificate is told, and another one is taken up without a pause.

use std::net::SocketAddr;

use eventmesh_tests::http::{Collector, Sender};
use eventmesh_tests::process::certificates::{Authority, Identity};
use eventmesh_tests::tls::{Begin, serial_of, served};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use serde_json::{Value, json};

use super::world::{LIMIT, World, all_came, change, complete, in_state, port, start, told};

fn shows(config: &mut Value, identity: &Identity) {
    config["endpoint"]["http"]["listen"]["tls"] = json!({"certPem": identity.certificate, "keyPem": identity.key});
}

fn url(config: &Value) -> String {
    format!("https://127.0.0.1:{}", port(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_shows_its_certificate_and_the_next_one_without_a_pause() {
    let (world, authority) = (World::new().await, Authority::new().unwrap());
    let (first, next) = (authority.server(&["127.0.0.1"]).unwrap(), authority.server(&["127.0.0.1"]).unwrap());
    let mut config = world.listener();
    shows(&mut config, &first);
    let bridge = start(&config);
    in_state(&bridge, "orders", RouteState::Running).await;
    let client = Sender::trusting(&url(&config), authority.pem(), None).unwrap();
    assert_eq!(client.post("/orders/7", &[], b"1").await.unwrap().status, 202);
    shows(&mut config, &next);
    change(&bridge, &config).await;
    // On the connection that stands, and on a new one.
    assert_eq!(client.post("/orders/7", &[], b"2").await.unwrap().status, 202);
    let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port(&config)).unwrap()));
    let serial = served(address, "127.0.0.1", Begin::Tls, authority.pem()).await.unwrap();
    assert_eq!(serial, serial_of(&next.certificate).unwrap());
    let stranger = Sender::trusting(&url(&config), Authority::new().unwrap().pem(), None).unwrap();
    assert!(stranger.post("/orders/7", &[], b"3").await.is_err(), "who does not trust it sends nothing");
    assert_eq!(in_state(&bridge, "orders", RouteState::Running).await.restarts, 0);
    assert_eq!(world.messages("IN").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_wants_certificates_takes_events_of_those_who_have_one() {
    let (world, authority, other) = (World::new().await, Authority::new().unwrap(), Authority::new().unwrap());
    let mut config = world.listener();
    shows(&mut config, &authority.server(&["127.0.0.1"]).unwrap());
    config["endpoint"]["http"]["listen"]["tls"]["clientCaPem"] = json!(authority.pem());
    let bridge = start(&config);
    in_state(&bridge, "orders", RouteState::Running).await;
    let with = |identity: Option<&Identity>| Sender::trusting(&url(&config), authority.pem(), identity).unwrap();
    let good = authority.client("sender").unwrap();
    let foreign = other.client("sender").unwrap();
    assert_eq!(with(Some(&good)).post("/orders/7", &[], b"x").await.unwrap().status, 202);
    assert!(with(None).post("/orders/7", &[], b"x").await.is_err());
    assert!(with(Some(&foreign)).post("/orders/7", &[], b"x").await.is_err());
    assert_eq!(world.messages("IN").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_can_not_be_used_does_not_replace_a_good_one() {
    let (world, authority) = (World::new().await, Authority::new().unwrap());
    let (one, other) = (authority.server(&["127.0.0.1"]).unwrap(), authority.server(&["127.0.0.1"]).unwrap());
    let mut config = world.listener();
    shows(&mut config, &one);
    let bridge = start(&config);
    in_state(&bridge, "orders", RouteState::Running).await;
    shows(&mut config, &Identity { certificate: other.certificate, key: one.key });
    bridge.write_config(&config.to_string()).unwrap();
    eventually("the problem told", LIMIT, async || {
        let problem = bridge.report().await.map_err(|error| error.to_string())?.config_problem;
        Ok(problem.filter(|text| text.contains("do not belong together")))
    })
    .await
    .unwrap();
    let client = Sender::trusting(&url(&config), authority.pem(), None).unwrap();
    assert_eq!(client.post("/orders/7", &[], b"x").await.unwrap().status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_of_a_target_is_told_and_nothing_is_lost() {
    let (world, authority) = (World::new().await, Authority::new().unwrap());
    let expired = authority.server_between(&["127.0.0.1"], 2020, 2021).unwrap();
    let mut target = Collector::secure(&expired, None).await.unwrap();
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["tls"] = json!({"caPem": authority.pem()});
    config["delivery"]["retry"]["attempts"] = json!(1);
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
    let bridge = start(&config);
    world.publish_numbers(0..20).await;
    told(&bridge, "out", RouteState::Failed, "xpired").await;
    target.stop().await;
    target.start_again(Some(&authority.server(&["127.0.0.1"]).unwrap())).await.unwrap();
    assert_eq!(all_came(&target, 20).await, 0);
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 20).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_told_and_a_name_can_be_given() {
    let (world, authority) = (World::new().await, Authority::new().unwrap());
    let target = Collector::secure(&authority.server(&["hooks.example"]).unwrap(), None).await.unwrap();
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["tls"] = json!({"caPem": Authority::new().unwrap().pem()});
    let bridge = start(&config);
    world.publish_numbers(0..5).await;
    told(&bridge, "out", RouteState::Failed, "invalid peer certificate").await;
    config["endpoint"]["http"]["target"]["tls"] = json!({"caPem": authority.pem()});
    change(&bridge, &config).await;
    told(&bridge, "out", RouteState::Failed, "not valid for name").await;
    config["endpoint"]["http"]["target"]["tls"] = json!({"caPem": authority.pem(), "serverName": "hooks.example"});
    change(&bridge, &config).await;
    assert_eq!(all_came(&target, 5).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_wants_a_certificate_gets_one_and_says_when_it_does_not() {
    let (world, authority) = (World::new().await, Authority::new().unwrap());
    let server = authority.server(&["127.0.0.1"]).unwrap();
    let target = Collector::secure(&server, Some(authority.pem())).await.unwrap();
    let mut config = world.sender(&target.url());
    config["endpoint"]["http"]["target"]["tls"] = json!({"caPem": authority.pem()});
    config["delivery"]["retry"]["attempts"] = json!(1);
    config["outbound"][0]["deadLetterSubject"] = json!("dead.letters");
    let bridge = start(&config);
    world.publish_numbers(0..5).await;
    told(&bridge, "out", RouteState::Failed, "ertificate").await;
    let client = authority.client("bridge").unwrap();
    config["endpoint"]["http"]["target"]["tls"]["clientCertPem"] = json!(client.certificate);
    config["endpoint"]["http"]["target"]["tls"]["clientKeyPem"] = json!(client.key);
    change(&bridge, &config).await;
    assert_eq!(all_came(&target, 5).await, 0);
    complete(&bridge.route("out", "all delivered", |route| route.counters.delivered == 5).await.unwrap());
}
