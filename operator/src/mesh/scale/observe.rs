//! How many brokers there are, and what they say. Asks them only while their number is to change or has just changed.

use eventmesh_crds::{EventMesh, conditions::Reason};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::plan::Step;
use crate::{
    broker::cluster::Cluster,
    engine::Context,
    mesh::{apply, build::names, validate::ValidMesh},
};

pub struct Observed {
    pub mesh: String,
    pub wanted: i32,
    /// Of the StatefulSet; while it comes anew, of pods that are more than wanted; absent where there is nothing yet.
    pub current: Option<i32>,
    /// Whether the number has just changed, as the mesh's condition says.
    pub was_scaling: bool,
    /// What the brokers say, or why nothing is known.
    pub sight: Result<Cluster, String>,
}

impl Observed {
    #[must_use]
    pub fn broker(&self, ordinal: i32) -> String {
        names::broker(&self.mesh, ordinal)
    }

    #[must_use]
    pub fn replicas_after(&self, step: &Step) -> i32 {
        match (self.current, step) {
            (Some(current), Step::Raise(_)) => current + 1,
            (Some(current), Step::Lower(_)) => current - 1,
            (Some(current), _) => current,
            (None, _) => self.wanted,
        }
    }
}

pub async fn run(context: &Context, object: &EventMesh, mesh: &ValidMesh) -> Observed {
    let set = ObjectRef::<StatefulSet>::new(&names::brokers(&mesh.key.name)).within(&mesh.key.namespace);
    let set = context.cache.stateful_sets.get(&set);
    let current = set.and_then(|set| set.spec.as_ref()?.replicas).or_else(|| too_many(context, mesh));
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let was_scaling = conditions.into_iter().any(|condition| condition.reason == Reason::Scaling.as_str());
    let is_settled = current.is_none_or(|current| current == mesh.replicas) && !was_scaling;
    let sight = if is_settled { Err(String::new()) } else { look(context, mesh, current).await };
    Observed { mesh: mesh.key.name.clone(), wanted: mesh.replicas, current, was_scaling, sight }
}

/// How many brokers there are by their pods, if these are more than wanted.
fn too_many(context: &Context, mesh: &ValidMesh) -> Option<i32> {
    let pods = apply::pods(context, &mesh.key.namespace, &mesh.key.name);
    let ordinal = |pod: &Pod| pod.name_any().rsplit_once('-')?.1.parse::<i32>().ok();
    pods.iter().filter_map(|pod| ordinal(pod)).max().map(|last| last + 1).filter(|there| *there > mesh.replicas)
}

/// What the brokers say now.
pub async fn look(context: &Context, mesh: &ValidMesh, current: Option<i32>) -> Result<Cluster, String> {
    let expected = usize::try_from(current.unwrap_or_default()).unwrap_or_default();
    match context.brokers.get(&mesh.key) {
        Some(broker) => broker.cluster(expected).await.map_err(|error| error.to_string()),
        None => Err("there is no connection to the brokers".to_owned()),
    }
}
