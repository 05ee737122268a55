//! Programs the consumer of a Subscription: the only writes to the broker.

use eventmesh_crds::{
    Subscription,
    conditions::{ConditionType, Reason, Verdict},
};

use super::{
    Stopped,
    validate::{ValidSubscription, accepted, resolved_refs},
};
use crate::{
    broker::{
        consumers::{self, ConsumerChange},
        overlay::describe,
    },
    engine::{Context, Error, Outcome},
};

pub async fn run(
    context: &Context,
    subscription: &Subscription,
    valid: &ValidSubscription,
) -> Result<Stopped, Error> {
    let name = valid.consumer.name.as_str();
    match consumers::ensure(&valid.broker, &valid.consumer).await {
        Ok(change) => {
            announce(context, subscription, name, change).await;
            let verdict = if valid.consumer.paused {
                let message = "spec.paused is true: nothing is delivered";
                Verdict::good(ConditionType::Programmed, Reason::Paused, message)
            } else {
                let message = format!("consumer {name} of stream {}", valid.consumer.stream);
                Verdict::good(ConditionType::Programmed, Reason::Programmed, message)
            };
            Ok(Stopped { verdicts: vec![accepted(), resolved_refs(), verdict], outcome: Outcome::Settled })
        }
        Err(error) if error.is_temporary() || consumers::is_race(&error) => Err(Error::broker("program the consumer")(error)),
        Err(error) => {
            let verdict = Verdict::bad(ConditionType::Programmed, Reason::BrokerRefused, format!("consumer {name}: {error}"));
            Ok(Stopped { verdicts: vec![accepted(), resolved_refs(), verdict], outcome: Outcome::Waiting })
        }
    }
}

async fn announce(context: &Context, subscription: &Subscription, name: &str, change: ConsumerChange) {
    let status = subscription.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation) == subscription.metadata.generation;
    match change {
        ConsumerChange::None => {}
        ConsumerChange::Created if status.is_some_and(|status| status.consumer.is_some()) => {
            context.metrics.repaired("Subscription");
            let note = format!("consumer {name} was missing and has been created again");
            context.warn(subscription, "ConsumerRecreated", note).await;
        }
        ConsumerChange::Created => {}
        ConsumerChange::Updated(differences) if seen => {
            context.metrics.repaired("Subscription");
            let note = format!("consumer {name} was changed by others and has been put back: {}", describe(&differences));
            context.warn(subscription, "DriftRepaired", note).await;
        }
        ConsumerChange::Updated(differences) => {
            context.note(subscription, "ConsumerUpdated", format!("consumer {name}: {}", describe(&differences))).await;
        }
    }
}
