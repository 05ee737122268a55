//! The configuration of a bridge: any bytes are read or refused, and what is found valid can be used.

use arbitrary::{Result, Unstructured};
use eventmesh_wire::{
    address::{InboundMap, OutboundMap},
    config::{BridgeConfig, EndpointConfig, HttpEndpoint, http::HttpUrl},
    expression::Filter,
};
use serde_json::{Value, json};

use crate::input::disturb;

const TEXTS: [&str; 24] = [
    "mqtt://",
    "mqtts://",
    "host",
    ":",
    "1883",
    "[::1]",
    "@",
    "/",
    "+",
    "#",
    "{1}",
    "{2}",
    ".",
    "*",
    ">",
    "$JS",
    "a",
    "V5",
    "V311",
    "event.data",
    " == ",
    "'",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
];

pub fn run(data: &[u8]) {
    check(data);
    let _ = structured(&mut Unstructured::new(data));
}

fn structured(input: &mut Unstructured<'_>) -> Result<()> {
    let mut document = valid();
    disturb(input, &mut document, &TEXTS)?;
    check(document.to_string().as_bytes());
    Ok(())
}

fn check(file: &[u8]) {
    let Ok(config) = serde_json::from_slice::<BridgeConfig>(file) else { return };
    let again = serde_json::to_vec(&config).expect("a configuration has a JSON form");
    assert_eq!(serde_json::from_slice::<BridgeConfig>(&again).expect("readable again"), config);
    if !config.validate().is_empty() {
        return;
    }
    match &config.endpoint {
        EndpointConfig::Amqp(amqp) => {
            amqp.broker().expect("a valid URL has its parts");
        }
        EndpointConfig::Http(HttpEndpoint::Listen(listen)) => {
            assert!(listen.port >= 1024 && config.outbound.is_empty());
        }
        EndpointConfig::Http(HttpEndpoint::Target(target)) => {
            HttpUrl::parse(&target.url).expect("a valid URL has its parts");
        }
        EndpointConfig::Kafka(kafka) => assert!(!kafka.bootstrap_servers.is_empty()),
        EndpointConfig::Mqtt(mqtt) => {
            let address = mqtt.broker().expect("a valid URL has its parts");
            assert!(!address.host.is_empty() && address.port > 0);
        }
        EndpointConfig::Link(link) => assert!(!link.name.is_empty() && config.inbound.is_empty()),
        EndpointConfig::Nats(nats) => {
            assert!(!nats.servers().expect("valid URLs have their parts").is_empty());
        }
    }
    for route in &config.inbound {
        InboundMap::new(config.endpoint.syntax(), &route.from, &route.to).expect("a valid route maps");
        assert!(route.filter.as_deref().is_none_or(|filter| Filter::compile(filter).is_ok()));
    }
    for route in &config.outbound {
        if !matches!(config.endpoint, EndpointConfig::Link(_)) {
            OutboundMap::new(config.endpoint.syntax(), &route.subjects, &route.to).expect("a valid route maps");
        }
        assert!(route.filter.as_deref().is_none_or(|filter| Filter::compile(filter).is_ok()));
    }
}

fn valid() -> Value {
    json!({
        "version": 1,
        "bridge": {"namespace": "shop", "name": "factory", "uid": "u-1"},
        "mesh": {"servers": ["nats://mesh:4222"], "username": "b", "password": "secret", "caPem": null},
        "endpoint": {"mqtt": {
            "url": "mqtts://broker", "version": "V5", "clientId": "shop-factory", "username": "u", "password": "p",
            "keepAliveSeconds": 30, "sessionExpirySeconds": 60,
            "tls": {"caPem": null, "clientCertPem": null, "clientKeyPem": null, "serverName": "broker"},
        }},
        "inbound": [{
            "name": "in", "from": "line/+/t", "to": "factory.{1}.t", "stream": "shop_factory", "ingest": "Atomic",
            "filter": "event.data.x > 1", "idHeader": "id", "deadLetterSubject": "dead.x",
        }],
        "outbound": [{
            "name": "out", "stream": "shop_cmd", "consumer": "c", "subjects": ["cmd.*"], "to": "set/{1}",
            "filter": "event.subject == 'x'", "retain": true, "deadLetterSubject": "dead.y",
        }],
        "delivery": {"guarantee": "AtLeastOnce", "maxInFlight": 10, "retry": {"initialMs": 1, "maxMs": 2, "attempts": 3}},
        "state": "Running", "reportIntervalSeconds": 5,
    })
}
