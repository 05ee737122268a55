//! Writing to Kubernetes: server-side apply with the operator's own field manager, children and statuses.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::error::{Error, is_not_found};

/// The operator's field manager.
pub const FIELD_MANAGER: &str = "eventmesh-operator";

fn parameters() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

/// Makes a child what it should be; returns it as the API server has it.
pub async fn child<K>(client: &Client, child: &K) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync,
{
    let api = Api::<K>::namespaced(client.clone(), &child.namespace().unwrap_or_default());
    api.patch(&child.name_any(), &parameters(), &Patch::Apply(child)).await.map_err(Error::kubernetes("apply a child"))
}

/// Deletes a child; one that is not there counts as deleted.
pub async fn delete<K>(client: &Client, namespace: &str, name: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::kubernetes("delete a child")(error)),
    }
}

/// Writes a status, if it differs from the one the object shows. Returns whether it wrote.
pub async fn status<K, S>(client: &Client, object: &K, before: Option<&S>, status: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    S: Serialize + PartialEq + Sync,
{
    // The uid makes the write fail instead of reaching a new object of the same name.
    write_status(client, object, before, status, &json!({ "uid": object.uid() })).await
}

/// The same for a status that carries on what the object shows: fails when the object has changed since it was read.
pub async fn status_over<K, S>(client: &Client, object: &K, before: Option<&S>, status: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    S: Serialize + PartialEq + Sync,
{
    let metadata = json!({ "uid": object.uid(), "resourceVersion": object.resource_version() });
    write_status(client, object, before, status, &metadata).await
}

async fn write_status<K, S>(
    client: &Client,
    object: &K,
    before: Option<&S>,
    status: &S,
    metadata: &Value,
) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    S: Serialize + PartialEq + Sync,
{
    if before == Some(status) {
        return Ok(false);
    }
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "status": status,
    });
    match api.patch_status(&object.name_any(), &parameters(), &Patch::Apply(&patch)).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(Error::kubernetes("write the status")(error)),
    }
}

/// The reference that makes Kubernetes delete a child with its owner.
#[must_use]
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
