//! The brokers that the others count on, kept where each looks before it starts on an empty volume.

use std::collections::BTreeSet;

use eventmesh_wire::volume;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::{
    build::{self, names},
    validate::ValidMesh,
};
use crate::engine::{Context, Error, apply};

/// Those that are listed. A list of another mesh that had this name is emptied, before any pod of this one can read it.
pub async fn read(context: &Context, mesh: &ValidMesh) -> Result<BTreeSet<String>, Error> {
    let nobody = BTreeSet::new();
    if mesh.replicas == 1 {
        return Ok(nobody);
    }
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), &mesh.key.namespace);
    let found = api.get_opt(&names::members(&mesh.key.name)).await;
    let Some(found) = found.map_err(Error::kubernetes("read which brokers are counted on"))? else { return Ok(nobody) };
    if found.owner_references().iter().any(|owner| owner.uid == mesh.owner.uid) {
        let file = found.data.as_ref().and_then(|data| data.get(volume::MEMBERS_FILE));
        return Ok(file.map_or(nobody, |file| volume::read(file)));
    }
    write(context, mesh, &nobody).await?;
    Ok(nobody)
}

pub async fn write(context: &Context, mesh: &ValidMesh, members: &BTreeSet<String>) -> Result<(), Error> {
    apply::child(&context.client, &build::members(mesh, members)).await.map(drop)
}
