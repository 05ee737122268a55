//! Connections to Kafka, and what their errors mean for the one who runs the bridge.

use std::time::Duration;

use eventmesh_wire::config::{KafkaEndpoint, KafkaSasl, SaslMechanism, TlsConfig};
use eventmesh_wire::secret::Secret;
use krafka::auth::{AuthConfig, TlsConfig as KafkaTls};
use krafka::error::ErrorCode;
use krafka::{Kafka, KrafkaError};
use rustls::{CertificateError, Error as TlsError};

use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A broker that does not answer a request in this time is taken for gone.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no link.
#[derive(Debug)]
pub struct Trouble {
    pub message: String,
    /// Only a change of configuration, there or here, helps.
    pub refused: bool,
}

/// Asks the brokers of the configuration for the others.
///
/// # Errors
/// When none answers, or they do not want the bridge.
pub async fn connect(endpoint: &KafkaEndpoint, client_id: &str) -> krafka::Result<Kafka> {
    let mut builder = Kafka::builder(endpoint.bootstrap_servers.join(","))
        .client_id(client_id)
        .connect_timeout(CONNECT_TIMEOUT)
        .request_timeout(REQUEST_TIMEOUT)
        // A missing topic is a condition to be told, not one to be hidden by making it with the broker's defaults.
        .allow_auto_create_topics(false);
    if endpoint.sasl.is_some() || endpoint.tls.is_some() {
        builder = builder.security(security(endpoint.sasl.as_ref(), endpoint.tls.as_ref()));
    }
    builder.connect().await
}

fn security(sasl: Option<&KafkaSasl>, tls: Option<&TlsConfig>) -> AuthConfig {
    let auth = match sasl {
        None => AuthConfig::plaintext(),
        Some(KafkaSasl { mechanism, username, password }) => {
            let password = password.expose();
            match mechanism {
                SaslMechanism::Plain => AuthConfig::sasl_plain(username, password),
                SaslMechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(username, password),
                SaslMechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(username, password),
            }
        }
    };
    let Some(tls) = tls else { return auth };
    let mut settings = KafkaTls::new();
    if let Some(pem) = &tls.ca_pem {
        settings = settings.with_ca_cert_pem(pem.as_bytes());
    }
    if let (Some(certificate), Some(key)) = (&tls.client_cert_pem, tls.client_key_pem.as_ref().map(Secret::expose)) {
        settings = settings.with_client_cert_pem(certificate.as_bytes(), key.as_bytes().to_vec());
    }
    if let Some(name) = &tls.server_name {
        settings = settings.with_sni_hostname(name);
    }
    auth.with_tls(settings)
}

/// What is wrong with a link, and what to do about it.
pub fn explain(error: &KrafkaError, endpoint: &KafkaEndpoint) -> Trouble {
    let servers = endpoint.bootstrap_servers.join(", ");
    if let Some(message) = tls_problem(error).or_else(|| told_by_text(error, endpoint)) {
        return Trouble { message: format!("no TLS with Kafka at {servers}: {message}"), refused: true };
    }
    let (message, refused) = match error {
        KrafkaError::Network(problem) if was_closed(&problem.to_string()) => (
            format!(
                "Kafka at {servers} closes the connection; check that it is a Kafka, and whether it wants TLS or a user"
            ),
            false,
        ),
        KrafkaError::Network(problem) if !problem.to_string().contains("timed out") => {
            (format!("Kafka at {servers} can not be reached: {problem}; check the address, and that it runs"), false)
        }
        KrafkaError::Network(_) | KrafkaError::Timeout { .. } => (
            format!("Kafka at {servers} does not answer; check that it runs, and whether it wants TLS or a user"),
            false,
        ),
        KrafkaError::Auth { message, .. } => {
            (format!("Kafka at {servers} refused the bridge: {message}; {}", advice(endpoint)), true)
        }
        KrafkaError::Broker { code: ErrorCode::SaslAuthenticationFailed, message } => {
            (format!("Kafka at {servers} refused the bridge: {message}; {}", advice(endpoint)), true)
        }
        KrafkaError::Broker { code: ErrorCode::ClusterAuthorizationFailed, .. } => (
            "Kafka does not let the bridge describe the cluster; allow its user Describe on the cluster".to_owned(),
            true,
        ),
        KrafkaError::Config { message } => (format!("the Kafka client can not be set up: {message}"), true),
        other => (format!("Kafka at {servers}: {other}"), false),
    };
    Trouble { message, refused }
}

fn was_closed(text: &str) -> bool {
    ["connection closed", "reset by peer", "early eof"].iter().any(|words| text.to_lowercase().contains(words))
}

fn advice(endpoint: &KafkaEndpoint) -> &'static str {
    if endpoint.sasl.is_some() { "check user, password and mechanism" } else { "it may want a user: give credentials" }
}

const NO_TLS: &str = "it does not speak TLS on that port";

/// What the client passes on as text only: that the other side ended the handshake.
fn told_by_text(error: &KrafkaError, endpoint: &KafkaEndpoint) -> Option<String> {
    let tls = endpoint.tls.as_ref()?;
    let text = error.to_string();
    if text.contains("tls handshake eof") {
        return Some(NO_TLS.to_owned());
    }
    if !text.contains("fatal alert") {
        return None;
    }
    let advice = if tls.client_cert_pem.is_some() {
        "it does not accept the client certificate"
    } else {
        "it asks for a client certificate: give one, tls.crt and tls.key"
    };
    Some(format!("{advice} ({text})"))
}

fn tls_problem(error: &KrafkaError) -> Option<String> {
    let found = match error {
        KrafkaError::Network(problem) => tls::problem(problem.as_ref()),
        other => tls::problem(other),
    }?;
    let advice = match found {
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is signed by an authority that the bridge does not know; give that authority's certificate, ca.crt"
        }
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name; use that name in bootstrapServers and advertised.listeners",
        TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired"
        }
        // What the other side says of the bridge is told below.
        TlsError::AlertReceived(_) => return None,
        TlsError::InvalidMessage(_) => NO_TLS,
        other => return Some(other.to_string()),
    };
    Some(advice.to_owned())
}
