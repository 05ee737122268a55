//! Deletion of a Bridge: the places of its outbound routes go, events stay. Never hangs on a mesh that is gone.

use eventmesh_crds::{
    Bridge,
    conditions::{ConditionType, Reason, Verdict},
};
use eventmesh_wire::names;

use super::status;
use crate::{
    cache::namespaced,
    engine::{Context, Error, Outcome, finalizer},
    refs::resolve_mesh,
};

/// Whether deleting this Bridge has to do something in the broker.
pub fn is_needed(bridge: &Bridge) -> bool {
    bridge.spec.outbound.as_ref().is_some_and(|routes| !routes.is_empty()) || finalizer::has(bridge)
}

pub async fn run(context: &Context, bridge: &Bridge) -> Result<Outcome, Error> {
    if !finalizer::has(bridge) {
        return Ok(Outcome::Done);
    }
    let (namespace, name) = namespaced(bridge);
    if let Ok(mesh) = resolve_mesh(context, &bridge.spec.mesh, &namespace) {
        let Some(broker) = mesh.broker else {
            let message = format!("deleting the consumers waits for the brokers of EventMesh {}", mesh.key);
            let verdict = Verdict::bad(ConditionType::Programmed, Reason::BrokerUnavailable, message);
            status::write(context, bridge, vec![verdict], None).await?;
            return Ok(Outcome::Waiting);
        };
        let found = broker.view().consumers_with_prefix(&names::bridge_consumer(&namespace, &name, ""));
        for (stream, consumer) in found {
            let deleted = broker.delete_consumer(&stream, &consumer).await;
            deleted.map_err(Error::broker("delete the consumer of a route"))?;
        }
    }
    finalizer::set(&context.client, bridge, false).await?;
    Ok(Outcome::Done)
}
