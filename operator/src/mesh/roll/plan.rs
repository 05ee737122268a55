//! The one next step of a roll. Pure.

use std::fmt;

use super::{
    mend,
    observe::{Observed, Sight},
    pods::{BrokerPod, State},
};
use crate::broker::cluster::{Cluster, Group};

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Every broker runs what it should.
    Settled,
    Wait(Hold),
    /// This broker leads the metadata, and is the last that is to be restarted.
    HandOver(String),
    Restart(BrokerPod),
}

/// Why no broker is restarted now, though one has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Kubernetes has not looked at the newest StatefulSet yet.
    Unnoticed,
    /// A broker is away or starting.
    Down { brokers: Vec<String> },
    /// A broker does not come up with what it should run.
    Failing { broker: String, why: String },
    /// A broker has come up with a version that is not known.
    Unsupported { broker: String, why: String },
    /// The brokers cannot be asked.
    Unseen(String),
    /// Their pods are ready, and they do not answer.
    Silent { brokers: Vec<String> },
    /// Nobody leads the metadata.
    Leaderless,
    /// Brokers that are not up to date with the metadata.
    MetadataBehind { brokers: Vec<String> },
    /// Streams and consumers of which not every copy is up to date.
    CopiesBehind { groups: Vec<String> },
    /// A broker that has stopped storing has to be restarted, and that would hurt now.
    Stopped { broker: String, why: String },
}

/// Names that a message shows; the others are counted.
const NAMED: usize = 3;

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnoticed => f.write_str("Kubernetes has not taken note of the change yet"),
            Self::Down { brokers } => write!(f, "{} not ready, and no second broker goes meanwhile", are(brokers)),
            Self::Failing { broker, why } => write!(f, "{broker} does not come up: {why}"),
            Self::Unsupported { broker, why } => write!(f, "{broker} has come up, and {why}"),
            Self::Unseen(why) => write!(f, "the operator cannot see whether it would hurt: {why}"),
            Self::Silent { brokers } => write!(f, "{} ready and not heard by the other brokers", are(brokers)),
            Self::Leaderless => f.write_str("no broker leads the metadata"),
            Self::MetadataBehind { brokers } => write!(f, "{} not up to date with the metadata", are(brokers)),
            Self::Stopped { broker, why } => {
                write!(f, "{broker} has stopped storing, and its restart waits: {why}")
            }
            Self::CopiesBehind { groups } => {
                let more = groups.len().saturating_sub(NAMED);
                let named = groups.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if more > 0 { format!(" and of {more} more") } else { String::new() };
                write!(f, "not every copy is up to date of {named}{more}")
            }
        }
    }
}

fn are(brokers: &[String]) -> String {
    format!("{} {}", brokers.join(", "), if brokers.len() == 1 { "is" } else { "are" })
}

pub fn run(seen: &Observed) -> Step {
    let Some(revision) = &seen.revision else { return Step::Wait(Hold::Unnoticed) };
    if let Some(step) = mend::run(seen) {
        return step;
    }
    let mut outdated: Vec<&BrokerPod> = seen.pods.iter().filter(|pod| pod.revision != *revision).collect();
    if outdated.is_empty() {
        return Step::Settled;
    }
    // The highest first, as Kubernetes does it.
    outdated.sort_by(|a, b| b.name.cmp(&a.name));
    let down: Vec<&BrokerPod> = seen.pods.iter().filter(|pod| pod.state != State::Ready).collect();
    if !down.is_empty() || !seen.absent.is_empty() {
        return with_brokers_down(seen, &outdated, &down);
    }
    match &seen.sight {
        Sight::Unseen(why) => Step::Wait(Hold::Unseen(why.clone())),
        Sight::Changing => Step::Restart(outdated[0].clone()),
        Sight::Seen(cluster) => with_all_ready(seen, &outdated, cluster),
    }
}

/// Nobody who works is restarted now. A broker that is down and outdated is, since that may be what it needs.
fn with_brokers_down(seen: &Observed, outdated: &[&BrokerPod], down: &[&BrokerPod]) -> Step {
    let is_only_one = down.len() + seen.absent.len() == 1;
    let heals = outdated.iter().find(|pod| {
        let may_work = seen.sight.hears(&pod.name) && !is_only_one;
        matches!(pod.state, State::Starting | State::Failing(_)) && !may_work
    });
    if let Some(pod) = heals {
        return Step::Restart((*pod).clone());
    }
    let failing = down.iter().find_map(|pod| match &pod.state {
        State::Failing(why) => Some(Hold::Failing { broker: pod.name.clone(), why: why.clone() }),
        _ => None,
    });
    let brokers = down.iter().map(|pod| pod.name.clone()).chain(seen.absent.iter().cloned());
    Step::Wait(failing.unwrap_or_else(|| Hold::Down { brokers: brokers.collect() }))
}

/// Everybody's pod is ready: whether one may go is the brokers' to say.
fn with_all_ready(seen: &Observed, outdated: &[&BrokerPod], cluster: &Cluster) -> Step {
    if let Some(hold) = unsupported(seen, outdated, cluster) {
        return Step::Wait(hold);
    }
    if let Some(hold) = hold(seen, cluster) {
        return Step::Wait(hold);
    }
    let leader = cluster.meta.as_ref().and_then(|meta| meta.leader.as_deref());
    match outdated.iter().find(|pod| leader != Some(pod.name.as_str())) {
        Some(pod) => Step::Restart((*pod).clone()),
        None => Step::HandOver(outdated[0].name.clone()),
    }
}

/// An image need not tell its version, so the first broker that runs it does.
fn unsupported(seen: &Observed, outdated: &[&BrokerPod], cluster: &Cluster) -> Option<Hold> {
    let restarted = seen.pods.iter().filter(|pod| !outdated.iter().any(|other| other.name == pod.name));
    restarted.into_iter().find_map(|pod| {
        let why = cluster.versions.get(&pod.name)?.refusal()?;
        Some(Hold::Unsupported { broker: pod.name.clone(), why })
    })
}

fn hold(seen: &Observed, cluster: &Cluster) -> Option<Hold> {
    let missing_in = |has: &dyn Fn(&str) -> bool| -> Vec<String> {
        seen.pods.iter().filter(|pod| !has(&pod.name)).map(|pod| pod.name.clone()).collect()
    };
    let silent = missing_in(&|name| cluster.brokers.contains(name));
    if !silent.is_empty() {
        return Some(Hold::Silent { brokers: silent });
    }
    if seen.pods.len() > 1 {
        let Some(meta) = &cluster.meta else { return Some(Hold::Leaderless) };
        let is_member = |name: &str| meta.leader.as_deref() == Some(name) || meta.others.contains(name);
        let mut behind = missing_in(&is_member);
        behind.extend(meta.behind.iter().cloned());
        if !behind.is_empty() {
            return Some(Hold::MetadataBehind { brokers: behind });
        }
        if !meta.is_current() {
            return Some(Hold::Leaderless);
        }
    }
    let behind: Vec<&Group> = cluster.groups.iter().filter(|group| !group.is_current()).collect();
    let groups: Vec<String> = behind.into_iter().map(|group| group.name.clone()).collect();
    (!groups.is_empty()).then_some(Hold::CopiesBehind { groups })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub mod tests;
