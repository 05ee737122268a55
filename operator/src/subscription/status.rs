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
    let stream = names::stream(&namespace, &subscription.spec.topic.name);
    let consumer = names::subscription_consumer(&namespace, &name);
    let state = broker.and_then(|broker| broker.view().consumer(&stream, &consumer).map(|entry| entry.state.clone()));
    let before = subscription.status.clone().unwrap_or_default();
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
        },
    };
    apply::status(&context.client, subscription, subscription.status.as_ref(), &status).await?;
    Ok(())
}
