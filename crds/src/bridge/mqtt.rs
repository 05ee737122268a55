//! An MQTT broker as endpoint of a Bridge.

use kube::{KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Credentials, EndpointTls};
use crate::common::duration_schema;

/// An MQTT broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.tls) || self.url.startsWith('mqtts://')").message("`tls` needs a url that begins with mqtts://"),
)]
#[serde(rename_all = "camelCase")]
pub struct MqttEndpoint {
    /// Address, `mqtt://host:1883` or, with TLS, `mqtts://host:8883`.
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^mqtts?://[^/@\s]+$"))]
    pub url: String,
    /// Protocol version. Default: V5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<MqttVersion>,
    /// Client id, which names the persistent session at the broker. Default: `eventmesh-<namespace>-<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub client_id: Option<String>,
    /// Interval of keep-alive packets. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub keep_alive: Option<Duration>,
    /// How long the broker keeps the session, with the events in it, while the bridge is away (MQTT 5). Default: 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub session_expiry: Option<Duration>,
    /// User name and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Certificates of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
}

/// Version of the MQTT protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    V5,
    V311,
}

impl MqttEndpoint {
    pub(super) fn secret_names(&self) -> Vec<&str> {
        let credentials = self.credentials.iter().map(|credentials| credentials.secret.name.as_str());
        credentials.chain(self.tls.iter().map(|tls| tls.secret.name.as_str())).collect()
    }
}
