//! What an EventMesh refers to. Everything but the credentials is in the cache.

use eventmesh_crds::EventMesh;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::{Credentials, build::names};
use crate::{
    broker::MeshKey,
    cache::namespaced,
    engine::{Context, Error},
};

/// Everything a pass over an EventMesh reads.
pub struct Resolved {
    pub credentials: Credentials,
}

pub async fn run(context: &Context, mesh: &EventMesh) -> Result<Resolved, Error> {
    let (namespace, name) = namespaced(mesh);
    let found = read_credentials(context, &MeshKey { namespace, name }).await?;
    Ok(Resolved { credentials: found.unwrap_or_else(|| Credentials::complete(&std::collections::BTreeMap::new())) })
}

/// The credentials of a mesh, once the mesh controller has made them.
pub async fn read_credentials(context: &Context, mesh: &MeshKey) -> Result<Option<Credentials>, Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &mesh.namespace);
    let secret = secrets.get_opt(&names::brokers(&mesh.name)).await;
    let secret = secret.map_err(Error::kubernetes("read the credentials of the mesh"))?;
    Ok(secret.map(|secret| Credentials::complete(&secret.data.unwrap_or_default())))
}
