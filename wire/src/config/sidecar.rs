//! What a sidecar is told: the file `sidecar.json` in the Secret of its ServiceAccount, beside the credentials.
//!
//! Where to connect and as whom is not repeated here; the other keys of that Secret say so (docs/identities.md). A binding
//! without this file, such as that of a client outside Kubernetes, is one without push subscriptions and with unknown rights.

use serde::{Deserialize, Serialize};

/// Name of the file, and key in the Secret.
pub const SIDECAR_FILE: &str = "sidecar.json";

/// The only version of the file there is.
pub const SIDECAR_VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarConfig {
    /// Always [`SIDECAR_VERSION`].
    pub version: u32,
    pub mesh: MeshName,
    /// The namespace and name of the ServiceAccount.
    pub namespace: String,
    pub service_account: String,
    /// Subject patterns that it may publish to, or send requests to. The brokers decide; this is here so that the sidecar can
    /// say why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Subscriptions whose events are pushed to the application.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub push: Vec<PushSubscription>,
}

/// Which mesh it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshName {
    pub namespace: String,
    pub name: String,
}

/// A Subscription whose events go to the application as `CloudEvents` over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PushSubscription {
    /// Name of the Subscription; it is in the ServiceAccount's namespace.
    pub name: String,
    pub stream: String,
    /// Its durable pull consumer. Tries are counted there: what was delivered `maxDeliver` times is given up by the broker.
    pub consumer: String,
    /// The application's port, at `127.0.0.1`.
    pub port: u16,
    /// Path of the request, with its `/`.
    pub path: String,
    /// Events that may be with the application at once.
    pub max_in_flight: u32,
    /// Waiting times before the second, third, ... delivery; the last one repeats. Empty: the sidecar's own, from 1 s to 1 min.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backoff_ms: Vec<u64>,
    /// Deliveries of an event; absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<u32>,
    /// How long the application may take to answer.
    pub timeout_ms: u64,
}
