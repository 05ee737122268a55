//! What those who connect to a mesh trust: part of every party's credentials and of every bridge's configuration.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::{
    broker::MeshKey,
    engine::{Context, Error},
    mesh::{build::names, certificates::Stored},
};

/// The authorities in PEM, once the mesh controller has made them.
pub async fn read(context: &Context, mesh: &MeshKey) -> Result<Option<String>, Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &mesh.namespace);
    let secret = secrets.get_opt(&names::broker_tls(&mesh.name)).await;
    let secret = secret.map_err(Error::kubernetes("read what a mesh is trusted by"))?;
    Ok(secret.and_then(|secret| Stored::read(&secret.data.unwrap_or_default()).authority))
}
