//! The Subscription controller: one Subscription, one durable consumer in the brokers.

mod execute;
mod resolve;
mod status;
mod validate;

use std::sync::Arc;

use eventmesh_crds::Subscription;

use crate::{
    engine::{Context, Controller, Error, Outcome},
    refs::is_too_early,
};

pub struct SubscriptionController {
    context: Arc<Context>,
}

impl SubscriptionController {
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Controller for SubscriptionController {
    type Object = Subscription;
    const NAME: &'static str = "subscription";

    async fn reconcile(&self, subscription: Arc<Subscription>) -> Result<Outcome, Error> {
        let context = &*self.context;
        if subscription.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let resolved = resolve::run(context, &subscription);
        let observed = subscription.status.as_ref().and_then(|status| status.observed_generation);
        let generation = subscription.metadata.generation;
        if resolved.mesh.as_ref().is_some_and(|mesh| is_too_early(mesh, generation, observed)) {
            return Ok(Outcome::Progressing);
        }
        let (stopped, broker) = match validate::run(&subscription, &resolved) {
            Err(stopped) => (stopped, None),
            Ok(valid) => (execute::run(context, &subscription, &valid).await?, Some(valid.broker)),
        };
        status::write(context, &subscription, stopped.verdicts, broker.as_deref()).await?;
        Ok(stopped.outcome)
    }
}
