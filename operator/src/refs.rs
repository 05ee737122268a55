//! References from one object to another: what they lead to, and whether they may be used. Reads the cache only.

use std::{collections::BTreeMap, sync::Arc};

use eventmesh_crds::{
    EventMesh,
    common::MeshRef,
    conditions::{ConditionType, Reason, Verdict},
    mesh::AllowedFrom,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    core::{Selector, SelectorExt},
    runtime::reflector::ObjectRef,
};

use crate::{
    broker::{MeshBroker, MeshKey},
    cache::{Cache, mesh_key},
    engine::Context,
};

/// A mesh that a reference leads to and that may be used.
pub struct ResolvedMesh {
    pub key: MeshKey,
    pub mesh: Arc<EventMesh>,
    /// The brokers, when there is a connection and the view of them is complete.
    pub broker: Option<Arc<MeshBroker>>,
    /// The operator has only just started and is not connected yet.
    pub starting: bool,
}

impl ResolvedMesh {
    /// Number of brokers that the mesh asks for.
    #[must_use]
    pub fn brokers(&self) -> i32 {
        self.mesh.spec.brokers.count()
    }

    /// Whether the mesh's own spec tells the operator to leave everything as it is.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.mesh.spec.paused == Some(true)
    }
}

/// Whether a pass should leave the status as it is: the operator has just started, and an earlier process has told all
/// there is to tell of this generation.
#[must_use]
pub fn is_too_early(mesh: &Result<ResolvedMesh, MeshProblem>, generation: Option<i64>, observed: Option<i64>) -> bool {
    mesh.as_ref().is_ok_and(|mesh| mesh.starting) && observed.is_some() && observed == generation
}

/// Why a mesh cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshProblem {
    NotFound(MeshKey),
    Deleted(MeshKey),
    NotPermitted { mesh: MeshKey, namespace: String },
}

impl MeshProblem {
    /// The condition that tells of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let (reason, message) = match self {
            Self::NotFound(mesh) => (Reason::MeshNotFound, format!("EventMesh {mesh} does not exist; waiting for it")),
            Self::Deleted(mesh) => (Reason::MeshDeleted, format!("EventMesh {mesh} is being deleted")),
            Self::NotPermitted { mesh, namespace } => (
                Reason::RefNotPermitted,
                format!(
                    "EventMesh {mesh} does not let namespace {namespace} in; its owner can add it to spec.allowedNamespaces"
                ),
            ),
        };
        Verdict::bad(ConditionType::ResolvedRefs, reason, message)
    }

    /// Whether the mesh is gone for good, so that nothing in its brokers needs to be undone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::Deleted(_))
    }
}

/// Follows a reference to a mesh from an object of `namespace`.
pub fn resolve_mesh(context: &Context, reference: &MeshRef, namespace: &str) -> Result<ResolvedMesh, MeshProblem> {
    let key = mesh_key(reference, namespace);
    let Some(mesh) = context.cache.mesh(&key) else { return Err(MeshProblem::NotFound(key)) };
    if mesh.metadata.deletion_timestamp.is_some() {
        return Err(MeshProblem::Deleted(key));
    }
    if !lets_in(&context.cache, &mesh, &key, namespace) {
        return Err(MeshProblem::NotPermitted { mesh: key, namespace: namespace.to_owned() });
    }
    let broker = context.brokers.get(&key).filter(|broker| broker.is_ready());
    let starting = context.brokers.is_starting(&key);
    Ok(ResolvedMesh { key, mesh, broker, starting })
}

/// Whether a mesh lets a namespace in.
pub fn lets_in(cache: &Cache, mesh: &EventMesh, key: &MeshKey, namespace: &str) -> bool {
    is_permitted(mesh, key, namespace, || labels_of(cache, namespace))
}

fn labels_of(cache: &Cache, namespace: &str) -> BTreeMap<String, String> {
    let namespace = cache.namespaces.get(&ObjectRef::new(namespace));
    namespace.and_then(|namespace| namespace.metadata.labels.clone()).unwrap_or_default()
}

/// Whether a mesh lets a namespace with these labels in.
pub fn is_permitted(
    mesh: &EventMesh,
    key: &MeshKey,
    namespace: &str,
    labels: impl FnOnce() -> BTreeMap<String, String>,
) -> bool {
    if key.namespace == namespace {
        return true;
    }
    let Some(allowed) = &mesh.spec.allowed_namespaces else { return false };
    match allowed.from {
        AllowedFrom::Same => false,
        AllowedFrom::All => true,
        AllowedFrom::Selector => allowed.selector.as_ref().is_some_and(|selector| matches(selector, &labels())),
    }
}

/// An unreadable selector matches nothing: consent is never guessed.
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case(json!(null), "platform", true)]
    #[case(json!(null), "shop", false)]
    #[case(json!({"from": "Same"}), "shop", false)]
    #[case(json!({"from": "All"}), "shop", true)]
    #[case(json!({"from": "Selector", "selector": {"matchLabels": {"events": "yes"}}}), "shop", true)]
    #[case(json!({"from": "Selector", "selector": {"matchLabels": {"events": "no"}}}), "shop", false)]
    #[case(json!({"from": "Selector", "selector": {"matchLabels": {"events": "no"}}}), "platform", true)]
    #[case(json!({"from": "Selector", "selector": {"matchExpressions": [{"key": "events", "operator": "In", "values": ["yes"]}]}}), "shop", true)]
    fn consent(#[case] allowed: Value, #[case] namespace: &str, #[case] expected: bool) {
        let mesh: EventMesh = serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
            "metadata": {"name": "retail", "namespace": "platform"},
            "spec": {"brokers": {}, "allowedNamespaces": allowed},
        }))
        .expect("a mesh");
        let key = MeshKey { namespace: "platform".into(), name: "retail".into() };
        let labels = || BTreeMap::from([("events".to_owned(), "yes".to_owned())]);
        assert_eq!(is_permitted(&mesh, &key, namespace, labels), expected);
    }
}
