//! Another NATS system as endpoint.

use serde::{Deserialize, Serialize};

use super::TlsConfig;
use crate::secret::Secret;

/// Another NATS system: one server, or the servers of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatsEndpoint {
    /// `nats://host[:port]` or `tls://host[:port]` (4222), at least one, and all of one kind.
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<NatsCredentials>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Events are taken from streams, and stored in streams, each acknowledged. Absent: plain publish and subscribe, where
    /// nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jetstream: Option<NatsJetStream>,
}

/// As whom; exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum NatsCredentials {
    /// The text of a credentials file: a token and the seed of its key.
    Creds(Secret),
    Login {
        username: String,
        password: Secret,
    },
    Token(Secret),
    /// The seed of a user's key.
    Nkey(Secret),
}

/// Streams at the other side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatsJetStream {
    /// The `JetStream` domain to use, where it is another than that of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The stream that inbound routes read. Absent: the one that stores the subjects of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

impl NatsJetStream {
    /// What subjects of its API begin with.
    #[must_use]
    pub fn api(&self) -> String {
        self.domain.as_ref().map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"))
    }
}
