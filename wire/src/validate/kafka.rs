//! What a Kafka endpoint must hold to be usable.

use super::{ProblemKind, Problems, check_tls};
use crate::config::{BridgeConfig, KafkaEndpoint};
use crate::key::KeyTemplate;

pub(super) fn check(kafka: &KafkaEndpoint, config: &BridgeConfig, problems: &mut Problems) {
    let path = "endpoint.kafka";
    problems.require(
        !kafka.bootstrap_servers.is_empty(),
        format!("{path}.bootstrapServers"),
        "name at least one broker",
    );
    for (index, server) in kafka.bootstrap_servers.iter().enumerate() {
        if let Err(problem) = check_server(server) {
            problems.add(ProblemKind::Value, format!("{path}.bootstrapServers[{index}]"), problem);
        }
    }
    problems.require(
        !kafka.group.is_empty(),
        format!("{path}.group"),
        "must not be empty: it names the place in the topics that Kafka keeps",
    );
    if let Some(sasl) = &kafka.sasl {
        problems.require(!sasl.username.is_empty(), format!("{path}.sasl.username"), "must not be empty");
        problems.require(!sasl.password.expose().is_empty(), format!("{path}.sasl.password"), "must not be empty");
        let usable = !sasl.username.contains('\0') && !sasl.password.expose().contains('\0');
        problems.require(usable, format!("{path}.sasl"), "user and password can not contain the character NUL");
    }
    check_tls(path, kafka.tls.as_ref(), true, "", problems);
    for (index, route) in config.inbound.iter().enumerate() {
        let field = format!("inbound[{index}].from");
        problems.require(route.from.chars().all(|c| c == '*' || may_name_topic(c)), field, ALPHABET);
    }
    for (index, route) in config.outbound.iter().enumerate() {
        if let Some(Err(error)) = route.key.as_deref().map(|key| KeyTemplate::new(&route.subjects, key)) {
            problems.add(ProblemKind::Mapping, format!("outbound[{index}].key"), error);
        }
    }
}

/// What a topic's name may be made of.
pub(crate) const ALPHABET: &str = "a Kafka topic's name is made of letters, digits, `.`, `_` and `-`";

pub(crate) fn may_name_topic(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

fn check_server(text: &str) -> Result<(), String> {
    let problem = || format!("`{text}` is no broker; write host:9092, without a scheme");
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let plain = !host.contains(['/', '@', ',']) && !host.contains(char::is_whitespace);
    if host.is_empty() || !bare || !plain || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(problem());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn problems(path: &str, value: Value) -> Vec<String> {
        let mut config = json!({
            "version": 1,
            "bridge": {"namespace": "shop", "name": "web", "uid": "u-1"},
            "mesh": {"servers": ["nats://mesh:4222"]},
            "endpoint": {"kafka": {
                "bootstrapServers": ["kafka-0:9092", "[::1]:9092"], "group": "g", "tls": {},
                "sasl": {"mechanism": "SCRAM-SHA-512", "username": "u", "password": "p"}
            }},
            "inbound": [{"name": "in", "from": "shop.*.orders", "to": "orders.{1}", "stream": "s"}],
            "outbound": [{"name": "out", "stream": "s", "consumer": "c", "subjects": ["cmd.*"], "to": "x.{1}", "key": "{1}"}]
        });
        let (parent, field) = path.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
            object => object[field] = value,
        }
        let config: BridgeConfig = serde_json::from_value(config).expect("readable");
        config.validate().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_valid_configuration_has_no_problems() {
        assert_eq!(problems("/version", json!(1)), Vec::<String>::new());
    }

    #[rstest]
    #[case("/endpoint/kafka/bootstrapServers", json!([]), "at least one broker")]
    #[case("/endpoint/kafka/bootstrapServers/0", json!("kafka"), "write host:9092")]
    #[case("/endpoint/kafka/bootstrapServers/0", json!("kafka://a:9092"), "write host:9092")]
    #[case("/endpoint/kafka/bootstrapServers/0", json!("a:0"), "write host:9092")]
    #[case("/endpoint/kafka/bootstrapServers/0", json!("::1:9092"), "write host:9092")]
    #[case("/endpoint/kafka/group", json!(""), "must not be empty")]
    #[case("/endpoint/kafka/sasl/username", json!(""), "must not be empty")]
    #[case("/endpoint/kafka/sasl/password", json!("a\0"), "NUL")]
    #[case("/endpoint/kafka/tls", json!({"caPem": "none"}), "endpoint.kafka.tls.caPem")]
    #[case("/inbound/0/from", json!("orders/x"), "is made of letters")]
    #[case("/inbound/0/from", json!("orders.x*"), "must be a whole level")]
    #[case("/outbound/0/to", json!("a b"), "is made of letters")]
    #[case("/outbound/0/to", json!("a.*"), "contains a wildcard")]
    #[case("/outbound/0/key", json!("{2}"), "names `{2}`")]
    fn refuses(#[case] path: &str, #[case] value: Value, #[case] problem: &str) {
        let found = problems(path, value);
        assert!(found.iter().any(|text| text.contains(problem)), "{found:?}");
    }
}
