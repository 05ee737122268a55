//! The writes on the way to larger volumes.

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use serde_json::json;
use tracing::info;

use super::plan::Step;
use crate::{
    engine::{Context, Error},
    mesh::{build::names, validate::ValidMesh},
};

/// Returns why Kubernetes refuses it.
pub async fn run(context: &Context, mesh: &ValidMesh, step: &Step) -> Result<Option<String>, Error> {
    match step {
        Step::Settled | Step::Refused(_) | Step::Wait(_) | Step::Later => Ok(None),
        Step::Ask(claims) => ask(context, mesh, claims).await,
        Step::Replace(uid) => release(context, mesh, uid).await.map(|()| None),
    }
}

async fn ask(context: &Context, mesh: &ValidMesh, claims: &[String]) -> Result<Option<String>, Error> {
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &mesh.key.namespace);
    let patch = json!({"spec": {"resources": {"requests": {"storage": mesh.storage_size.as_str()}}}});
    for name in claims {
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => info!(mesh = %mesh.key, claim = name, size = %mesh.storage_size, "asked for a larger volume"),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                return Ok(Some(format!("claim {name} cannot grow: {}", status.message)));
            }
            Err(error) => return Err(Error::kubernetes("ask for a larger volume")(error)),
        }
    }
    Ok(None)
}

/// Deletes the StatefulSet and leaves its pods: what is applied next takes them over.
async fn release(context: &Context, mesh: &ValidMesh, uid: &str) -> Result<(), Error> {
    let api = Api::<StatefulSet>::namespaced(context.client.clone(), &mesh.key.namespace);
    // A later one of the same name has the new size already.
    let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    let propagation_policy = Some(PropagationPolicy::Orphan);
    let params = DeleteParams { propagation_policy, preconditions, ..DeleteParams::default() };
    match api.delete(&names::brokers(&mesh.key.name), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::kubernetes("release the brokers from their StatefulSet")(error)),
    }
}
