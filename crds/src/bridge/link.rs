//! The far side of a link of the mesh as endpoint of a Bridge.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The mesh at the other side of a link, for copies of Topics that it may keep: one for each outbound route, whose
/// `from` names the Topic. At the other side, a Topic with `spec.mirror` holds the copy. The Bridge must be in the
/// namespace of its mesh, whose owner decides what leaves over links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkEndpoint {
    /// Name of the link in the `links` of the mesh.
    #[schemars(length(min = 1, max = 32))]
    pub name: String,
}
