//! Tables of what a configuration is refused for.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn valid() -> Value {
    json!({
        "version": 1,
        "bridge": {"namespace": "shop", "name": "factory", "uid": "u-1"},
        "mesh": {"servers": ["nats://mesh:4222"], "username": "b", "password": "secret"},
        "endpoint": {"mqtt": {"url": "mqtt://broker", "version": "V5", "clientId": "shop-factory"}},
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
