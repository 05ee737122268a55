//! What a Subscription refers to: its Topic, and the mesh of that. Reads the cache only.

use std::sync::Arc;

use eventmesh_crds::{Subscription, Topic};

use crate::{
    cache::{namespaced, topics::TopicKey},
    dead_letters::target,
    engine::Context,
    identity::party::Party,
    refs::{MeshProblem, ResolvedMesh, resolve_mesh},
};

/// Everything a pass over a Subscription reads.
pub struct Resolved {
    pub topic: Option<Arc<Topic>>,
    /// The mesh of the Topic; `None` without a Topic.
    pub mesh: Option<Result<ResolvedMesh, MeshProblem>>,
    pub subscriber: Subscriber,
    /// The dead-letter Topic, by namespace and name; `None` where the spec names none.
    pub dead_letter: Option<(TopicKey, Option<Arc<Topic>>)>,
    /// The way by which its dead letters would come back to its Topic.
    pub circle: Option<Vec<TopicKey>>,
}

/// Who reads.
pub struct Subscriber {
    pub party: Party,
    pub exists: bool,
}

pub fn run(context: &Context, subscription: &Subscription) -> Resolved {
    let (namespace, _) = namespaced(subscription);
    let reference = &subscription.spec.topic;
    let of = reference.namespace_or(&namespace);
    let topic = context.cache.topic(of, &reference.name);
    // Whether its own namespace may use the mesh is the Topic's matter; the Subscription needs the Topic's consent.
    let mesh = topic.as_ref().map(|topic| resolve_mesh(context, &topic.spec.mesh, of));
    let subscriber = subscriber(context, subscription, mesh.as_ref());
    let dead_letter = target::topic(subscription).map(|key| {
        let found = context.cache.topic(&key.0, &key.1);
        (key, found)
    });
    let circle = dead_letter.as_ref().and_then(|_| target::circle(&context.cache.subscriptions.state(), subscription));
    Resolved { topic, mesh, subscriber, dead_letter, circle }
}

fn subscriber(
    context: &Context,
    subscription: &Subscription,
    mesh: Option<&Result<ResolvedMesh, MeshProblem>>,
) -> Subscriber {
    let party = Party::of_subscription(subscription);
    let exists = match &party {
        Party::ServiceAccount { namespace, name } => context.cache.service_account(namespace, name).is_some(),
        Party::Client { name } => mesh.is_some_and(|mesh| {
            let clients = mesh.as_ref().ok().and_then(|mesh| mesh.mesh.spec.clients.as_ref());
            clients.into_iter().flatten().any(|client| client.name == *name)
        }),
        // No Subscription is read by these.
        Party::Bridge { .. } | Party::Mqtt { .. } | Party::Link { .. } => false,
    };
    Subscriber { party, exists }
}
