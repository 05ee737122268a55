//! TLS towards the outside broker: it works in both versions, and what is wrong with a certificate is told.

use crate::common::{LIMIT, Outside, World, complete, running, says, start};
use eventmesh_tests::child::free_port;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::certificates::Authority;
use eventmesh_tests::process::{Bridge, Mosquitto};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::{Value, json};

/// A world whose MQTT broker has a second listener, with TLS.
struct Secure {
    world: World,
    authority: Authority,
    port: u16,
}

impl Secure {
    async fn new(name: &str, mutual: bool) -> Self {
        let (authority, port) = (Authority::new().unwrap(), free_port().unwrap());
        let identity = authority.server(&[name]).unwrap();
        let clients = mutual.then_some(&authority);
        let extra = Mosquitto::tls(&scratch("certificates").unwrap(), port, &identity, clients).unwrap();
        Self { world: World::with("", &extra).await, authority, port }
    }

    fn config(&self, version: &str) -> Value {
        let mut config = self.world.config(version);
        config["endpoint"]["mqtt"]["url"] = json!(format!("mqtts://127.0.0.1:{}", self.port));
        config["endpoint"]["mqtt"]["tls"] = json!({"caPem": self.authority.pem()});
        config
    }
}

/// Waits until the route has failed for this reason.
async fn failed(bridge: &Bridge, words: &str) {
    let told = |route: &eventmesh_wire::report::RouteReport| route.state == RouteState::Failed && says(route, words);
    bridge.route("in", words, told).await.unwrap();
}

#[rstest]
#[case("V5", false)]
#[case("V5", true)]
#[case("V311", false)]
#[case("V311", true)]
#[tokio::test(flavor = "multi_thread")]
async fn events_cross_over_tls(#[case] version: &str, #[case] mutual: bool) {
    let secure = Secure::new("127.0.0.1", mutual).await;
    let mut outside = Outside::connect(secure.world.mosquitto.port, "outside", "set/#").await;
    let mut config = secure.config(version);
    if mutual {
        let client = secure.authority.client("bridge").unwrap();
        config["endpoint"]["mqtt"]["tls"]["clientCertPem"] = json!(client.certificate);
        config["endpoint"]["mqtt"]["tls"]["clientKeyPem"] = json!(client.key);
    }
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    outside.publish("line/7/t", "i", 0..500).await;
    secure.world.publish_mesh("o", 0..200).await;
    assert_eq!(secure.world.holds_all("IN", "i", 500).await, 0);
    assert_eq!(outside.receives_all("o", 200).await, 0);
    complete(&bridge.route("in", "all delivered", |route| route.counters.delivered == 500).await.unwrap());
}

#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_told_and_nothing_is_lost(#[case] version: &str) {
    let secure = Secure::new("127.0.0.1", false).await;
    let good = secure.config(version);
    let bridge = start(&good);
    running(&bridge, &["in", "out"]).await;
    let mut config = good.clone();
    config["endpoint"]["mqtt"]["tls"]["caPem"] = json!(Authority::new().unwrap().pem());
    bridge.write_config(&config.to_string()).unwrap();
    failed(&bridge, "signed by an authority that the bridge does not know").await;
    let mut outside = Outside::connect(secure.world.mosquitto.port, "outside", "set/#").await;
    outside.publish("line/7/t", "i", 0..300).await;
    secure.world.publish_mesh("o", 0..100).await;
    bridge.write_config(&good.to_string()).unwrap();
    secure.world.holds_all("IN", "i", 300).await;
    outside.receives_all("o", 100).await;
    running(&bridge, &["in", "out"]).await;
}

#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn without_an_authority_only_the_public_ones_are_trusted(#[case] version: &str) {
    let secure = Secure::new("127.0.0.1", false).await;
    let mut config = secure.config(version);
    config["endpoint"]["mqtt"].as_object_mut().unwrap().remove("tls");
    failed(&start(&config), "signed by an authority that the bridge does not know").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_told_and_the_name_can_be_set() {
    let secure = Secure::new("broker.example", false).await;
    let mut config = secure.config("V5");
    let bridge = start(&config);
    failed(&bridge, "for another name").await;
    config["endpoint"]["mqtt"]["tls"]["serverName"] = json!("broker.example");
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in", "out"]).await;
}

#[rstest]
#[case("V5")]
#[case("V311")]
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_client_certificate_is_told(#[case] version: &str) {
    let secure = Secure::new("127.0.0.1", true).await;
    let bridge = start(&secure.config(version));
    bridge.route("in", "word about it", |route| says(route, "client certificate")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pem_that_can_not_be_read_never_replaces_what_works() {
    let secure = Secure::new("127.0.0.1", false).await;
    let mut config = secure.config("V5");
    let bridge = start(&config);
    running(&bridge, &["in"]).await;
    config["endpoint"]["mqtt"]["tls"]["caPem"] = json!("-----BEGIN CERTIFICATE-----\nhello\n");
    bridge.write_config(&config.to_string()).unwrap();
    let problem = eventually("word about the file", LIMIT, async || {
        Ok(bridge.report().await.ok().and_then(|report| report.config_problem))
    });
    assert!(problem.await.unwrap().contains("endpoint.mqtt.tls.caPem: can not be read as PEM"));
    let mut outside = Outside::connect(secure.world.mosquitto.port, "outside", "none").await;
    outside.publish("line/7/t", "i", 0..10).await;
    secure.world.holds_all("IN", "i", 10).await;
}
