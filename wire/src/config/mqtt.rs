//! An MQTT broker as endpoint.

use serde::{Deserialize, Serialize};

use super::TlsConfig;
use crate::secret::Secret;

/// An MQTT broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MqttEndpoint {
    /// `mqtt://host[:port]` (1883) or `mqtts://host[:port]` (8883).
    pub url: String,
    #[serde(default)]
    pub version: MqttVersion,
    /// Names the session that the broker keeps while the bridge is away. Unique at that broker, and stable.
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(default = "default_keep_alive")]
    pub keep_alive_seconds: u16,
    /// How long the broker keeps the session of a bridge that is away. MQTT 5 only: 3.1.1 leaves it to the broker.
    #[serde(default = "default_session_expiry")]
    pub session_expiry_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

fn default_keep_alive() -> u16 {
    30
}

fn default_session_expiry() -> u32 {
    7 * 24 * 3600
}

/// The protocol's version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MqttVersion {
    #[default]
    V5,
    V311,
}
