//! From the endpoint of a spec and the Secrets that it names to the endpoint of the configuration file: one file a kind.

mod amqp;
mod http;
mod kafka;
mod link;
mod mqtt;
mod nats;

use eventmesh_crds::{
    Bridge,
    bridge::{Credentials, EndpointTls},
    common::std_duration,
    conditions::{ConditionType, Reason, Verdict},
};
use eventmesh_wire::{config as wire, secret::Secret};

use super::resolve::Resolved;

/// The condition of a reference that leads nowhere.
pub(super) fn unresolved(reason: Reason, message: String) -> Verdict {
    Verdict::bad(ConditionType::ResolvedRefs, reason, message)
}

pub(super) fn run(bridge: &Bridge, resolved: &Resolved) -> Result<wire::EndpointConfig, Verdict> {
    let endpoint = &bridge.spec.endpoint;
    if let Some(http) = &endpoint.http {
        return http::run(http, resolved).map(wire::EndpointConfig::Http);
    }
    if let Some(kafka) = &endpoint.kafka {
        return kafka::run(bridge, kafka, resolved).map(wire::EndpointConfig::Kafka);
    }
    if let Some(mqtt) = &endpoint.mqtt {
        return mqtt::run(bridge, mqtt, resolved).map(wire::EndpointConfig::Mqtt);
    }
    if let Some(amqp) = &endpoint.amqp {
        return amqp::run(amqp, resolved).map(wire::EndpointConfig::Amqp);
    }
    if let Some(nats) = &endpoint.nats {
        return nats::run(nats, resolved).map(wire::EndpointConfig::Nats);
    }
    if let Some(link) = &endpoint.link {
        return link::run(bridge, link, resolved).map(wire::EndpointConfig::Link);
    }
    // The API server lets no Bridge without an endpoint through.
    Err(unresolved(Reason::InvalidSpec, "spec.endpoint names no endpoint".to_owned()))
}

/// User name and password.
fn login(credentials: Option<&Credentials>, resolved: &Resolved) -> Result<(Option<String>, Option<Secret>), Verdict> {
    let Some(credentials) = credentials else { return Ok((None, None)) };
    let secret = &credentials.secret.name;
    Ok((Some(text(resolved, secret, "username")?), Some(Secret::new(text(resolved, secret, "password")?))))
}

fn tls(tls: Option<&EndpointTls>, resolved: &Resolved) -> Result<Option<wire::TlsConfig>, Verdict> {
    let Some(tls) = tls else { return Ok(None) };
    let name = &tls.secret.name;
    let optional =
        |key: &str| if has_key(resolved, name, key)? { text(resolved, name, key).map(Some) } else { Ok(None) };
    let (certificate, key) = (optional("tls.crt")?, optional("tls.key")?);
    if certificate.is_some() != key.is_some() {
        let message = format!("Secret {name} must hold both tls.crt and tls.key, or neither");
        return Err(unresolved(Reason::SecretKeyMissing, message));
    }
    Ok(Some(wire::TlsConfig {
        ca_pem: optional("ca.crt")?,
        client_cert_pem: certificate,
        client_key_pem: key.map(Secret::new),
        server_name: tls.server_name.clone(),
    }))
}

fn has_key(resolved: &Resolved, secret: &str, key: &str) -> Result<bool, Verdict> {
    match resolved.secrets.get(secret) {
        Some(Some(data)) => Ok(data.contains_key(key)),
        _ => Err(unresolved(Reason::SecretNotFound, format!("Secret {secret} does not exist; waiting for it"))),
    }
}

/// What a Secret holds under a key that must be there.
fn text(resolved: &Resolved, secret: &str, key: &str) -> Result<String, Verdict> {
    let missing = |what: &str| unresolved(Reason::SecretKeyMissing, format!("Secret {secret}: key `{key}` {what}"));
    if !has_key(resolved, secret, key)? {
        return Err(missing("is missing"));
    }
    let value = resolved.secrets.get(secret).and_then(|data| data.as_ref()?.get(key)).cloned().unwrap_or_default();
    String::from_utf8(value).map_err(|_| missing("is not text"))
}

fn seconds(duration: &kube::core::Duration) -> u32 {
    std_duration(duration).as_secs().try_into().unwrap_or(u32::MAX)
}
