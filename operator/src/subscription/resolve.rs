//! What a Subscription refers to: its Topic, and the mesh of that. Reads the cache only.

use std::sync::Arc;

use eventmesh_crds::{Subscription, Topic};

use crate::{
    cache::namespaced,
    engine::Context,
    refs::{MeshProblem, ResolvedMesh, resolve_mesh},
};

/// Everything a pass over a Subscription reads.
pub struct Resolved {
    pub topic: Option<Arc<Topic>>,
    /// The mesh of the Topic; `None` without a Topic.
    pub mesh: Option<Result<ResolvedMesh, MeshProblem>>,
}

pub fn run(context: &Context, subscription: &Subscription) -> Resolved {
    let (namespace, _) = namespaced(subscription);
    let topic = context.cache.topic(&namespace, &subscription.spec.topic.name);
    let mesh = topic.as_ref().map(|topic| resolve_mesh(context, &topic.spec.mesh, &namespace));
    Resolved { topic, mesh }
}
