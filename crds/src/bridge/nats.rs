//! Another NATS system as endpoint of a Bridge.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::EndpointTls;
use crate::common::LocalRef;

/// Another NATS system: one server, or the servers of one cluster, of any version from 2.10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.urls.all(u, u.startsWith('tls://')) || self.urls.all(u, u.startsWith('nats://'))")
        .message("all `urls` must begin with tls://, or all with nats://"),
    validation = Rule::new("!has(self.tls) || self.urls.all(u, u.startsWith('tls://'))").message("`tls` needs urls that begin with tls://"),
    validation = Rule::new("!has(self.tls) || !has(self.tls.serverName)")
        .message("`tls.serverName` cannot be set for nats: the name in the certificate must be the host of the url"),
)]
#[serde(rename_all = "camelCase")]
pub struct NatsEndpoint {
    /// Addresses, `nats://host:4222` or, with TLS, `tls://host:4222`. Several are servers of one cluster; one of them is used.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 7, max = 512), regex(pattern = r"^(nats|tls)://[^/@\s]+$"))
    )]
    pub urls: Vec<String>,
    /// As whom the bridge signs in. Default: as nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<NatsCredentials>,
    /// Certificates of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
    /// Take events from streams and store them in streams, each acknowledged; `{}` is enough. Default: plain publish and
    /// subscribe, where nothing is acknowledged and `delivery.guarantee` must be AtMostOnce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jetstream: Option<NatsJetStream>,
}

/// Credentials of a NATS user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatsCredentials {
    /// Secret of this namespace with exactly one of: the key `user.creds` (a credentials file), the keys `username` and
    /// `password`, the key `token`, or the key `seed` (of an NKey, SU…).
    pub secret: LocalRef,
}

/// Streams at the other side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatsJetStream {
    /// The JetStream domain to use, where the streams are in another than the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[^.*>\s/\\]+$"))]
    pub domain: Option<String>,
    /// The stream that inbound routes read. Default: for each route the one that stores its `from`, which takes the right to
    /// list streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^.*>\s/\\]+$"))]
    pub stream: Option<String>,
}

impl NatsEndpoint {
    pub(super) fn secret_names(&self) -> Vec<&str> {
        let credentials = self.credentials.iter().map(|credentials| credentials.secret.name.as_str());
        credentials.chain(self.tls.iter().map(|tls| tls.secret.name.as_str())).collect()
    }
}
