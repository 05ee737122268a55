//! The one next step on the way to a broker with a new volume. Pure.

use std::{collections::BTreeSet, fmt};

use super::observe::Observed;
use crate::{
    broker::cluster::{Cluster, Group},
    mesh::{build::names, roll::pods::BrokerPod},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is to be done.
    Settled,
    /// Not now, and why.
    Wait(String),
    /// The volumes of several brokers are empty at once: not without a person.
    Lost(Vec<String>),
    /// A broker leaves the metadata, where it may be known by another name.
    Remove { broker: String, member: String },
    /// The majority is lost for good: so many brokers that are left lead the metadata for as long as it takes to remove the others.
    Rescue(usize),
    /// Nobody counts on them any more: their names leave the list, and their pods are asked anew.
    Admit(Vec<BrokerPod>),
    /// It runs, and the others have not let it in yet.
    Join(Vec<String>),
    /// It is let in, and copies come back.
    Copy(Vec<String>),
}

/// Names that a message shows.
const NAMED: usize = 5;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => Ok(()),
            Self::Wait(why) => write!(f, "a broker has lost its volume, and nothing is done yet: {why}"),
            Self::Lost(brokers) => write!(
                f,
                "the volumes of {} are empty at the same time: what no other broker has is lost, and nothing is done until \
                 somebody decides. If a volume can be brought back, do that and delete the pod. If not, annotate the \
                 EventMesh with {}={}; docs/operations.md says what that costs",
                brokers.join(" and "),
                names::GIVE_UP,
                brokers.join(",")
            ),
            Self::Remove { broker, .. } => write!(f, "{broker} has lost its volume and leaves the metadata"),
            Self::Rescue(_) => {
                f.write_str("the brokers that are left lead the metadata without those that are given up")
            }
            Self::Admit(pods) => {
                let names = pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(", ");
                write!(f, "nobody counts on {names} any more, which may start anew")
            }
            Self::Join(brokers) => write!(
                f,
                "{} starts anew; the other brokers let in no member of a name that they have taken out less than five \
                 minutes ago",
                brokers.join(", ")
            ),
            Self::Copy(groups) => {
                let more = groups.len().saturating_sub(NAMED);
                let named = groups.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if more > 0 { format!(" and of {more} more") } else { String::new() };
                write!(f, "copies come back: of {named}{more}")
            }
        }
    }
}

/// Those who belong on the list. Nobody leaves it because the brokers do not answer: only [`Step::Admit`] takes a name away.
pub fn counted_on(seen: &Observed) -> BTreeSet<String> {
    let meta = seen.sight.as_ref().and_then(|sight| sight.as_ref().ok()?.meta.as_ref());
    let members = seen.brokers.iter().filter(|name| meta.is_some_and(|meta| meta.has(name)));
    seen.listed.iter().chain(members).cloned().collect()
}

pub fn run(seen: &Observed) -> Step {
    if seen.empty.is_empty() {
        return afterwards(seen);
    }
    let lost: Vec<&BrokerPod> = seen.empty.iter().filter(|pod| seen.listed.contains(&pod.name)).collect();
    if lost.len() == seen.listed.len() && lost.iter().all(|pod| seen.given_up.contains(&pod.name)) {
        // Nobody has anything: a new mesh.
        return Step::Admit(seen.empty.clone());
    }
    let steps: Vec<Step> = seen.empty.iter().map(|pod| with(seen, pod, &lost)).collect();
    let first = |wanted: fn(&Step) -> bool| steps.iter().find(|step| wanted(step));
    let leaves = first(|step| matches!(step, Step::Remove { .. } | Step::Rescue(_)));
    let acts = leaves.or_else(|| first(|step| matches!(step, Step::Admit(_))));
    acts.or(steps.first()).cloned().unwrap_or(Step::Settled)
}

/// One that does not start. `lost`: all that do not, and are counted on.
fn with(seen: &Observed, pod: &BrokerPod, lost: &[&BrokerPod]) -> Step {
    let broker = &pod.name;
    if !seen.listed.contains(broker) {
        return Step::Admit(vec![pod.clone()]);
    }
    let is_given_up = seen.given_up.contains(broker);
    if lost.len() > 1 && !is_given_up {
        return Step::Lost(lost.iter().map(|pod| pod.name.clone()).collect());
    }
    let cluster = match &seen.sight {
        Some(Ok(cluster)) => cluster,
        Some(Err(why)) => return Step::Wait(why.clone()),
        None => return Step::Wait("the brokers have not been asked yet".to_owned()),
    };
    let Some(meta) = &cluster.meta else { return leaderless(seen, cluster, lost) };
    if let Some(member) = member(seen, meta, broker) {
        return match others_restless(seen, cluster, meta, broker) {
            Some(why) if !is_given_up => Step::Wait(why),
            _ => Step::Remove { broker: broker.clone(), member },
        };
    }
    if let Some(stranger) = strangers(seen, meta).next() {
        return Step::Wait(format!("the metadata has a member that is none of these brokers: {stranger}"));
    }
    let goes_on = |group: &Group| if is_given_up { !group.has(broker) } else { goes_on_without(group, broker) };
    match cluster.groups.iter().find(|group| !goes_on(group)) {
        Some(group) => Step::Wait(format!("{} has not gone on without {broker} yet", group.name)),
        None => Step::Admit(vec![pod.clone()]),
    }
}

/// Without a majority nobody can be taken out. It is given up only when no broker that is missing can be somewhere else: the pod of
/// each is there, and has not started it.
fn leaderless(seen: &Observed, cluster: &Cluster, lost: &[&BrokerPod]) -> Step {
    let has_majority = cluster.brokers.len() > seen.listed.len() / 2;
    let is_given_up = |name: &String| lost.iter().any(|pod| pod.name == *name) && seen.given_up.contains(name);
    let mut missing = seen.listed.iter().filter(|name| !cluster.brokers.contains(*name));
    if has_majority || cluster.brokers.is_empty() {
        return Step::Wait("no broker leads the metadata".to_owned());
    }
    match missing.find(|name| !is_given_up(name)) {
        Some(name) => Step::Wait(format!("no broker leads the metadata, and {name} does not answer")),
        None => match cluster.versions.iter().find(|(_, version)| !version.rescues()) {
            Some((name, version)) => Step::Wait(format!(
                "the majority is lost, and {name} runs nats-server {version}, which cannot lead without one; it takes 2.15 or newer"
            )),
            None => Step::Rescue(cluster.brokers.len()),
        },
    }
}

/// By what name the metadata knows it. A leader that was elected since it went may have none: then it is the one that is left.
fn member(seen: &Observed, meta: &Group, broker: &str) -> Option<String> {
    if meta.has(broker) {
        return Some(broker.to_owned());
    }
    let strangers: Vec<&String> = strangers(seen, meta).collect();
    let unknown = seen.brokers.iter().filter(|name| seen.listed.contains(*name) && !meta.has(name)).count();
    match strangers.as_slice() {
        [stranger] if unknown == 1 => Some((*stranger).clone()),
        _ => None,
    }
}

fn strangers<'a>(seen: &'a Observed, meta: &'a Group) -> impl Iterator<Item = &'a String> {
    meta.others.iter().filter(|name| !seen.brokers.contains(name))
}

/// Why this broker cannot be spared: another one is away, or has not everything.
fn others_restless(seen: &Observed, cluster: &Cluster, meta: &Group, broker: &str) -> Option<String> {
    let others = || seen.brokers.iter().filter(|name| *name != broker);
    if let Some(silent) = others().find(|name| !cluster.brokers.contains(*name)) {
        return Some(format!("{silent} does not answer, and no second broker may be missing"));
    }
    let is_it = |name: &String| name == broker || !seen.brokers.contains(name);
    let lags = |group: &Group| !group.behind.iter().all(is_it);
    if others().any(|name| !meta.has(name)) || lags(meta) {
        return Some("the other brokers are not up to date with the metadata".to_owned());
    }
    let waits = |group: &&Group| {
        let cannot_lead = group.others.len() == 1 && group.has(broker);
        let is_led = group.leader.is_some() || cannot_lead;
        !is_led || (group.leader.is_some() && lags(group)) || (group.moving && !group.has(broker))
    };
    let waits = cluster.groups.iter().find(waits)?;
    Some(format!("the other copies are not up to date of {}", waits.name))
}

fn goes_on_without(group: &Group, broker: &str) -> bool {
    group.leader.is_some() && group.behind.is_empty() && !group.moving && !group.has(broker)
}

/// All brokers have a volume with something in it.
fn afterwards(seen: &Observed) -> Step {
    if !seen.was_replacing {
        return Step::Settled;
    }
    let cluster = match &seen.sight {
        Some(Ok(cluster)) => cluster,
        Some(Err(why)) => return Step::Wait(why.clone()),
        None => return Step::Settled,
    };
    let Some(meta) = &cluster.meta else { return Step::Wait("no broker leads the metadata".to_owned()) };
    let outside: Vec<String> = seen.brokers.iter().filter(|name| !meta.has(name)).cloned().collect();
    if !outside.is_empty() {
        return Step::Join(outside);
    }
    let groups = std::iter::once(meta).chain(&cluster.groups);
    let behind: Vec<String> = groups.filter(|group| !group.is_current()).map(|group| group.name.clone()).collect();
    if behind.is_empty() { Step::Settled } else { Step::Copy(behind) }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
