//! What another NATS system as endpoint must hold to be usable.

use super::{BrokerAddress, ProblemKind, Problems, Scheme, check_tls, parse_url};
use crate::config::{BridgeConfig, Guarantee, NatsCredentials, NatsEndpoint, NatsJetStream};
use crate::credentials;

pub(super) fn check(nats: &NatsEndpoint, config: &BridgeConfig, problems: &mut Problems) {
    problems.require(!nats.urls.is_empty(), "endpoint.nats.urls", "name at least one server");
    match nats.servers() {
        Err(problem) => problems.add(ProblemKind::Value, "endpoint.nats.urls", problem),
        Ok(servers) => {
            let tls = servers.first().is_some_and(|server| server.tls);
            problems.require(
                servers.iter().all(|server| server.tls == tls),
                "endpoint.nats.urls",
                "all with tls:// or all with nats://: a bridge that is to use TLS must never do without",
            );
            problems.require(
                nats.tls.as_ref().is_none_or(|tls| tls.server_name.is_none()),
                "endpoint.nats.tls.serverName",
                "can not be set: the name in the certificate must be the host of the URL",
            );
            check_tls("endpoint.nats", nats.tls.as_ref(), tls, "tls://", problems);
        }
    }
    if let Some(problem) = nats.credentials.as_ref().and_then(credentials_problem) {
        problems.add(ProblemKind::Value, "endpoint.nats.credentials", problem);
    }
    if let Some(jetstream) = &nats.jetstream {
        check_jetstream(jetstream, problems);
    }
    for (index, route) in config.inbound.iter().enumerate() {
        problems.require(
            !route.from.split('.').any(str::is_empty) && !route.from.contains(char::is_whitespace),
            format!("inbound[{index}].from"),
            "is no NATS subject: tokens must not be empty, and hold no white space",
        );
    }
    problems.require(
        nats.jetstream.is_some() || config.delivery.guarantee == Guarantee::AtMostOnce,
        "delivery.guarantee",
        "core NATS confirms nothing, so nothing can be promised: set AtMostOnce, or use endpoint.nats.jetstream",
    );
}

fn check_jetstream(jetstream: &NatsJetStream, problems: &mut Problems) {
    for (field, name) in [("domain", &jetstream.domain), ("stream", &jetstream.stream)] {
        let usable = |name: &String| {
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c))
        };
        problems.require(
            name.as_ref().is_none_or(usable),
            format!("endpoint.nats.jetstream.{field}"),
            "must be a name: not empty, without white space and without any of . * > / \\",
        );
    }
}

/// The value itself is never told: it is a secret.
fn credentials_problem(credentials: &NatsCredentials) -> Option<&'static str> {
    match credentials {
        NatsCredentials::Creds(text) => match credentials::read_creds(text.expose()) {
            None => Some("is no credentials file, which holds the token of a user and the seed of its key"),
            Some(user) => user.problems().first().map(|(field, _)| match *field {
                "jwt" => "is a credentials file whose token is not that of a user",
                _ => "is a credentials file whose seed is not that of the token's user",
            }),
        },
        NatsCredentials::Login { username, .. } => username.is_empty().then_some("the user name must not be empty"),
        NatsCredentials::Token(token) => token.expose().is_empty().then_some("the token must not be empty"),
        NatsCredentials::Nkey(seed) => {
            (!credentials::is_user_seed(seed.expose())).then_some("is not the seed of a user, which begins with SU")
        }
    }
}

const SCHEMES: [Scheme; 2] =
    [Scheme { name: "nats", port: 4222, tls: false }, Scheme { name: "tls", port: 4222, tls: true }];

impl NatsEndpoint {
    /// The parts of the URLs.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the first that can not be used.
    pub fn servers(&self) -> Result<Vec<BrokerAddress>, String> {
        let read = |url: &String| match parse_url(url, &SCHEMES)? {
            (address, "") => Ok(address),
            _ => Err(format!("`{url}` has a path; write nats://host:4222")),
        };
        self.urls.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use nkeys::KeyPair;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn problems(endpoint: &Value, guarantee: &str) -> String {
        let config: BridgeConfig = serde_json::from_value(json!({
            "version": 1, "bridge": {"namespace": "n", "name": "b", "uid": "u"}, "mesh": {"servers": ["nats://x"]},
            "endpoint": {"nats": endpoint}, "delivery": {"guarantee": guarantee},
            "inbound": [{"name": "r", "from": "a.*", "to": "a.{1}", "stream": "S"}],
        }))
        .unwrap();
        config.validate().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[rstest]
    #[case(json!({"urls": ["nats://a", "nats://b:4223"]}), "")]
    #[case(json!({"urls": []}), "at least one server")]
    #[case(json!({"urls": ["http://a"]}), "another scheme")]
    #[case(json!({"urls": ["nats://u:p@a"]}), "credentials do not belong into the URL")]
    #[case(json!({"urls": ["nats://a/x"]}), "has a path")]
    #[case(json!({"urls": ["tls://a", "nats://b"]}), "must never do without")]
    #[case(json!({"urls": ["nats://a"], "tls": {}}), "begins with tls://")]
    #[case(json!({"urls": ["tls://a"], "tls": {"serverName": "b"}}), "must be the host of the URL")]
    #[case(json!({"urls": ["nats://a"], "jetstream": {"stream": "a.b"}}), "must be a name")]
    #[case(json!({"urls": ["nats://a"], "credentials": {"token": ""}}), "token must not be empty")]
    #[case(json!({"urls": ["nats://a"], "credentials": {"nkey": "secretsecret"}}), "begins with SU")]
    #[case(json!({"urls": ["nats://a"], "credentials": {"creds": "secretsecret"}}), "no credentials file")]
    fn says_what_is_wrong(#[case] mut endpoint: Value, #[case] words: &str) {
        if endpoint["jetstream"].is_null() {
            endpoint["jetstream"] = json!({});
        }
        let found = problems(&endpoint, "AtLeastOnce");
        assert!(if words.is_empty() { found.is_empty() } else { found.contains(words) }, "{found}");
        assert!(!found.contains("secretsecret"), "a secret is told");
    }

    #[test]
    fn core_nats_promises_nothing() {
        let endpoint = json!({"urls": ["nats://a"]});
        assert!(problems(&endpoint, "AtLeastOnce").contains("core NATS confirms nothing"));
        assert_eq!(problems(&endpoint, "AtMostOnce"), "");
    }

    #[test]
    fn a_user_s_seed_is_a_key_and_an_account_s_is_none() {
        let with = |key: &KeyPair| {
            let endpoint = json!({"urls": ["nats://a"], "jetstream": {}, "credentials": {"nkey": key.seed().unwrap()}});
            problems(&endpoint, "AtLeastOnce")
        };
        assert_eq!(with(&KeyPair::new_user()), "");
        assert!(with(&KeyPair::new_account()).contains("begins with SU"));
    }
}
