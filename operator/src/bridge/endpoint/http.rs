//! HTTP, in and out.

use std::collections::BTreeMap;

use eventmesh_crds::{
    bridge::http::{
        HttpAuthentication, HttpEndpoint, HttpListen, HttpListenTls, HttpMode, HttpRateLimit, HttpTarget,
        HttpTargetAuthentication,
    },
    common::std_duration,
    conditions::{Reason, Verdict},
    quantity::ByteQuantity,
};
use eventmesh_wire::{config::http as wire, secret::Secret};

use super::{super::resolve::Resolved, has_key, text, tls, unresolved};

/// Where the pods listen; the Service gives it a usual port.
const PORT: u16 = 8081;

pub(super) fn run(http: &HttpEndpoint, resolved: &Resolved) -> Result<wire::HttpEndpoint, Verdict> {
    match (&http.listen, &http.target) {
        (Some(config), None) => listen(config, resolved).map(wire::HttpEndpoint::Listen),
        (None, Some(config)) => target(config, resolved).map(wire::HttpEndpoint::Target),
        // The API server lets neither through.
        _ => Err(unresolved(Reason::InvalidSpec, "set exactly one of `listen` and `target`".to_owned())),
    }
}

fn listen(listen: &HttpListen, resolved: &Resolved) -> Result<wire::HttpListen, Verdict> {
    let max_body = listen.max_body.as_ref().map(ByteQuantity::bytes);
    Ok(wire::HttpListen {
        port: PORT,
        tls: listen.tls.as_ref().map(|tls| listen_tls(tls, resolved)).transpose()?,
        authentication: authentication(&listen.authentication, resolved)?,
        max_body_bytes: max_body.map_or(wire::DEFAULT_MAX_BODY, |bytes| bytes.try_into().unwrap_or(u32::MAX)),
        rate_limit: listen.rate_limit.map(rate_limit),
        answer_within_ms: listen.answer_within.as_ref().map_or(10_000, millis),
    })
}

fn listen_tls(tls: &HttpListenTls, resolved: &Resolved) -> Result<wire::HttpServerTls, Verdict> {
    let secret = &tls.secret.name;
    let clients = tls.require_client_certificate == Some(true);
    Ok(wire::HttpServerTls {
        cert_pem: text(resolved, secret, "tls.crt")?,
        key_pem: Secret::new(text(resolved, secret, "tls.key")?),
        client_ca_pem: clients.then(|| text(resolved, secret, "ca.crt")).transpose()?,
    })
}

fn authentication(
    authentication: &HttpAuthentication,
    resolved: &Resolved,
) -> Result<wire::HttpAuthentication, Verdict> {
    if let Some(source) = &authentication.bearer {
        return Ok(wire::HttpAuthentication::Bearer { tokens: values(resolved, &source.secret.name, "token")? });
    }
    if let Some(source) = &authentication.basic {
        return Ok(wire::HttpAuthentication::Basic {
            username: text(resolved, &source.secret.name, "username")?,
            passwords: values(resolved, &source.secret.name, "password")?,
        });
    }
    if let Some(source) = &authentication.standard_webhooks {
        let secrets = values(resolved, &source.secret.name, "secret")?;
        return Ok(wire::HttpAuthentication::StandardWebhooks { secrets });
    }
    if let Some(source) = &authentication.github {
        return Ok(wire::HttpAuthentication::Github { secrets: values(resolved, &source.secret.name, "secret")? });
    }
    if authentication.none.is_some() {
        return Ok(wire::HttpAuthentication::None {});
    }
    // The API server lets this not through; and nobody is let in by accident.
    Err(unresolved(Reason::InvalidSpec, "authentication says nothing".to_owned()))
}

fn target(target: &HttpTarget, resolved: &Resolved) -> Result<wire::HttpTarget, Verdict> {
    let signing = target.signing.as_ref().map(|source| values(resolved, &source.secret.name, "secret"));
    Ok(wire::HttpTarget {
        url: target.url.clone(),
        mode: match target.mode {
            Some(HttpMode::Structured) => wire::HttpMode::Structured,
            Some(HttpMode::Binary) | None => wire::HttpMode::Binary,
        },
        tls: tls(target.tls.as_ref(), resolved)?,
        authentication: target
            .authentication
            .as_ref()
            .map(|authentication| target_authentication(authentication, resolved))
            .transpose()?,
        signing_secrets: signing.transpose()?.unwrap_or_default(),
        headers: headers(target, resolved)?,
        timeout_ms: target.timeout.as_ref().map_or(10_000, millis),
        max_concurrency: target.max_concurrency.map_or(64, |most| most.try_into().unwrap_or(1)),
        rate_limit: target.rate_limit.map(rate_limit),
    })
}

fn target_authentication(
    authentication: &HttpTargetAuthentication,
    resolved: &Resolved,
) -> Result<wire::HttpTargetAuthentication, Verdict> {
    if let Some(source) = &authentication.bearer {
        let token = Secret::new(text(resolved, &source.secret.name, "token")?);
        return Ok(wire::HttpTargetAuthentication::Bearer { token });
    }
    let Some(source) = &authentication.basic else {
        return Err(unresolved(Reason::InvalidSpec, "authentication says nothing".to_owned()));
    };
    Ok(wire::HttpTargetAuthentication::Basic {
        username: text(resolved, &source.secret.name, "username")?,
        password: Secret::new(text(resolved, &source.secret.name, "password")?),
    })
}

/// Those that everyone may see, and those that nobody should; a name in both is the Secret's.
fn headers(target: &HttpTarget, resolved: &Resolved) -> Result<BTreeMap<String, Secret>, Verdict> {
    let plain = target.headers.iter().flatten();
    let mut all: BTreeMap<String, Secret> =
        plain.map(|(name, value)| (name.clone(), Secret::new(value.clone()))).collect();
    if let Some(source) = &target.secret_headers {
        let name = &source.secret.name;
        for key in keys(resolved, name)? {
            let value = Secret::new(text(resolved, name, &key)?);
            all.retain(|known, _| !known.eq_ignore_ascii_case(&key));
            all.insert(key, value);
        }
    }
    Ok(all)
}

/// What a Secret holds under each key that begins so, in the order of the keys. One at least must be there.
fn values(resolved: &Resolved, secret: &str, prefix: &str) -> Result<Vec<Secret>, Verdict> {
    let keys: Vec<String> = keys(resolved, secret)?.into_iter().filter(|key| key.starts_with(prefix)).collect();
    if keys.is_empty() {
        let message = format!("Secret {secret} has no key that begins with `{prefix}`");
        return Err(unresolved(Reason::SecretKeyMissing, message));
    }
    keys.iter().map(|key| text(resolved, secret, key).map(Secret::new)).collect()
}

fn keys(resolved: &Resolved, secret: &str) -> Result<Vec<String>, Verdict> {
    has_key(resolved, secret, "")?;
    let data = resolved.secrets.get(secret).and_then(Option::as_ref);
    Ok(data.into_iter().flat_map(BTreeMap::keys).cloned().collect())
}

fn rate_limit(limit: HttpRateLimit) -> wire::RateLimit {
    let positive = |number: i32| u32::try_from(number).unwrap_or(1);
    wire::RateLimit { per_second: positive(limit.per_second), burst: positive(limit.burst.unwrap_or(limit.per_second)) }
}

fn millis(duration: &kube::core::Duration) -> u32 {
    std_duration(duration).as_millis().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{broker::MeshKey, refs::MeshProblem};

    /// Nothing but two Secrets.
    fn resolved() -> Resolved {
        let secret = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
        };
        let keys = [
            ("token", "t1"),
            ("token-next", "t2"),
            ("username", "u"),
            ("password", "p1"),
            ("password-old", "p0"),
            ("secret", "s1"),
            ("tls.crt", "certificate"),
            ("tls.key", "key"),
            ("ca.crt", "authority"),
        ];
        Resolved {
            mesh: Err(MeshProblem::NotFound(MeshKey { namespace: "n".to_owned(), name: "m".to_owned() })),
            credentials: None,
            trust: None,
            secrets: BTreeMap::from([
                ("all".to_owned(), secret(&keys)),
                ("headers".to_owned(), secret(&[("X-Key", "k")])),
                ("gone".to_owned(), None),
            ]),
            topics: BTreeMap::new(),
            stores: BTreeMap::new(),
            copies: std::collections::BTreeSet::new(),
            refused: BTreeMap::new(),
        }
    }

    fn of(http: &Value) -> Result<Value, Verdict> {
        let http: HttpEndpoint = serde_json::from_value(http.clone()).expect("an endpoint");
        run(&http, &resolved()).map(|endpoint| serde_json::to_value(endpoint).expect("JSON"))
    }

    fn listen(authentication: &Value) -> Result<Value, Verdict> {
        of(&json!({"listen": {"authentication": authentication}}))
    }

    const ALL: &str = "all";

    #[rstest]
    #[case(json!({"none": {}}), json!({"none": {}}))]
    #[case(json!({"bearer": {"secret": {"name": ALL}}}), json!({"bearer": {"tokens": ["t1", "t2"]}}))]
    #[case(json!({"basic": {"secret": {"name": ALL}}}), json!({"basic": {"username": "u", "passwords": ["p1", "p0"]}}))]
    #[case(json!({"standardWebhooks": {"secret": {"name": ALL}}}), json!({"standardWebhooks": {"secrets": ["s1"]}}))]
    #[case(json!({"github": {"secret": {"name": ALL}}}), json!({"github": {"secrets": ["s1"]}}))]
    fn every_value_of_a_secret_is_good(#[case] authentication: Value, #[case] expected: Value) {
        assert_eq!(listen(&authentication).expect("resolved")["listen"]["authentication"], expected);
    }

    #[test]
    fn defaults_of_a_listener_are_filled_in() {
        let tls = json!({"secret": {"name": ALL}, "requireClientCertificate": true});
        let limit = json!({"perSecond": 7});
        let listen = json!({"authentication": {"none": {}}, "tls": tls, "rateLimit": limit, "maxBody": "2Ki"});
        let expected = json!({
            "port": 8081, "authentication": {"none": {}}, "maxBodyBytes": 2048, "answerWithinMs": 10_000,
            "rateLimit": {"perSecond": 7, "burst": 7},
            "tls": {"certPem": "certificate", "keyPem": "key", "clientCaPem": "authority"},
        });
        assert_eq!(of(&json!({"listen": listen})).expect("resolved")["listen"], expected);
    }

    #[test]
    fn headers_of_a_secret_go_before_those_that_everyone_sees() {
        let reference = json!({"secret": {"name": ALL}});
        let target = json!({
            "url": "https://h", "mode": "Structured", "authentication": {"basic": reference}, "signing": reference,
            "headers": {"x-key": "seen", "X-Other": "o"}, "secretHeaders": {"secret": {"name": "headers"}}, "timeout": "1s",
        });
        let expected = json!({
            "url": "https://h", "mode": "Structured", "authentication": {"basic": {"username": "u", "password": "p1"}},
            "signingSecrets": ["s1"], "headers": {"X-Key": "k", "X-Other": "o"}, "timeoutMs": 1000, "maxConcurrency": 64,
        });
        assert_eq!(of(&json!({"target": target})).expect("resolved")["target"], expected);
    }

    #[rstest]
    #[case("gone", Reason::SecretNotFound, "Secret gone does not exist")]
    #[case("never", Reason::SecretNotFound, "Secret never does not exist")]
    #[case("headers", Reason::SecretKeyMissing, "no key that begins with `token`")]
    fn a_secret_that_is_missing_is_waited_for(#[case] secret: &str, #[case] reason: Reason, #[case] message: &str) {
        let verdict = listen(&json!({"bearer": {"secret": {"name": secret}}})).expect_err("unresolved");
        assert_eq!(verdict.reason, reason);
        assert!(verdict.message.contains(message), "{}", verdict.message);
    }
}
