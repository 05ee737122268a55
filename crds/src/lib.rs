//! The Kubernetes API of the Event Mesh Operator, group `eventmesh.dev`, version `v1alpha1`.
//!
//! One file a kind. The doc comments of the fields are what `kubectl explain` shows, so they address the user. The
//! YAML in `crds/yaml/` is generated from these types and compared with them by a test. No I/O and no client here.

pub mod bridge;
pub mod common;
pub mod conditions;
pub mod link;
pub mod mesh;
pub mod quantity;
pub mod subscription;
pub mod tls;
pub mod topic;

pub use bridge::Bridge;
pub use mesh::EventMesh;
pub use subscription::Subscription;
pub use topic::Topic;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of all kinds.
pub const GROUP: &str = "eventmesh.dev";

/// The definitions of all kinds, in the order in which a user meets them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![EventMesh::crd(), Topic::crd(), Subscription::crd(), Bridge::crd()]
}
