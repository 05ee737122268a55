//! Tables of what a configuration is refused for.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn valid() -> Value {
    json!({
        "version": 1,
        "bridge": {"namespace": "shop", "name": "factory", "uid": "u-1"},
        "mesh": {"servers": ["nats://mesh:4222"]},
        "endpoint": {"mqtt": {"url": "mqtt://broker", "version": "V5", "clientId": "shop-factory", "username": "b", "password": "secret"}},
        "inbound": [{"name": "in", "from": "line/+/t", "to": "factory.{1}.t", "stream": "shop_factory", "ingest": "Atomic"}],
        "outbound": [{"name": "out", "stream": "shop_cmd", "consumer": "c", "subjects": ["cmd.*"], "to": "set/{1}"}]
    })
}

fn problems(config: Value) -> Vec<String> {
    let config: BridgeConfig = serde_json::from_value(config).expect("readable");
    config.validate().iter().map(ToString::to_string).collect()
}

#[test]
fn a_valid_configuration_survives_a_round_trip_and_has_no_problems() {
    assert_eq!(problems(valid()), Vec::<String>::new());
    let config: BridgeConfig = serde_json::from_value(valid()).unwrap();
    let again: BridgeConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(!format!("{config:?}").contains("secret\""), "the password shows");
}

#[rstest]
#[case("/version", json!(2), "version: must be 1")]
#[case("/endpoint/mqtt/url", json!("http://x"), "endpoint.mqtt.url")]
#[case("/endpoint/mqtt/url", json!("mqtt://x:99999"), "endpoint.mqtt.url")]
#[case("/endpoint/mqtt/url", json!("mqtt://u:p@x"), "credentials do not belong")]
#[case("/endpoint/mqtt/clientId", json!(""), "endpoint.mqtt.clientId")]
#[case("/inbound/0/from", json!("line/#/x"), "inbound[0].to")]
#[case("/inbound/0/to", json!("factory.{3}"), "names `{3}`")]
#[case("/inbound/0/to", json!("$JS.x"), "reserved")]
#[case("/inbound/0/filter", json!("event.data +"), "inbound[0].filter")]
#[case("/inbound/0/filter", json!("event.subject"), "not true or false")]
#[case("/inbound/0/deadLetterSubject", json!("a.*"), "inbound[0].deadLetterSubject")]
#[case("/outbound/0/name", json!("in"), "used twice")]
#[case("/outbound/0/subjects", json!([]), "outbound[0].to")]
#[case("/outbound/0/to", json!("a/+"), "outbound[0].to")]
fn refuses(#[case] path: &str, #[case] value: Value, #[case] problem: &str) {
    let mut config = valid();
    let (parent, field) = path.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[field] = value;
    let found = problems(config);
    assert!(found.iter().any(|text| text.contains(problem)), "{found:?}");
}

#[rstest]
#[case("caPem")]
#[case("clientCertPem")]
#[case("clientKeyPem")]
fn pem_that_can_not_be_read_is_refused(#[case] field: &str) {
    let mut config = valid();
    config["endpoint"]["mqtt"]["url"] = json!("mqtts://broker");
    let certificate = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n";
    config["endpoint"]["mqtt"]["tls"] =
        json!({"caPem": certificate, "clientCertPem": certificate, "clientKeyPem": key});
    assert_eq!(problems(config.clone()), Vec::<String>::new());
    config["endpoint"]["mqtt"]["tls"][field] = json!("hello");
    let found = problems(config);
    assert!(found[0].starts_with(&format!("endpoint.mqtt.tls.{field}: holds no")), "{found:?}");
}

#[test]
fn the_authorities_of_the_mesh_are_judged_too() {
    let mut config = valid();
    config["mesh"]["caPem"] = json!("hello");
    assert!(problems(config)[0].starts_with("mesh.caPem: holds no certificate"));
}

#[test]
fn credentials_that_can_not_be_a_users_are_refused_and_not_shown() {
    let mut config = valid();
    config["mesh"]["credentials"] = json!({"jwt": "hunter.two.three", "seed": "SUhunter"});
    let found = problems(config);
    assert!(found.iter().any(|problem| problem.starts_with("mesh.credentials.jwt: ")), "{found:?}");
    assert!(found.iter().any(|problem| problem.starts_with("mesh.credentials.seed: ")), "{found:?}");
    assert!(!found.iter().any(|problem| problem.contains("hunter")), "{found:?}");
}

#[test]
fn a_loop_is_refused_where_no_mark_can_stop_it() {
    let mut config = valid();
    config["outbound"][0]["to"] = json!("line/{1}/t");
    assert_eq!(problems(config.clone()), Vec::<String>::new(), "MQTT 5 carries a mark");
    config["endpoint"]["mqtt"]["version"] = json!("V311");
    assert!(problems(config)[0].contains("would come back over route `in`"));
}

#[test]
fn overlapping_inbound_routes_are_refused() {
    let mut config = valid();
    config["inbound"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "all", "from": "line/#", "to": "all.{1}", "stream": "s"}));
    assert!(problems(config)[0].contains("overlaps"));
}

#[test]
fn unknown_fields_are_refused() {
    let mut config = valid();
    config["inbound"][0]["form"] = json!("x");
    assert!(serde_json::from_value::<BridgeConfig>(config).is_err());
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n";

fn listener() -> Value {
    let mut config = valid();
    config["outbound"] = json!([]);
    config["inbound"][0]["from"] = json!("/line/*/t");
    config["endpoint"] = json!({"http": {"listen": {
        "port": 8081, "tls": {"certPem": CERTIFICATE, "keyPem": KEY, "clientCaPem": CERTIFICATE},
        "authentication": {"bearer": {"tokens": ["hunter2"]}}, "rateLimit": {"perSecond": 1, "burst": 1},
    }}});
    config
}

fn target() -> Value {
    let mut config = valid();
    config["inbound"] = json!([]);
    config["outbound"][0]["to"] = json!("/set/{1}");
    config["endpoint"] = json!({"http": {"target": {
        "url": "https://host/base", "authentication": {"basic": {"username": "u", "password": "hunter2"}},
        "signingSecrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "headers": {"X-Key": "hunter3"},
        "tls": {"caPem": CERTIFICATE, "clientCertPem": CERTIFICATE, "clientKeyPem": KEY},
    }}});
    config
}

#[rstest]
#[case(listener())]
#[case(target())]
fn http_works_and_shows_no_secret(#[case] valid: Value) {
    assert_eq!(problems(valid.clone()), Vec::<String>::new());
    let config: BridgeConfig = serde_json::from_value(valid).unwrap();
    let again: BridgeConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter") && !shown.contains("whsec"), "{shown}");
}

#[rstest]
#[case("port", json!(80), "listen.port")]
#[case("port", json!(8080), "where the bridge tells how it is")]
#[case("maxBodyBytes", json!(0), "listen.maxBodyBytes")]
#[case("answerWithinMs", json!(1), "listen.answerWithinMs")]
#[case("rateLimit", json!({"perSecond": 0, "burst": 1}), "listen.rateLimit")]
#[case("tls", json!({"certPem": "x", "keyPem": KEY}), "listen.tls.certPem: holds no certificate")]
#[case("tls", json!({"certPem": CERTIFICATE, "keyPem": "x"}), "listen.tls.keyPem: holds no private key")]
#[case("tls", json!({"certPem": CERTIFICATE, "keyPem": KEY, "clientCaPem": "x"}), "listen.tls.clientCaPem")]
#[case("authentication", json!({"bearer": {"tokens": []}}), "at least one value")]
#[case("authentication", json!({"bearer": {"tokens": ["good", "with a line end\n"]}}), "tokens[1]: must be a token")]
#[case("authentication", json!({"basic": {"username": "a:b", "passwords": ["p"]}}), "basic.username")]
#[case("authentication", json!({"standardWebhooks": {"secrets": ["hunter2"]}}), "must begin with whsec_")]
#[case("authentication", json!({"github": {"secrets": [""]}}), "secrets[0]: must not be empty")]
fn refuses_listeners(#[case] field: &str, #[case] value: Value, #[case] problem: &str) {
    let mut config = listener();
    config["endpoint"]["http"]["listen"][field] = value;
    let found = problems(config);
    assert!(found.iter().any(|text| text.contains(problem)), "{found:?}");
    assert!(!found.iter().any(|text| text.contains("hunter")), "a secret shows: {found:?}");
}

#[rstest]
#[case("url", json!("http://host"), "only with a URL that begins with https://")]
#[case("url", json!("https://host?key=1"), "has a query")]
#[case("url", json!("mqtt://host"), "another scheme")]
#[case("timeoutMs", json!(0), "target.timeoutMs")]
#[case("maxConcurrency", json!(0), "target.maxConcurrency")]
#[case("rateLimit", json!({"perSecond": 1, "burst": 0}), "target.rateLimit")]
#[case("authentication", json!({"bearer": {"token": "hunter 2"}}), "authentication.bearer.token")]
#[case("signingSecrets", json!(["whsec_hunter"]), "signingSecrets[0]")]
#[case("headers", json!({"Content-Type": "x"}), "written by the bridge itself")]
#[case("headers", json!({"ce-id": "x"}), "written by the bridge itself")]
#[case("headers", json!({"Authorization": "hunter"}), "beside `authentication`")]
#[case("headers", json!({"a b": "x"}), "not the name of a header")]
#[case("headers", json!({"X-Key": "hunter\n"}), "can not hold")]
fn refuses_targets(#[case] field: &str, #[case] value: Value, #[case] problem: &str) {
    let mut config = target();
    config["endpoint"]["http"]["target"][field] = value;
    let found = problems(config);
    assert!(found.iter().any(|text| text.contains(problem)), "{found:?}");
    assert!(!found.iter().any(|text| text.contains("hunter")), "a secret shows: {found:?}");
}

#[test]
fn http_goes_one_way_only() {
    let (mut listens, mut sends) = (listener(), target());
    listens["outbound"] = target()["outbound"].clone();
    sends["inbound"] = listener()["inbound"].clone();
    sends["inbound"][0]["name"] = json!("other");
    assert!(problems(listens)[0].contains("has inbound routes only"));
    assert!(problems(sends)[0].contains("has outbound routes only"));
    let mut without = listener();
    without["endpoint"]["http"]["listen"].as_object_mut().unwrap().remove("authentication");
    assert!(serde_json::from_value::<BridgeConfig>(without).is_err(), "an open listener says so");
}

#[rstest]
#[case("line/*")]
#[case("*/x")]
fn a_path_begins_with_a_slash(#[case] from: &str) {
    let mut config = listener();
    config["inbound"][0]["from"] = json!(from);
    assert!(problems(config).iter().any(|text| text.contains("begin with a slash")));
}
