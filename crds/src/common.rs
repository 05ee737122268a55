//! Types that several kinds share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{KubeSchema, core::Duration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Names an `EventMesh`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshRef {
    /// Name of the EventMesh.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Namespace of the EventMesh. Default: the namespace of the object that holds this reference. An EventMesh of
    /// another namespace must let this namespace in by its `allowedNamespaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// Names an object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names an object that may be of another namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the object. Default: the namespace of the object that holds this reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

impl NamespacedRef {
    /// The namespace that is meant, seen from an object of `own`.
    #[must_use]
    pub fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

/// What happens to stored events when the object is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The stream and its events stay in the broker. The same object applied again finds them.
    Retain,
    /// The stream and all its events are deleted.
    Delete,
    /// The stream is deleted when it holds no event, else it stays.
    DeleteIfEmpty,
}

/// Schema of a duration in Go's notation, with the units that make sense here.
pub(crate) fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,9}(\\.[0-9]{1,9})?(ms|s|m|h))+$",
    })
}

/// The length of a duration; a sign, which the schema refuses, is ignored.
#[must_use]
pub fn std_duration(duration: &Duration) -> std::time::Duration {
    (*duration).into()
}

/// Schema of the `conditions` list: a map keyed by `type`, so that server-side apply merges by condition.
pub(crate) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
