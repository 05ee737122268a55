//! A Kafka cluster.

use eventmesh_crds::{
    Bridge,
    bridge::{Credentials, EndpointTls, KafkaEndpoint, KafkaMechanism, KafkaStart},
    conditions::Verdict,
};
use eventmesh_wire::config as wire;

use super::{super::resolve::Resolved, login, tls};
use crate::cache::namespaced;

pub(super) fn run(bridge: &Bridge, kafka: &KafkaEndpoint, resolved: &Resolved) -> Result<wire::KafkaEndpoint, Verdict> {
    let (namespace, name) = namespaced(bridge);
    Ok(wire::KafkaEndpoint {
        bootstrap_servers: kafka.bootstrap_servers.clone(),
        group: kafka.group.clone().unwrap_or_else(|| format!("eventmesh-{namespace}-{name}")),
        start_from: match kafka.start_from.unwrap_or(KafkaStart::Earliest) {
            KafkaStart::Earliest => wire::StartFrom::Earliest,
            KafkaStart::Latest => wire::StartFrom::Latest,
        },
        sasl: sasl(kafka, resolved)?,
        tls: kafka_tls(kafka, resolved)?,
    })
}

fn sasl(kafka: &KafkaEndpoint, resolved: &Resolved) -> Result<Option<wire::KafkaSasl>, Verdict> {
    let Some(credentials) = &kafka.credentials else { return Ok(None) };
    let mechanism = match credentials.mechanism.unwrap_or(KafkaMechanism::ScramSha512) {
        KafkaMechanism::Plain => wire::SaslMechanism::Plain,
        KafkaMechanism::ScramSha256 => wire::SaslMechanism::ScramSha256,
        KafkaMechanism::ScramSha512 => wire::SaslMechanism::ScramSha512,
    };
    let (username, password) = login(Some(&Credentials { secret: credentials.secret.clone() }), resolved)?;
    Ok(username.zip(password).map(|(username, password)| wire::KafkaSasl { mechanism, username, password }))
}

/// TLS may be wanted without a Secret.
fn kafka_tls(kafka: &KafkaEndpoint, resolved: &Resolved) -> Result<Option<wire::TlsConfig>, Verdict> {
    match kafka.tls.as_ref().map(|tls| &tls.secret) {
        None => Ok(None),
        Some(None) => Ok(Some(wire::TlsConfig::default())),
        Some(Some(secret)) => tls(Some(&EndpointTls { secret: secret.clone(), server_name: None }), resolved),
    }
}
