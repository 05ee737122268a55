//! Does the step that a pass has planned: the only writes of a roll.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tracing::info;

use super::{Roll, plan::Step, pods::BrokerPod};
use crate::{
    broker::MeshKey,
    engine::{Class, Context, Error},
};

pub async fn run(context: &Context, mesh: &MeshKey, roll: &Roll) -> Result<(), Error> {
    match &roll.step {
        Step::Settled | Step::Wait(_) => Ok(()),
        Step::HandOver(leader) => {
            let Some(broker) = context.brokers.get(mesh) else { return Ok(()) };
            info!(%mesh, broker = %leader, "handing the lead of the metadata over before the restart");
            broker.step_down().await.map_err(Error::broker("hand the lead of the metadata over"))
        }
        Step::Restart(pod) => restart(context, mesh, pod).await,
    }
}

/// Ends a pod, in the order that its container knows; the StatefulSet makes the next one. Only the very pod that was
/// looked at: one that has changed since is looked at again.
pub async fn restart(context: &Context, mesh: &MeshKey, pod: &BrokerPod) -> Result<(), Error> {
    let preconditions =
        Preconditions { uid: Some(pod.uid.clone()), resource_version: Some(pod.resource_version.clone()) };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api = Api::<Pod>::namespaced(context.client.clone(), &mesh.namespace);
    info!(%mesh, broker = %pod.name, "ending the pod of a broker");
    match api.delete(&pod.name, &params).await.map_err(Error::kubernetes("restart a broker")) {
        Err(error) if error.class() != Class::Conflict => Err(error),
        _ => Ok(()),
    }
}
