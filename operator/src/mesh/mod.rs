//! The EventMesh controller: the brokers of a mesh as a StatefulSet and what belongs to it.

mod apply;
pub mod build;
mod credentials;
mod resolve;
mod status;
mod validate;

use std::sync::Arc;

use eventmesh_crds::EventMesh;

use crate::{
    broker::{ConnectSpec, MeshKey},
    cache::namespaced,
    engine::{Context, Controller, Error, Outcome},
};

pub use credentials::Credentials;
pub use resolve::read_credentials;

pub struct MeshController {
    context: Arc<Context>,
}

impl MeshController {
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Controller for MeshController {
    type Object = EventMesh;
    const NAME: &'static str = "mesh";

    async fn reconcile(&self, mesh: Arc<EventMesh>) -> Result<Outcome, Error> {
        let context = &*self.context;
        if mesh.metadata.deletion_timestamp.is_some() {
            // Kubernetes deletes the children; the volumes stay or go as the StatefulSet says.
            return Ok(Outcome::Done);
        }
        if mesh.spec.paused == Some(true) {
            status::write(context, &mesh, status::paused()).await?;
            return Ok(Outcome::Settled);
        }
        let resolved = resolve::run(context, &mesh).await?;
        let valid = match validate::run(&mesh, &context.images.broker) {
            Ok(valid) => valid,
            Err(verdict) => {
                status::write(context, &mesh, status::rejected(verdict)).await?;
                return Ok(Outcome::Rejected);
            }
        };
        // On the heap: together these objects are larger than a task should carry.
        let desired = Box::new(build::run(&valid, &resolved.credentials));
        let applied = Box::pin(apply::run(context, &desired)).await?;
        connect(context, &mesh, &resolved.credentials).await?;
        let observed = mesh.status.as_ref().and_then(|status| status.observed_generation);
        if context.brokers.is_starting(&valid.key) && observed.is_some() && observed == mesh.metadata.generation {
            return Ok(Outcome::Progressing);
        }
        status::write(context, &mesh, status::programmed(context, &mesh, &applied)).await?;
        Ok(Outcome::Settled)
    }
}

async fn connect(context: &Context, mesh: &EventMesh, credentials: &Credentials) -> Result<(), Error> {
    let (namespace, name) = namespaced(mesh);
    let key = MeshKey { namespace, name };
    let spec = ConnectSpec {
        address: build::names::address(&context.broker_address, &key),
        user: credentials.operator.user.clone(),
        password: credentials.operator.password.clone(),
        system_user: credentials.system.user.clone(),
        system_password: credentials.system.password.clone(),
    };
    context.brokers.ensure(&key, spec).await.map_err(Error::broker("connect to the brokers"))?;
    context.metrics.meshes(context.brokers.len());
    Ok(())
}
