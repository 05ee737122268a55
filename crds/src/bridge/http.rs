//! The HTTP endpoint of a Bridge.

use std::collections::BTreeMap;

use kube::{KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EndpointTls;
use crate::{
    common::{LocalRef, duration_schema},
    mesh::Expose,
    quantity::ByteQuantity,
};

/// HTTP/1.1; exactly one of `listen` and `target`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.listen) != has(self.target)").message("exactly one of `listen` and `target` must be set"),
)]
#[serde(rename_all = "camelCase")]
pub struct HttpEndpoint {
    /// Others send events to the bridge: CloudEvents (binary, structured, batch) or any webhook, by POST or PUT. Inbound
    /// routes only; their `from` is a path such as `/orders/*`, where `*` stands for one segment and `**`, at the end, for
    /// any number. The address is in `status.endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<HttpListen>,
    /// The bridge sends each event to others as a CloudEvents POST. Outbound routes only; their `to` is a path that is
    /// appended to the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<HttpTarget>,
}

impl HttpEndpoint {
    /// The Secrets that it names.
    pub(super) fn secret_names(&self) -> Vec<&str> {
        let mut refs: Vec<&LocalRef> = Vec::new();
        if let Some(listen) = &self.listen {
            refs.extend(listen.tls.iter().map(|tls| &tls.secret));
            refs.extend(listen.authentication.secret());
        }
        if let Some(target) = &self.target {
            refs.extend(target.tls.iter().map(|tls| &tls.secret));
            refs.extend(target.authentication.iter().filter_map(HttpTargetAuthentication::secret));
            refs.extend(target.signing.iter().chain(&target.secret_headers).map(|source| &source.secret));
        }
        refs.into_iter().map(|reference| reference.name.as_str()).collect()
    }
}

/// A way in: port 80 of the Service `<bridge>-bridge`, 443 with `tls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpListen {
    /// Type of the Service that exposes the listener. Default: ClusterIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Expose>,
    /// Serve HTTPS. Default: plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HttpListenTls>,
    /// Who may send. There is no default; `none: {}` lets everyone in who reaches the port.
    pub authentication: HttpAuthentication,
    /// The largest body of a request; larger ones are answered with 413. Never more than the mesh takes. Default: 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<ByteQuantity>,
    /// Events that are taken, of each bridge pod; what is above is answered with 429. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<HttpRateLimit>,
    /// How long a request waits for the mesh to store its events before it is answered with 503. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub answer_within: Option<Duration>,
}

/// Certificates of a listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpListenTls {
    /// Secret of this namespace with the keys `tls.crt` and `tls.key`. A renewed one is taken up without a restart.
    pub secret: LocalRef,
    /// Clients must show a certificate of an authority in the key `ca.crt` of the Secret. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_client_certificate: Option<bool>,
}

/// How a listener knows who sends; exactly one. Of several values in a Secret each is good, so that a new one can take an
/// old one's place without a pause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("[has(self.none), has(self.bearer), has(self.basic), has(self.standardWebhooks), has(self.github)].filter(set, set).size() == 1")
        .message("exactly one of `none`, `bearer`, `basic`, `standardWebhooks` and `github` must be set"),
)]
#[serde(rename_all = "camelCase")]
pub struct HttpAuthentication {
    /// Whoever reaches the port may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<NoAuthentication>,
    /// `Authorization: Bearer <token>`. Each key of the Secret that begins with `token` holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<SecretSource>,
    /// `Authorization: Basic …`. The key `username` of the Secret, and each key that begins with `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<SecretSource>,
    /// Requests are signed as Standard Webhooks says (standardwebhooks.com). Each key of the Secret that begins with
    /// `secret` holds one, `whsec_…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_webhooks: Option<SecretSource>,
    /// Requests are signed as GitHub does, `X-Hub-Signature-256`. Each key of the Secret that begins with `secret` holds
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub github: Option<SecretSource>,
}

impl HttpAuthentication {
    fn secret(&self) -> Option<&LocalRef> {
        let all = [&self.bearer, &self.basic, &self.standard_webhooks, &self.github];
        all.into_iter().flatten().next().map(|source| &source.secret)
    }
}

/// Nothing is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoAuthentication {}

/// Values that are in a Secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// Secret of this namespace.
    pub secret: LocalRef,
}

/// A limit of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRateLimit {
    /// Events a second.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_second: i32,
    /// Events that may come at once after a silence. Default: as many as in one second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<i32>,
}

/// A server that takes events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.tls) || self.url.startsWith('https://')").message("`tls` needs a url that begins with https://"),
)]
#[serde(rename_all = "camelCase")]
pub struct HttpTarget {
    /// Address, `https://host[:port][/path]` or `http://…`, without credentials and without a query.
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^https?://[^@?#\s]+$"))]
    pub url: String,
    /// Binary: attributes become `ce-` headers and data the body. Structured: the event is one JSON document. Default: Binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<HttpMode>,
    /// Certificates of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
    /// How the bridge shows who it is. Default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<HttpTargetAuthentication>,
    /// Sign each request as Standard Webhooks says (standardwebhooks.com), once with each key of the Secret that begins with
    /// `secret` and holds `whsec_…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<SecretSource>,
    /// Headers of each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: Option<BTreeMap<String, String>>,
    /// Headers whose values nobody should see, an API key for example: each key of the Secret is the name of a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_headers: Option<SecretSource>,
    /// How long one request may take. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,
    /// Requests of each bridge pod that may be under way at once. Default: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrency: Option<i32>,
    /// Events that each bridge pod sends. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<HttpRateLimit>,
}

/// How an event becomes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HttpMode {
    Binary,
    Structured,
}

/// How the bridge shows a target who it is; exactly one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.bearer) != has(self.basic)").message("exactly one of `bearer` and `basic` must be set"),
)]
#[serde(rename_all = "camelCase")]
pub struct HttpTargetAuthentication {
    /// The key `token` of the Secret, as `Authorization: Bearer <token>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<SecretSource>,
    /// The keys `username` and `password` of the Secret, as `Authorization: Basic …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<SecretSource>,
}

impl HttpTargetAuthentication {
    fn secret(&self) -> Option<&LocalRef> {
        self.bearer.as_ref().or(self.basic.as_ref()).map(|source| &source.secret)
    }
}
