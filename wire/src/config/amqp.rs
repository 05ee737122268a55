//! An AMQP broker as endpoint.

use serde::{Deserialize, Serialize};

use super::TlsConfig;
use crate::secret::Secret;

/// An AMQP broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AmqpEndpoint {
    /// `amqp://host[:port]` (5672) or `amqps://host[:port]` (5671); for 0-9-1 with the virtual host behind it, `/` where
    /// there is none.
    pub url: String,
    pub version: AmqpVersion,
    /// Without it a client certificate says who the bridge is, or nobody is asked (ANONYMOUS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// After twice this time without a sign of life each side takes the other for dead.
    #[serde(default = "default_heartbeat")]
    pub heartbeat_seconds: u16,
    /// Events of an inbound route that the broker gives before one is acknowledged. Absent: `delivery.maxInFlight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

fn default_heartbeat() -> u16 {
    30
}

/// Two protocols that have little but the name in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AmqpVersion {
    V091,
    V1,
}
