//! The status of a Subscription, from the verdicts of the pass and the view of the brokers.

use eventmesh_crds::{
    Subscription,
    conditions::{self, Verdict},
    subscription::SubscriptionStatus,
};
use eventmesh_wire::names;

use crate::{
    broker::{MeshBroker, api::ConsumerState},
    cache::namespaced,
    dead_letters::standing,
    engine::{Context, Error, apply},
    status_values::{signed, whole_seconds},
};

pub async fn write(
    context: &Context,
    subscription: &Subscription,
    verdicts: Vec<Verdict>,
    broker: Option<&MeshBroker>,
) -> Result<(), Error> {
    let (namespace, name) = namespaced(subscription);
    let reference = &subscription.spec.topic;
    let stream = names::stream(reference.namespace_or(&namespace), &reference.name);
    let consumer = names::subscription_consumer(&namespace, &name);
    let state = broker.and_then(|broker| broker.view().consumer(&stream, &consumer).map(|entry| entry.state.clone()));
    let mut before = subscription.status.clone().unwrap_or_default();
    let dead = standing(context, subscription);
    if let Some(count) = dead.count {
        before.dead_lettered = Some(signed(count));
        before.last_dead_letter = dead.last;
    }
    let generation = subscription.metadata.generation;
    let conditions =
        conditions::merge(&before.conditions, &conditions::with_ready(verdicts), generation, context.now());
    let status = match state {
        None => SubscriptionStatus { observed_generation: generation, conditions, ..before },
        Some(ConsumerState { num_pending, num_ack_pending, num_redelivered, delivered }) => SubscriptionStatus {
            observed_generation: generation,
            conditions,
            stream: Some(stream),
            consumer: Some(consumer),
            pending: Some(signed(num_pending)),
            ack_pending: Some(signed(num_ack_pending)),
            redelivered: Some(signed(num_redelivered)),
            last_active: delivered.last_active.as_deref().map(whole_seconds),
            dead_lettered: before.dead_lettered.or(subscription.spec.dead_letter.as_ref().map(|_| 0)),
            last_dead_letter: before.last_dead_letter,
        },
    };
    apply::status(&context.client, subscription, subscription.status.as_ref(), &status).await?;
    Ok(())
}
