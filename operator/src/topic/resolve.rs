//! What a Topic refers to: its mesh, and the older Topic that stands in its way, if any. Reads the cache only.

use eventmesh_crds::Topic;
use eventmesh_wire::subject::Pattern;

use crate::{
    cache::{namespaced, topics::TopicKey},
    engine::Context,
    refs::{MeshProblem, ResolvedMesh, resolve_mesh},
};

/// An older Topic of the mesh whose subjects overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    pub winner: TopicKey,
    pub mine: Pattern,
    pub theirs: Pattern,
}

/// Everything a pass over a Topic reads.
pub struct Resolved {
    pub mesh: Result<ResolvedMesh, MeshProblem>,
    pub overlap: Option<Overlap>,
}

pub fn run(context: &Context, topic: &Topic) -> Resolved {
    let key = namespaced(topic);
    let mesh = resolve_mesh(context, &topic.spec.mesh, &key.0);
    let overlap = mesh.as_ref().ok().and_then(|mesh| {
        let index = context.cache.topic_index();
        let claim = index.claim(&key, &mesh.key)?;
        let (winner, mine, theirs) = index.older_overlap(&mesh.key, claim)?;
        Some(Overlap { winner: winner.topic.clone(), mine, theirs })
    });
    Resolved { mesh, overlap }
}
