//! The Bridge controller: the pods of a Bridge, their configuration, and the consumers its outbound routes read from.

mod apply;
pub mod build;
mod endpoint;
mod lease;
pub mod resolve;
mod status;
mod validate;

use std::sync::Arc;

use eventmesh_crds::Bridge;

use crate::{
    engine::{Context, Controller, Error, Outcome},
    refs::is_too_early,
    service_mesh,
};

pub struct BridgeController {
    context: Arc<Context>,
}

impl BridgeController {
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Controller for BridgeController {
    type Object = Bridge;
    const NAME: &'static str = "bridge";

    async fn reconcile(&self, bridge: Arc<Bridge>) -> Result<Outcome, Error> {
        let context = &*self.context;
        if bridge.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let resolved = resolve::run(context, &bridge).await?;
        let observed = bridge.status.as_ref().and_then(|status| status.observed_generation);
        if is_too_early(&resolved.mesh, bridge.metadata.generation, observed) {
            return Ok(Outcome::Progressing);
        }
        let (stopped, config_hash) = match validate::run(&bridge, &resolved) {
            // A bad spec never replaces a good one that runs: what was applied before stays.
            Err(stopped) => (stopped, None),
            Ok(mut valid) => {
                let setting = resolved.mesh.as_ref().map(|mesh| mesh.mesh.spec.service_mesh()).unwrap_or_default();
                let proxies = context.cache.proxies(setting, &valid.namespace);
                service_mesh::keep_out(&mut valid.pod_template, proxies);
                let desired = build::run(&valid, &context.images.bridge);
                (apply::run(context, &bridge, &valid, &desired).await?, Some(desired.config_hash))
            }
        };
        status::write(context, &bridge, stopped.verdicts, config_hash.as_deref()).await?;
        Ok(stopped.outcome)
    }
}
