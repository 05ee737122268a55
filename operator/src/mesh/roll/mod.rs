//! Restarts brokers with what has changed: one at a time, and never when it would hurt.
//!
//! The StatefulSet replaces no pod by itself (`OnDelete`). Each pass over the mesh observes, plans one step, writes what it
//! is about to do into the status, and does it. Nothing is remembered between passes, so an operator that is killed at any
//! point of a roll goes on with it.

mod causes;
pub mod execute;
mod mend;
mod observe;
mod plan;
pub mod pods;

use eventmesh_crds::{EventMesh, conditions::Reason, mesh::BrokerRestart};
use k8s_openapi::api::apps::v1::StatefulSet;

use super::{availability, validate::ValidMesh};
use crate::{
    broker::stopped::StoppedByBroker,
    engine::{Context, Error, Outcome},
    status_values::whole_seconds,
};
use plan::{Hold, Step};

/// What one pass found out, and what it is going to do.
pub struct Roll {
    step: Step,
    /// The restart that the step is, as the status tells it.
    pub restart: Option<BrokerRestart>,
    /// Brokers that have stopped storing something.
    pub stopped: StoppedByBroker,
    is_only_broker: bool,
}

/// How it stands, for conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Every broker runs what it should.
    Settled,
    Going(String),
    /// A broker does not come up, or not as it should.
    Stopped(String),
}

/// Observes and plans.
pub async fn run(context: &Context, mesh: &ValidMesh, stateful_set: &StatefulSet) -> Result<Roll, Error> {
    let observed = observe::run(context, mesh, stateful_set).await?;
    let step = plan::run(&observed);
    let restart = match &step {
        Step::Restart(pod) => {
            let after = stateful_set.spec.as_ref().map(|spec| &spec.template);
            let (reason, message) = if let Some(stopped) = observed.stopped.get(&pod.name) {
                (Reason::StorageStopped.as_str(), format!("the broker {stopped}"))
            } else {
                let causes = causes::run(observed.templates.get(&pod.revision), after);
                (causes.reason(), causes.to_string())
            };
            Some(BrokerRestart {
                broker: pod.name.clone(),
                pod_uid: pod.uid.clone(),
                time: whole_seconds(&context.now().to_string()),
                reason: reason.to_owned(),
                message,
            })
        }
        _ => None,
    };
    Ok(Roll { step, restart, stopped: observed.stopped, is_only_broker: mesh.replicas == 1 })
}

impl Roll {
    #[must_use]
    pub fn progress(&self) -> Progress {
        match (&self.step, &self.restart) {
            (Step::Settled, _) => Progress::Settled,
            (Step::Wait(Hold::Failing { broker, why }), _) => {
                Progress::Stopped(format!("the roll has stopped, since {broker} does not come up: {why}"))
            }
            (Step::Wait(hold @ Hold::Unsupported { .. }), _) => Progress::Stopped(format!(
                "the roll has stopped: {hold}; take the image back, or use one of a known version"
            )),
            (Step::Wait(hold), _) => Progress::Going(format!("the next restart waits: {hold}")),
            (Step::HandOver(leader), _) => {
                Progress::Going(format!("{leader} leads the metadata and hands over before it is restarted"))
            }
            (Step::Restart(pod), restart) => {
                let why = restart.as_ref().map_or("", |restart| restart.message.as_str());
                let only = "; it is the only broker: until it is back nothing is published or delivered";
                Progress::Going(format!(
                    "restarting {}: {why}{}",
                    pod.name,
                    if self.is_only_broker { only } else { "" }
                ))
            }
        }
    }

    /// When the pass after this one has to come; absent where nothing is left to do.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.step {
            // The StatefulSet is watched.
            Step::Settled | Step::Wait(Hold::Unnoticed) => None,
            // So are the pods.
            Step::Wait(Hold::Down { .. } | Hold::Failing { .. } | Hold::Unsupported { .. }) | Step::Restart(_) => {
                Some(Outcome::Waiting)
            }
            Step::Wait(_) | Step::HandOver(_) => Some(Outcome::Progressing),
        }
    }
}

/// Events: each restart, and once that a roll or a broker has stopped.
pub async fn tell(context: &Context, mesh: &EventMesh, roll: &Roll) {
    if let Some(BrokerRestart { broker, message, .. }) = &roll.restart {
        context.note(mesh, "BrokerRestart", format!("{broker}: {message}")).await;
    }
    let conditions = mesh.status.iter().flat_map(|status| &status.conditions);
    let was = |reason: Reason| conditions.clone().any(|condition| condition.reason == reason.as_str());
    if let Progress::Stopped(message) = roll.progress()
        && !was(Reason::RollStopped)
    {
        context.warn(mesh, Reason::RollStopped.as_str(), message).await;
    }
    if !roll.stopped.is_empty() && !was(Reason::StorageStopped) {
        context.warn(mesh, Reason::StorageStopped.as_str(), availability::stopped(&roll.stopped)).await;
    }
}

/// Restarts that a status shows.
const SHOWN: usize = 10;

/// The restarts to show, the newest first. A pass that was broken off before its restart decides the same one again.
#[must_use]
pub fn recorded(before: &[BrokerRestart], new: Option<&BrokerRestart>) -> Vec<BrokerRestart> {
    let others = before.iter().filter(|one| new.is_none_or(|new| one.pod_uid != new.pod_uid));
    new.into_iter().chain(others).take(SHOWN).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restart(uid: usize, message: &str) -> BrokerRestart {
        BrokerRestart { pod_uid: uid.to_string(), message: message.to_owned(), ..BrokerRestart::default() }
    }

    #[test]
    fn a_restart_that_is_decided_twice_is_shown_once() {
        let before = recorded(&[restart(1, "old")], Some(&restart(2, "first")));
        let again = recorded(&before, Some(&restart(2, "second")));
        let shown: Vec<_> = again.iter().map(|one| one.message.as_str()).collect();
        assert_eq!(shown, ["second", "old"]);
        assert_eq!(recorded(&again, None), again);
    }

    #[test]
    fn old_restarts_are_forgotten() {
        let all = (0..30).fold(Vec::new(), |all, uid| recorded(&all, Some(&restart(uid, ""))));
        assert_eq!((all.len(), all[0].pod_uid.as_str()), (SHOWN, "29"));
    }
}
