//! `spec.tls` of an `EventMesh`: where the certificates of the brokers come from and how long they last.

use kube::{KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{LocalRef, duration_schema, std_duration};

/// Where the certificates of the brokers come from. TLS is on unless `issuer` is Disabled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.issuerRef) == (has(self.issuer) && self.issuer == 'CertManager')")
        .message("`issuerRef` must be set when `issuer` is CertManager, and only then"),
    validation = Rule::new("has(self.secret) == (has(self.issuer) && self.issuer == 'Secret')")
        .message("`secret` must be set when `issuer` is Secret, and only then"),
    validation = Rule::new("!has(self.certificateLifetime) || duration(self.certificateLifetime) >= duration('1m')")
        .message("certificateLifetime must be at least 1m"),
    validation = Rule::new("!has(self.caLifetime) || duration(self.caLifetime) >= duration('1m')")
        .message("caLifetime must be at least 1m"),
    validation = Rule::new("!has(self.caOverlap) || duration(self.caOverlap) >= duration('1s')")
        .message("caOverlap must be at least 1s"),
    validation = Rule::new("duration(has(self.caLifetime) ? self.caLifetime : '87600h').getSeconds() >= 6 * duration(has(self.caOverlap) ? self.caOverlap : '24h').getSeconds()")
        .message("caLifetime must be at least six times caOverlap (default 24h): the last third of an authority's life holds two overlaps"),
)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Who signs what the brokers show to clients. Default: Managed.
    ///
    /// Managed: the operator keeps an authority for this mesh and renews everything. CertManager: an Issuer of
    /// cert-manager. Secret: a certificate that you put into a Secret and renew there. Disabled: no TLS for clients,
    /// listeners and monitoring; passwords and events cross the network in the clear.
    ///
    /// Connections among the brokers use mutual TLS with an authority of the mesh's own, whatever is set here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<TlsIssuer>,
    /// The issuer that cert-manager asks. It must put its authority's certificate into the Secret (`ca.crt`), as
    /// issuers of the kinds CA, SelfSigned and Vault do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<CertManagerIssuer>,
    /// The Secret, in the mesh's namespace, in the layout kubernetes.io/tls: `tls.crt`, `tls.key`, and `ca.crt` with
    /// the authority that clients trust. The certificate must be for `<mesh>-nats.<namespace>.svc`. A change is taken
    /// up without a restart; content that does not hold is told of in a condition and not taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalRef>,
    /// More DNS names and IP addresses that the certificates are for, such as those by which clients reach exposed
    /// listeners. Names of Services in the cluster, and addresses that a load balancer is given, are always in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 253), pattern(r"^(\*\.)?[A-Za-z0-9_:]([-A-Za-z0-9_.:]*[A-Za-z0-9:])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub server_names: Option<Vec<String>>,
    /// How long a certificate lasts that the operator signs, or asks cert-manager for. It is renewed when two thirds
    /// are over, without a restart. Default: 2160h (90 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub certificate_lifetime: Option<Duration>,
    /// How long the mesh's own authority lasts. When two thirds are over, the next one takes its place in steps; see
    /// `caOverlap`. To have it replaced now, change the annotation `eventmesh.dev/renew-ca` of the EventMesh.
    /// Default: 87600h (10 years).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub ca_lifetime: Option<Duration>,
    /// How long the next authority is trusted before it signs, and the old one after it has stopped. Clients that read
    /// `ca.crt` anew at least this often are never cut off. Default: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub ca_overlap: Option<Duration>,
}

const HOUR: u64 = 3600;

impl Tls {
    #[must_use]
    pub fn issuer(&self) -> TlsIssuer {
        self.issuer.unwrap_or(TlsIssuer::Managed)
    }

    #[must_use]
    pub fn certificate_lifetime(&self) -> std::time::Duration {
        or_hours(self.certificate_lifetime.as_ref(), 2160)
    }

    #[must_use]
    pub fn ca_lifetime(&self) -> std::time::Duration {
        or_hours(self.ca_lifetime.as_ref(), 87600)
    }

    #[must_use]
    pub fn ca_overlap(&self) -> std::time::Duration {
        or_hours(self.ca_overlap.as_ref(), 24)
    }
}

fn or_hours(asked: Option<&Duration>, hours: u64) -> std::time::Duration {
    asked.map_or(std::time::Duration::from_secs(hours * HOUR), std_duration)
}

/// Who signs what the brokers show to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsIssuer {
    /// The operator, with an authority of this mesh's own.
    Managed,
    /// An issuer of cert-manager.
    CertManager,
    /// You.
    Secret,
    /// Nobody: no TLS.
    Disabled,
}

impl TlsIssuer {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "Managed",
            Self::CertManager => "CertManager",
            Self::Secret => "Secret",
            Self::Disabled => "Disabled",
        }
    }
}

/// An issuer of cert-manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertManagerIssuer {
    /// Name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Issuer (of the mesh's namespace), ClusterIssuer, or a kind of an external issuer. Default: Issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,
    /// API group of an external issuer. Default: cert-manager.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub group: Option<String>,
}

/// The certificates of the brokers as they are now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesStatus {
    /// Who signed what clients see.
    pub issuer: String,
    /// Serial number of the certificate that clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When the certificate that clients see ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// When the mesh's own authority ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_not_after: Option<String>,
    /// Stable; or Introducing: the next authority is trusted beside the current one, which still signs; or Retiring:
    /// the next one signs, and the old one is still trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_phase: Option<String>,
}
