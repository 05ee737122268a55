//! What a Topic refers to: its mesh, and the older Topic that stands in its way, if any. Reads the cache only.

use eventmesh_crds::Topic;
use eventmesh_wire::subject::Pattern;
use kube::runtime::reflector::ObjectRef;

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
    /// Those whom grants name and who do not exist.
    pub unknown: Vec<String>,
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
    let unknown = unknown(context, topic, mesh.as_ref().ok());
    Resolved { mesh, overlap, unknown }
}

fn unknown(context: &Context, topic: &Topic, mesh: Option<&ResolvedMesh>) -> Vec<String> {
    let (own, _) = namespaced(topic);
    let cache = &context.cache;
    let mut unknown = Vec::new();
    for (index, grant) in topic.spec.grants.iter().flatten().enumerate() {
        let missing = if let Some(account) = &grant.to.service_account {
            let namespace = account.namespace_or(&own);
            let missing = cache.service_account(namespace, &account.name).is_none();
            missing.then(|| format!("ServiceAccount {namespace}/{}", account.name))
        } else if let Some(bridge) = &grant.to.bridge {
            let namespace = bridge.namespace_or(&own);
            cache.bridge(namespace, &bridge.name).is_none().then(|| format!("Bridge {namespace}/{}", bridge.name))
        } else if let Some(namespace) = &grant.to.namespace {
            let missing = cache.namespaces.get(&ObjectRef::new(namespace)).is_none();
            missing.then(|| format!("namespace {namespace}"))
        } else {
            let clients = mesh.and_then(|mesh| mesh.mesh.spec.clients.as_ref());
            let known = |name: &String| clients.into_iter().flatten().any(|client| client.name == *name);
            grant.to.client.as_ref().filter(|name| mesh.is_some() && !known(name)).map(|name| format!("client {name}"))
        };
        unknown.extend(
            missing.map(|missing| format!("grants[{index}]: {missing} does not exist, so it is granted nothing yet")),
        );
    }
    unknown
}
