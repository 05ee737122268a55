//! A Kafka cluster as endpoint.

use serde::{Deserialize, Serialize};

use super::TlsConfig;
use crate::secret::Secret;

/// A Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaEndpoint {
    /// `host:port` of brokers to ask first, at least one; they name the others.
    pub bootstrap_servers: Vec<String>,
    /// The consumer group of inbound routes: what it has committed is where a bridge goes on.
    pub group: String,
    /// Where the group begins in a partition for which it has committed nothing yet.
    #[serde(default)]
    pub start_from: StartFrom,
    /// As whom; absent: as nobody, or as the client certificate says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
    /// Absent: without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// Where a new consumer group begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFrom {
    /// With what is stored.
    #[default]
    Earliest,
    /// With what comes after its first start.
    Latest,
}

/// User and password, and how they are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaSasl {
    pub mechanism: SaslMechanism,
    pub username: String,
    pub password: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}
