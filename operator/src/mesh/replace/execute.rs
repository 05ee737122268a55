//! Does the step that a pass has planned.

use std::collections::BTreeSet;

use eventmesh_crds::{EventMesh, conditions::Reason};
use tracing::info;

use super::{
    observe::Observed,
    plan::{Step, counted_on},
};
use crate::{
    broker::cluster::Cluster,
    cache::{mesh_key, namespaced},
    engine::{Context, Error},
    mesh::{members, roll, validate::ValidMesh},
};

pub async fn run(
    context: &Context,
    object: &EventMesh,
    mesh: &ValidMesh,
    seen: &Observed,
    step: &Step,
) -> Result<(), Error> {
    let told = || step.to_string();
    match step {
        Step::Settled | Step::Wait(_) | Step::Join(_) | Step::Copy(_) => Ok(()),
        Step::Lost(_) => {
            if !seen.was_lost {
                context.warn(object, Reason::VolumesLost.as_str(), told()).await;
            }
            Ok(())
        }
        Step::Remove { broker: name, member } => {
            let Some(broker) = context.brokers.get(&mesh.key) else { return Ok(()) };
            context.warn(object, Reason::ReplacingBroker.as_str(), told()).await;
            let lost = seen.sight.iter().flatten().flat_map(|cluster| only_there(context, mesh, cluster));
            let lost: Vec<String> = lost.collect();
            if !lost.is_empty() {
                let lost = lost.join(", ");
                let message = format!("the only copy of these streams was on {name}; they go on empty: {lost}");
                context.warn(object, "EventsLost", message).await;
            }
            info!(mesh = %mesh.key, broker = %name, "taking a broker that has lost its volume out of the metadata");
            broker.remove_peer(member).await.map_err(Error::broker("take a broker out of the metadata"))
        }
        Step::Rescue(left) => {
            let Some(broker) = context.brokers.get(&mesh.key) else { return Ok(()) };
            context.warn(object, Reason::ReplacingBroker.as_str(), told()).await;
            info!(mesh = %mesh.key, left, "letting the brokers that are left lead the metadata");
            broker.rescue(*left).await.map_err(Error::broker("let the brokers that are left lead the metadata"))
        }
        Step::Admit(pods) => {
            context.note(object, Reason::ReplacingBroker.as_str(), told()).await;
            let mut left = counted_on(seen);
            left.retain(|name| !pods.iter().any(|pod| pod.name == *name));
            members::write(context, mesh, &left).await?;
            for pod in pods {
                info!(mesh = %mesh.key, broker = %pod.name, "letting a broker start on an empty volume");
                // Kubernetes would ask it again, but only after minutes.
                roll::execute::restart(context, &mesh.key, pod).await?;
            }
            Ok(())
        }
    }
}

/// Streams of Topics that were set up, and of which no broker that answers has a copy.
fn only_there(context: &Context, mesh: &ValidMesh, cluster: &Cluster) -> BTreeSet<String> {
    let stored: BTreeSet<&String> = cluster.stores.values().flat_map(|store| &store.streams).collect();
    let topics = context.cache.topics.state();
    let of_mesh = topics.iter().filter(|topic| mesh_key(&topic.spec.mesh, &namespaced(&***topic).0) == mesh.key);
    let streams = of_mesh.filter_map(|topic| topic.status.as_ref()?.stream.clone());
    streams.filter(|stream| !stored.contains(stream)).collect()
}
