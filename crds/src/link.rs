//! Links of an `EventMesh` to other meshes.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{LocalRef, MeshRef};

/// A link to another mesh. What crosses it stands in the lists of both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Name of the link, unique in the mesh.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The other side.
    pub to: LinkTarget,
    /// Subjects whose events may leave this mesh over the link, when the other side imports them and wants them; `*` stands for
    /// one token, a final `>` for one or more. What another link of this mesh imports is passed on, and then the mesh's own
    /// events of these subjects stay here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub export: Vec<String>,
    /// Subjects whose events may come into this mesh over the link. A Topic must store them, or be live and grant somebody to hear
    /// them. A mesh imports a subject over one link only, so that no event can come twice or go round in a ring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub import: Vec<String>,
}

/// The other side of a link. Exactly one of the fields is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.mesh) != has(self.remote)").message("exactly one of `mesh` and `remote` must be set"))]
#[serde(rename_all = "camelCase")]
pub struct LinkTarget {
    /// A mesh of this cluster, which must have a link to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshRef>,
    /// A mesh of another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteMesh>,
}

/// A mesh of another cluster. `{}`: it dials this mesh, with the Secret `<mesh>-link-<link>` that the operator makes here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.urls) == has(self.secret)")
        .message("set `urls` and `secret` where this side dials, and neither where the other side does"),
)]
#[serde(rename_all = "camelCase")]
pub struct RemoteMesh {
    /// Leaf node listeners of the other side, such as `tls://mesh.example:7422`. This side dials one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 7, max = 512), regex(pattern = r#"^(nats|tls)://[^/@\s"\\]+$"#))
    )]
    pub urls: Option<Vec<String>>,
    /// A copy of the Secret `<mesh>-link-<link>` of the other side, in the namespace of this EventMesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalRef>,
}

/// How it stands with a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// Name of the link.
    pub name: String,
    /// Connected, Connecting, or the reason for which it cannot be.
    pub state: String,
    /// Since when the link is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Whether this side dials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dials: Option<bool>,
    /// Connections between brokers of the two sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<i64>,
    /// Round-trip time of the slowest connection, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_milliseconds: Option<i64>,
    /// Bytes of events that came over the connections that are open now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<i64>,
    /// Bytes of events that went over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<i64>,
    /// Why the last connection ended or came to nothing, in the brokers' words. Absent where none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Since when connections have ended for that reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_time: Option<String>,
    /// What is wrong and what to do, or what the link does not carry although its lists name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
