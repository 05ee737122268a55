//! The finalizer of an object: put only while something outside garbage collection must be undone.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::error::{Error, is_not_found};

/// The finalizer of all kinds.
pub const FINALIZER: &str = "eventmesh.dev/cleanup";

#[must_use]
pub fn has<K: ResourceExt>(object: &K) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Puts or takes away the finalizer, if that is a change.
pub async fn set<K>(client: &Client, object: &K, wanted: bool) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    if has(object) == wanted {
        return Ok(());
    }
    let mut finalizers = object.finalizers().to_vec();
    if wanted {
        finalizers.push(FINALIZER.to_owned());
    } else {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    // The resource version makes the API server refuse when somebody changed the list in between.
    let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": object.resource_version() } });
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::kubernetes("set the finalizer")(error)),
    }
}
