//! Programs the consumer of a Subscription: the only writes to the broker.

use eventmesh_crds::{Subscription, conditions::Reason};

use super::validate::ValidSubscription;
use crate::{
    broker::{
        consumers::{self, ConsumerChange},
        overlay::describe,
    },
    engine::{Context, Error, Stopped},
};

pub async fn run(context: &Context, subscription: &Subscription, valid: &ValidSubscription) -> Result<Stopped, Error> {
    let name = valid.consumer.name.as_str();
    match consumers::ensure(&valid.broker, &valid.consumer).await {
        Ok(change) => {
            announce(context, subscription, name, change).await;
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
