//! Programs the consumer of a Subscription: the only writes to the broker.

use eventmesh_crds::{
    Subscription,
    conditions::{ConditionType, Reason, Verdict},
};

use super::validate::ValidSubscription;
use crate::{
    broker::{
        consumers::{self, ConsumerChange},
        given_up::NOTES,
        overlay::describe,
    },
    dead_letters::standing,
    engine::{Context, Error, Stopped},
};

pub async fn run(context: &Context, subscription: &Subscription, valid: &ValidSubscription) -> Result<Stopped, Error> {
    let name = valid.consumer.name.as_str();
    if let Some(replicas) = valid.notes {
        // Before the consumer: nothing that it gives up goes unnoted.
        match valid.broker.keep_notes(replicas).await {
            Ok(()) => {}
            Err(error) if error.is_temporary() => return Err(Error::broker("keep notes of given up events")(error)),
            Err(error) => {
                let message = format!("stream {NOTES}, which dead letters need: {error}");
                return Ok(Stopped::not_programmed(Reason::BrokerRefused, message));
            }
        }
    }
    match consumers::ensure(&valid.broker, &valid.consumer).await {
        Ok(change) => {
            announce(context, subscription, name, change).await;
            let trouble = valid.notes.and_then(|_| standing(context, subscription).trouble);
            if let Some(problem) = trouble {
                let programmed = Verdict::bad(ConditionType::Programmed, Reason::DeadLettersWait, problem);
                return Ok(Stopped::settled(programmed));
            }
            Ok(if valid.consumer.paused {
                Stopped::programmed(Reason::Paused, "spec.paused is true: nothing is delivered")
            } else {
                Stopped::programmed(Reason::Programmed, format!("consumer {name} of stream {}", valid.consumer.stream))
            })
        }
        Err(error) if error.is_temporary() || consumers::is_race(&error) => {
            Err(Error::broker("program the consumer")(error))
        }
        Err(error) => Ok(Stopped::not_programmed(Reason::BrokerRefused, format!("consumer {name}: {error}"))),
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
            let note =
                format!("consumer {name} was changed by others and has been put back: {}", describe(&differences));
            context.warn(subscription, "DriftRepaired", note).await;
        }
        ConsumerChange::Updated(differences) => {
            context.note(subscription, "ConsumerUpdated", format!("consumer {name}: {}", describe(&differences))).await;
        }
    }
}
