//! What an AMQP endpoint must hold to be usable.

use super::{BrokerAddress, ProblemKind, Problems, Scheme, check_tls, parse_url};
use crate::config::{AmqpEndpoint, AmqpVersion, BridgeConfig};

pub(super) fn check(amqp: &AmqpEndpoint, config: &BridgeConfig, problems: &mut Problems) {
    if let Err(problem) = amqp.broker() {
        problems.add(ProblemKind::Value, "endpoint.amqp.url", problem);
    }
    problems.require(
        amqp.password.is_some() == amqp.username.is_some(),
        "endpoint.amqp.username",
        "a user name needs its password, and a password its user name",
    );
    problems.require(amqp.heartbeat_seconds > 0, "endpoint.amqp.heartbeatSeconds", "must be greater than 0");
    problems.require(amqp.prefetch != Some(0), "endpoint.amqp.prefetch", "must be greater than 0");
    check_tls("endpoint.amqp", amqp.tls.as_ref(), amqp.url.starts_with("amqps://"), "amqps://", problems);
    for (index, route) in config.inbound.iter().enumerate() {
        let wildcards = route.from.split('.').any(|level| level == "*" || level == "#");
        let message = match amqp.version {
            AmqpVersion::V1 => "AMQP 1.0 has no wildcards: name one address",
            AmqpVersion::V091 if route.from.contains('/') => continue,
            AmqpVersion::V091 => "a queue has no wildcards; write `exchange/binding key`",
        };
        if wildcards {
            problems.add(
                ProblemKind::Mapping,
                format!("inbound[{index}].from"),
                format_args!("`{}`: {message}", route.from),
            );
        }
    }
}

const SCHEMES: [Scheme; 2] =
    [Scheme { name: "amqp", port: 5672, tls: false }, Scheme { name: "amqps", port: 5671, tls: true }];

impl AmqpEndpoint {
    /// Where the broker listens, and the virtual host (0-9-1).
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn broker(&self) -> Result<(BrokerAddress, String), String> {
        let (address, path) = parse_url(&self.url, &SCHEMES)?;
        match self.version {
            AmqpVersion::V091 if path.is_empty() => Ok((address, "/".to_owned())),
            AmqpVersion::V091 => match decode(path) {
                Some(vhost) if !vhost.is_empty() && vhost.len() <= 255 => Ok((address, vhost)),
                _ => Err(format!(
                    "`{}` names no virtual host behind the port; write %2F for a `/` in its name",
                    self.url
                )),
            },
            AmqpVersion::V1 if path.is_empty() => Ok((address, String::new())),
            AmqpVersion::V1 => Err(format!("`{}` has a path, and AMQP 1.0 has no virtual hosts", self.url)),
        }
    }
}

/// `%XX` as the byte it stands for.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        let (digits, after) = escaped.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn problems(url: &str, version: &str, from: &str, to: &str) -> Vec<String> {
        let config: BridgeConfig = serde_json::from_value(json!({
            "version": 1,
            "bridge": {"namespace": "shop", "name": "b", "uid": "u-1"},
            "mesh": {"servers": ["nats://mesh:4222"]},
            "endpoint": {"amqp": {"url": url, "version": version}},
            "inbound": [{"name": "in", "from": from, "to": "a.b", "stream": "S"}],
            "outbound": [{"name": "out", "stream": "S", "consumer": "c", "subjects": ["c.*"], "to": to}]
        }))
        .expect("readable");
        config.validate().iter().map(ToString::to_string).collect()
    }

    #[rstest]
    #[case("amqp://x", "V091", "orders", "orders")]
    #[case("amqps://x:1/vhost", "V091", "amq.topic/line.*.temperature", "amq.topic/line.{1}.set")]
    #[case("amqp://x/%2F", "V091", "amq.topic/#", "orders.{1}")]
    #[case("amqp://x", "V1", "orders", "line.{1}.set")]
    fn takes(#[case] url: &str, #[case] version: &str, #[case] from: &str, #[case] to: &str) {
        assert_eq!(problems(url, version, from, to), Vec::<String>::new());
    }

    #[rstest]
    #[case("http://x", "V091", "q", "q", "endpoint.amqp.url")]
    #[case("amqp://x/%2", "V091", "q", "q", "names no virtual host")]
    #[case("amqp://x/v", "V1", "q", "q", "has no virtual hosts")]
    #[case("amqp://x", "V1", "line.*", "q", "AMQP 1.0 has no wildcards")]
    #[case("amqp://x", "V091", "line.#", "q", "a queue has no wildcards")]
    #[case("amqp://x", "V091", "x*/a", "q", "must be a whole level")]
    #[case("amqp://x", "V091", "q", "{1}/key", "can not depend on the event")]
    #[case("amqp://x", "V091", "q", "x/a.*", "contains a wildcard")]
    fn refuses(#[case] url: &str, #[case] version: &str, #[case] from: &str, #[case] to: &str, #[case] words: &str) {
        let found = problems(url, version, from, to);
        assert!(found.iter().any(|problem| problem.contains(words)), "{found:?}");
    }

    #[test]
    fn the_virtual_host_is_what_follows_the_port() {
        let endpoint = |url: &str| AmqpEndpoint {
            url: url.to_owned(),
            version: AmqpVersion::V091,
            username: None,
            password: None,
            heartbeat_seconds: 30,
            prefetch: None,
            tls: None,
        };
        for (url, vhost) in [("amqp://x", "/"), ("amqp://x/shop", "shop"), ("amqp://x/%2Fshop%2fa", "/shop/a")] {
            assert_eq!(endpoint(url).broker().unwrap().1, vhost);
        }
    }
}
