//! Deletion of a Subscription: its place in the stream goes, the events stay. Never hangs on a mesh that is gone.

use eventmesh_crds::{
    Subscription,
    conditions::{ConditionType, Reason, Verdict},
    subscription::PlacePolicy,
};
use eventmesh_wire::names;

use super::{resolve, status};
use crate::{
    broker::MeshKey,
    cache::namespaced,
    engine::{Context, Error, Outcome, finalizer},
};

/// Whether deleting this Subscription has to do something in the broker.
pub fn is_needed(subscription: &Subscription) -> bool {
    subscription.spec.deletion_policy.unwrap_or(PlacePolicy::Delete) == PlacePolicy::Delete
}

pub async fn run(context: &Context, subscription: &Subscription) -> Result<Outcome, Error> {
    if !finalizer::has(subscription) {
        return Ok(Outcome::Done);
    }
    if is_needed(subscription) {
        let (namespace, name) = namespaced(subscription);
        let reference = &subscription.spec.topic;
        let stream = names::stream(reference.namespace_or(&namespace), &reference.name);
        let consumer = names::subscription_consumer(&namespace, &name);
        let brokers = match resolve::run(context, subscription).mesh {
            Some(Ok(mesh)) => match mesh.broker {
                Some(broker) => vec![broker],
                None => return wait(context, subscription, &mesh.key).await,
            },
            Some(Err(_)) => Vec::new(),
            // The Topic went first, so its mesh is not known: the place is where it is seen. Names are unique.
            None => context.brokers.all(),
        };
        for broker in brokers.iter().filter(|broker| broker.view().consumer(&stream, &consumer).is_some()) {
            broker.delete_consumer(&stream, &consumer).await.map_err(Error::broker("delete the consumer"))?;
        }
    }
    finalizer::set(&context.client, subscription, false).await?;
    Ok(Outcome::Done)
}

async fn wait(context: &Context, subscription: &Subscription, mesh: &MeshKey) -> Result<Outcome, Error> {
    let message = format!("deleting the consumer waits for the brokers of EventMesh {mesh}");
    let verdict = Verdict::bad(ConditionType::Programmed, Reason::BrokerUnavailable, message);
    status::write(context, subscription, vec![verdict], None).await?;
    Ok(Outcome::Waiting)
}
