//! The HTTP endpoint: either a listener that takes events in, or a target that events are sent to.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::TlsConfig;
use crate::secret::Secret;
use crate::validate::{Scheme, parse_url};

/// How many bytes the body of a request may have, where nothing else is said.
pub const DEFAULT_MAX_BODY: u32 = 1024 * 1024;

/// HTTP/1.1; exactly one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpEndpoint {
    /// Others send events to the bridge.
    Listen(HttpListen),
    /// The bridge sends events to others.
    Target(HttpTarget),
}

/// A port on which the bridge takes events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpListen {
    #[serde(default = "default_port")]
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HttpServerTls>,
    /// Who may send. There is no default: a listener that is open to everyone says so.
    pub authentication: HttpAuthentication,
    /// The largest body of a request; never more than the mesh takes as one event.
    #[serde(default = "default_max_body")]
    pub max_body_bytes: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How long a request may wait for the mesh before it is answered with 503.
    #[serde(default = "default_answer_within")]
    pub answer_within_ms: u32,
}

fn default_port() -> u16 {
    8081
}

fn default_max_body() -> u32 {
    DEFAULT_MAX_BODY
}

fn default_answer_within() -> u32 {
    10_000
}

/// TLS of a listener, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpServerTls {
    pub cert_pem: String,
    pub key_pem: Secret,
    /// Whose certificates a client must show; absent: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_pem: Option<String>,
}

/// How a listener knows who sends. Of several values each is good, so that one can take another's place without a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpAuthentication {
    /// Whoever reaches the port may send.
    None {},
    /// `Authorization: Bearer <token>` (RFC 6750).
    Bearer { tokens: Vec<Secret> },
    /// `Authorization: Basic …` (RFC 7617).
    Basic { username: String, passwords: Vec<Secret> },
    /// Each request is signed as <https://www.standardwebhooks.com> says: HMAC-SHA256 with `whsec_…` secrets.
    StandardWebhooks { secrets: Vec<Secret> },
    /// Each request is signed as GitHub does: `X-Hub-Signature-256: sha256=<hex>`.
    Github { secrets: Vec<Secret> },
}

/// Events a second, and how many may come at once after a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    pub per_second: u32,
    pub burst: u32,
}

/// A server that takes events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpTarget {
    /// `http://host[:port][/path]` or `https://…`; the `to` of a route is appended to it.
    pub url: String,
    #[serde(default)]
    pub mode: HttpMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<HttpTargetAuthentication>,
    /// Signs each request as Standard Webhooks says, once with each secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_secrets: Vec<Secret>,
    /// Sent with each request. A value may be an API key, so none is ever shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// How long one request may take, from its first byte to the head of the answer.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u32,
    /// Requests on their way at once.
    #[serde(default = "default_concurrency")]
    pub max_concurrency: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

fn default_timeout() -> u32 {
    10_000
}

fn default_concurrency() -> u32 {
    64
}

/// How an event becomes a request (CloudEvents HTTP binding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpMode {
    /// Attributes are headers, data is the body.
    #[default]
    Binary,
    /// The whole event is one JSON document.
    Structured,
}

/// How the bridge shows a target who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpTargetAuthentication {
    Bearer { token: Secret },
    Basic { username: String, password: Secret },
}

/// The key in a `whsec_…` secret of Standard Webhooks.
///
/// # Errors
/// A sentence that says what is wrong, and shows nothing of the secret.
pub fn webhook_key(secret: &Secret) -> Result<Vec<u8>, &'static str> {
    let encoded = secret.expose().strip_prefix("whsec_").ok_or("must begin with whsec_")?;
    let key = BASE64.decode(encoded.as_bytes()).map_err(|_| "must be whsec_ and base64, with padding")?;
    if (24..=64).contains(&key.len()) { Ok(key) } else { Err("must hold 24 to 64 bytes") }
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Without a slash at its end; empty for the root.
    pub path: String,
}

const SCHEMES: [Scheme; 2] =
    [Scheme { name: "http", port: 80, tls: false }, Scheme { name: "https", port: 443, tls: true }];

impl HttpUrl {
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (address, path) = parse_url(url, &SCHEMES)?;
        let host_of = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if !address.host.bytes().all(host_of) && address.host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("`{url}` has a host that is neither a name nor an address"));
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
            return Err(format!("`{url}` has a path with a character that must be percent-encoded"));
        }
        let path = if path.is_empty() { String::new() } else { format!("/{}", path.trim_end_matches('/')) };
        Ok(Self { tls: address.tls, host: address.host, port: address.port, path })
    }

    /// Host and port as a URL has them.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    /// The URL without path.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://host", "http://host:80", "")]
    #[case("http://host/", "http://host:80", "")]
    #[case("https://host:8443/a/b/", "https://host:8443", "/a/b")]
    #[case("https://[::1]/x", "https://[::1]:443", "/x")]
    #[case("http://[fe80::1]:81", "http://[fe80::1]:81", "")]
    #[case("http://a_b.c-d:1/%20", "http://a_b.c-d:1", "/%20")]
    fn reads_urls(#[case] url: &str, #[case] origin: &str, #[case] path: &str) {
        let read = HttpUrl::parse(url).unwrap();
        assert_eq!((read.origin().as_str(), read.path.as_str()), (origin, path));
    }

    #[rstest]
    #[case("ftp://host")]
    #[case("http://")]
    #[case("http://u:p@host")]
    #[case("http://host:0")]
    #[case("http://host:99999")]
    #[case("http://host/a b")]
    #[case("http://host/?q")]
    #[case("http://host?q")]
    #[case("http://host/#f")]
    #[case("http://a:b:1")]
    #[case("http://[::1")]
    #[case("http://ho st")]
    fn refuses_urls(#[case] url: &str) {
        assert!(HttpUrl::parse(url).is_err(), "{url}");
    }

    #[rstest]
    #[case("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true)]
    #[case("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", false)]
    #[case("whsec_MfKQ9r8G", false)]
    #[case("whsec_not base64", false)]
    fn reads_webhook_secrets(#[case] secret: &str, #[case] good: bool) {
        assert_eq!(webhook_key(&secret.into()).is_ok(), good);
    }
}
