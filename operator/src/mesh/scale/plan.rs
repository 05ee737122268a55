//! The one next step on the way to another number of brokers. Pure.

use std::fmt;

use super::{
    observe::Observed,
    spread::{self, Move},
};
use crate::broker::{
    cluster::{Cluster, Group},
    version::Version,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There are as many as wanted.
    Settled,
    /// Not now, and why.
    Wait(String),
    /// Not before somebody has changed something.
    Blocked(Vec<String>),
    /// This broker comes.
    Raise(String),
    /// This broker holds nothing and is no member any more: its pod goes.
    Lower(String),
    /// Copies move from one broker to others.
    Move(Vec<Move>),
    /// This broker is to go, and leads the metadata.
    HandOver(String),
    /// This broker holds nothing: it is taken out of the metadata.
    Remove(String),
}

impl Step {
    /// Whether it changes what brokers have.
    #[must_use]
    pub fn moves(&self) -> bool {
        matches!(self, Self::Move(_) | Self::HandOver(_) | Self::Remove(_))
    }
}

/// Names that a message shows; the others are counted.
const NAMED: usize = 5;
/// Streams that move at once, so that what moves leaves room for what is published.
pub const AT_ONCE: usize = 10;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => Ok(()),
            Self::Wait(why) => f.write_str(why),
            Self::Blocked(what) => f.write_str(&what.join("; ")),
            Self::Raise(broker) => write!(f, "adding {broker}"),
            Self::Lower(broker) => write!(f, "{broker} holds nothing any more, and its pod goes"),
            Self::Move(moves) => {
                let told = moves.iter().map(|one| format!("{} off {}", one.stream, one.from)).collect::<Vec<_>>();
                write!(f, "moving copies: {}", listed(&told))
            }
            Self::HandOver(broker) => write!(f, "{broker} leads the metadata and hands over"),
            Self::Remove(broker) => write!(f, "{broker} holds nothing and leaves the metadata"),
        }
    }
}

fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

pub fn run(seen: &Observed) -> Step {
    match seen.current {
        None => Step::Settled,
        Some(current) if current < seen.wanted => up(seen, current),
        Some(current) if current > seen.wanted => down(seen, current),
        Some(current) => at_rest_again(seen, current),
    }
}

fn up(seen: &Observed, current: i32) -> Step {
    let next = seen.broker(current);
    // Without a leader nobody joins: then it is a broker that is missing, and not a new one.
    let Ok(Cluster { meta: Some(meta), .. }) = &seen.sight else { return Step::Raise(next) };
    let is_back = meta.has(&next);
    match restless(seen, current) {
        Some(why) if !is_back => Step::Wait(why),
        _ => Step::Raise(next),
    }
}

fn down(seen: &Observed, current: i32) -> Step {
    let last = seen.broker(current - 1);
    let cluster = match &seen.sight {
        Ok(cluster) => cluster,
        Err(why) => return Step::Wait(why.clone()),
    };
    let Some(meta) = &cluster.meta else { return Step::Wait("no broker leads the metadata".to_owned()) };
    // Of a member that its leader has never heard there is no name: it could be the one that is to go.
    let members: Vec<String> = (0..current).map(|ordinal| seen.broker(ordinal)).collect();
    if let Some(stranger) = meta.others.iter().find(|name| !members.contains(name)) {
        return Step::Wait(format!("the metadata has a member that is none of these brokers: {stranger}"));
    }
    if !meta.has(&last) && !cluster.groups.iter().any(|group| group.has(&last)) {
        return Step::Lower(last);
    }
    let blocked = blocked(seen, cluster, current);
    if !blocked.is_empty() {
        return Step::Blocked(blocked);
    }
    if let Some(why) = restless(seen, current) {
        return Step::Wait(why);
    }
    let held: Vec<Move> = held(cluster, &last).into_iter().take(AT_ONCE).collect();
    if !held.is_empty() {
        if let Some((broker, version)) = older(cluster) {
            return Step::Blocked(vec![format!(
                "{last} holds copies, and {broker} runs nats-server {version}, which cannot move them without missing one \
                 meanwhile: use 2.15 or newer"
            )]);
        }
        return Step::Move(held);
    }
    if meta.leader.as_ref() == Some(&last) { Step::HandOver(last) } else { Step::Remove(last) }
}

/// A broker that cannot move copies.
fn older(cluster: &Cluster) -> Option<(&String, &Version)> {
    cluster.versions.iter().find(|(_, version)| !version.moves_copies())
}

/// Streams of which this broker has a copy.
fn held(cluster: &Cluster, broker: &str) -> Vec<Move> {
    let streams = cluster.stores.get(broker).into_iter().flat_map(|store| store.streams.iter().cloned());
    let groups = cluster.groups.iter().filter(|group| group.has(broker)).map(|group| group.stream.clone());
    let streams: std::collections::BTreeSet<String> = streams.chain(groups).collect();
    streams.into_iter().map(|stream| Move { stream, from: broker.to_owned() }).collect()
}

/// What the brokers that are left could not take.
fn blocked(seen: &Observed, cluster: &Cluster, current: i32) -> Vec<String> {
    let left = usize::try_from(seen.wanted).unwrap_or_default();
    let too_many = cluster.groups.iter().filter(|group| group.copies > left);
    let too_many: Vec<String> = too_many.map(|group| format!("{} ({})", group.stream, group.copies)).collect();
    let stores = |ordinals: std::ops::Range<i32>| {
        ordinals.filter_map(|ordinal| cluster.stores.get(&seen.broker(ordinal))).collect::<Vec<_>>()
    };
    let used: u64 = stores(seen.wanted..current).iter().map(|store| store.used).sum();
    let free: u64 = stores(0..seen.wanted).iter().map(|store| store.free()).sum();
    let mut blocked = Vec::new();
    if !too_many.is_empty() {
        blocked.push(format!(
            "streams with more copies than {left} brokers can hold, lower storage.replicas of their Topics: {}",
            listed(&too_many)
        ));
    }
    if used > free {
        blocked.push(format!(
            "the brokers that are to go store {used} bytes, and the others have room for {free}: make \
             brokers.storage.size larger, or remove events"
        ));
    }
    blocked
}

/// Why nothing may be moved now: a broker is away, or a copy is not up to date.
fn restless(seen: &Observed, current: i32) -> Option<String> {
    let cluster = match &seen.sight {
        Ok(cluster) => cluster,
        Err(why) => return Some(why.clone()),
    };
    let Some(meta) = &cluster.meta else { return Some("no broker leads the metadata".to_owned()) };
    let all = || (0..current).map(|ordinal| seen.broker(ordinal));
    let silent: Vec<String> = all().filter(|name| !cluster.brokers.contains(name)).collect();
    if !silent.is_empty() {
        return Some(format!("waiting for {} to answer", listed(&silent)));
    }
    let strangers = all().filter(|name| !meta.has(name)).chain(meta.behind.iter().cloned()).collect::<Vec<_>>();
    if !strangers.is_empty() {
        return Some(format!("waiting for {} to be up to date with the metadata", listed(&strangers)));
    }
    let behind: Vec<String> = cluster.groups.iter().filter(|g| !g.is_current()).map(|g| g.name.clone()).collect();
    (!behind.is_empty()).then(|| format!("waiting until every copy is up to date of {}", listed(&behind)))
}

/// The number is right. Brokers that are new have no copies of what is older than they are.
fn at_rest_again(seen: &Observed, current: i32) -> Step {
    if !seen.was_scaling {
        return Step::Settled;
    }
    if let Some(why) = restless(seen, current) {
        return Step::Wait(why);
    }
    if seen.sight.as_ref().is_ok_and(|cluster| older(cluster).is_some()) {
        // New streams find the new brokers, and what is there already stays where it is.
        return Step::Settled;
    }
    let groups: &[Group] = seen.sight.as_ref().map_or(&[], |cluster| &cluster.groups);
    let brokers: Vec<String> = (0..current).map(|ordinal| seen.broker(ordinal)).collect();
    match spread::run(groups, &brokers) {
        moves if moves.is_empty() => Step::Settled,
        moves => Step::Move(moves),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
