//! A Kafka cluster as endpoint of a Bridge.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::LocalRef;

/// A Kafka cluster, 3.9 or newer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaEndpoint {
    /// Brokers to ask first, `host:9092`; they name the others.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 3, max = 261), regex(pattern = r"^[^/@,\s]+:[0-9]{1,5}$"))
    )]
    pub bootstrap_servers: Vec<String>,
    /// Consumer group of inbound routes. Kafka keeps under this name how far the Bridge has come; with another name it
    /// begins anew. Default: `eventmesh-<namespace>-<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub group: Option<String>,
    /// Where a new consumer group begins: Earliest, with what is stored; Latest, with what comes after its first start.
    /// Topics that appear later are read from their beginning. Default: Earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<KafkaStart>,
    /// User name and password (SASL). Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<KafkaCredentials>,
    /// Connect with TLS; `{}` trusts the public authorities. Default: without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
}

/// Where a new consumer group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KafkaStart {
    Earliest,
    Latest,
}

/// User name and password at Kafka.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaCredentials {
    /// Secret of this namespace with the keys `username` and `password`. A change is taken up without a restart of the pods.
    pub secret: LocalRef,
    /// How they are shown: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. Default: SCRAM-SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<KafkaMechanism>,
}

/// SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KafkaMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// TLS towards Kafka.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaTls {
    /// Secret of this namespace with the key `ca.crt` (authorities to trust) and, for a client certificate, `tls.crt` and
    /// `tls.key`. Default: the public authorities, and no client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalRef>,
}

impl KafkaEndpoint {
    pub(super) fn secret_names(&self) -> Vec<&str> {
        let credentials = self.credentials.iter().map(|credentials| credentials.secret.name.as_str());
        let tls = self.tls.iter().filter_map(|tls| Some(tls.secret.as_ref()?.name.as_str()));
        credentials.chain(tls).collect()
    }
}
