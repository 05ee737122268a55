//! Which copies should move so that each broker has its share. Pure.
//!
//! The broker itself decides where a copy goes that is taken off one: to the member-to-be with the fewest copies. So a move is
//! chosen by what it takes off the fullest broker, and only where the difference becomes smaller by it: this comes to an end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::plan::AT_ONCE;
use crate::broker::cluster::Group;

/// A stream whose copy leaves a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub stream: String,
    pub from: String,
}

/// A stream with its consumers.
struct Load {
    stream: String,
    leader: Option<String>,
    members: BTreeSet<String>,
    /// Copies that a broker has of it and its consumers.
    weight: usize,
}

pub fn run(groups: &[Group], brokers: &[String]) -> Vec<Move> {
    let mut loads = loads(groups);
    let mut moves = Vec::new();
    let mut done = BTreeSet::new();
    while moves.len() < AT_ONCE {
        let Some((index, from, to)) = next(&loads, brokers, &done) else { break };
        let load = &mut loads[index];
        load.members.remove(&from);
        load.members.insert(to);
        done.insert(load.stream.clone());
        moves.push(Move { stream: load.stream.clone(), from });
    }
    moves
}

/// Streams with several copies.
fn loads(groups: &[Group]) -> Vec<Load> {
    let mut weights = BTreeMap::<&str, usize>::new();
    for group in groups {
        *weights.entry(&group.stream).or_default() += 1;
    }
    let streams = groups.iter().filter(|group| group.copies > 1);
    let load = |group: &Group| Load {
        stream: group.stream.clone(),
        leader: group.leader.clone(),
        members: group.others.iter().cloned().chain(group.leader.clone()).collect(),
        weight: weights[group.stream.as_str()],
    };
    streams.map(load).collect()
}

/// The next move: whose copy leaves which broker, and where it will go.
fn next(loads: &[Load], brokers: &[String], done: &BTreeSet<String>) -> Option<(usize, String, String)> {
    let has = |broker: &String| -> usize {
        loads.iter().filter(|load| load.members.contains(broker)).map(|load| load.weight).sum()
    };
    let filled: BTreeMap<&str, usize> = brokers.iter().map(|broker| (broker.as_str(), has(broker))).collect();
    let most = *filled.values().max()?;
    let fullest = brokers.iter().filter(|broker| filled[broker.as_str()] == most);
    let may_go = fullest.flat_map(|from| {
        let of_it = move |(_, load): &(usize, &Load)| load.members.contains(from) && !done.contains(&load.stream);
        loads.iter().enumerate().filter(of_it).map(move |(index, load)| (index, load, from))
    });
    let moves = may_go.filter_map(|(index, load, from)| {
        let others = brokers.iter().filter(|broker| !load.members.contains(*broker));
        let to = others.min_by_key(|broker| filled[broker.as_str()])?;
        (filled[to.as_str()] + load.weight < most).then_some((index, load, from, to))
    });
    // A leader that goes makes publishers wait for a moment.
    let cheapest = moves.min_by_key(|(_, load, from, _)| (load.leader.as_ref() == Some(*from), Reverse(load.weight)));
    cheapest.map(|(index, _, from, to)| (index, from.clone(), to.clone()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn name(index: usize) -> String {
        format!("m-broker-{index}")
    }

    /// A stream with its copies, the first of which leads, and consumers that have the same.
    fn stream(index: usize, members: [usize; 3], consumers: usize) -> Vec<Group> {
        let group = |copies: usize| Group {
            stream: format!("s{index:02}"),
            copies,
            leader: Some(name(members[0])),
            others: members[1..].iter().map(|index| name(*index)).collect(),
            ..Group::default()
        };
        std::iter::once(group(3)).chain((0..consumers).map(|_| group(0))).collect()
    }

    /// Does what the brokers do with the moves until there are none, and counts them.
    fn spread(mut groups: Vec<Group>) -> (Vec<usize>, usize) {
        let brokers: Vec<String> = (0..5).map(name).collect();
        let mut count = 0;
        loop {
            let moves = run(&groups, &brokers);
            for Move { stream, from } in &moves {
                let filled = |broker: &String| groups.iter().filter(|group| group.has(broker)).count();
                let member = |broker: &String| groups.iter().any(|group| group.stream == *stream && group.has(broker));
                let to = brokers.iter().filter(|b| !member(b)).min_by_key(|b| filled(b)).cloned().expect("one");
                for group in groups.iter_mut().filter(|group| group.stream == *stream) {
                    let mut members: Vec<String> = group.leader.iter().chain(&group.others).cloned().collect();
                    members.retain(|member| member != from);
                    members.push(to.clone());
                    group.leader = Some(members.remove(0));
                    group.others = members.into_iter().collect();
                }
            }
            count += moves.len();
            assert!(count < 1000, "it comes to an end");
            if moves.is_empty() {
                return (brokers.iter().map(|b| groups.iter().filter(|g| g.has(b)).count()).collect(), count);
            }
        }
    }

    #[rstest]
    #[case(1, 0)]
    #[case(2, 0)]
    #[case(5, 0)]
    #[case(50, 0)]
    #[case(50, 2)]
    fn new_brokers_get_their_share(#[case] streams: usize, #[case] consumers: usize) {
        let groups =
            (0..streams).flat_map(|index| stream(index, [index % 3, (index + 1) % 3, (index + 2) % 3], consumers));
        let (filled, _) = spread(groups.collect());
        let (most, least) = (filled.iter().max().copied().unwrap_or(0), filled.iter().min().copied().unwrap_or(0));
        assert!(most - least <= consumers + 1, "{filled:?}");
    }

    #[test]
    fn a_heavy_stream_does_not_go_to_and_fro() {
        let groups: Vec<Group> = [stream(0, [0, 1, 2], 40), stream(1, [0, 1, 2], 0)].concat();
        let (_, moves) = spread(groups);
        assert!(moves <= 3, "{moves} moves");
    }

    #[test]
    fn who_leads_stays_where_there_is_a_choice() {
        let groups: Vec<Group> = [stream(0, [0, 1, 2], 0), stream(1, [1, 0, 2], 0)].concat();
        let brokers: Vec<String> = (0..5).map(name).collect();
        for Move { stream, from } in run(&groups, &brokers) {
            let led = groups.iter().find(|group| group.stream == stream).and_then(|group| group.leader.clone());
            assert_ne!(led, Some(from));
        }
    }
}
