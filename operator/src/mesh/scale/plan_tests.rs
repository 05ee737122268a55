use std::collections::BTreeSet;

use rstest::rstest;

use super::*;
use crate::broker::cluster::Store;

fn name(index: usize) -> String {
    format!("m-broker-{index}")
}

fn group(stream: &str, copies: usize, leader: usize, others: &[usize]) -> Group {
    Group {
        name: format!("stream {stream}"),
        stream: stream.to_owned(),
        copies,
        leader: Some(name(leader)),
        others: others.iter().map(|index| name(*index)).collect(),
        ..Group::default()
    }
}

/// So many brokers, of which the first leads, with a stream on the first three.
fn seen(current: usize, wanted: i32) -> Observed {
    let others: Vec<usize> = (1..current).collect();
    let store = |index: usize| Store {
        streams: if index < 3 { BTreeSet::from(["s".to_owned()]) } else { BTreeSet::new() },
        used: 10,
        limit: 100,
    };
    let cluster = Cluster {
        brokers: (0..current).map(name).collect(),
        meta: Some(Group { name: "metadata".to_owned(), ..group("", 0, 0, &others) }),
        groups: vec![group("s", 3, 0, &[1, 2])],
        stores: (0..current).map(|index| (name(index), store(index))).collect(),
        versions: (0..current).filter_map(|index| Some((name(index), Version::read("2.15.2")?))).collect(),
    };
    Observed {
        mesh: "m".to_owned(),
        wanted,
        current: i32::try_from(current).ok(),
        was_scaling: false,
        sight: Ok(cluster),
    }
}

fn edited(mut seen: Observed, edit: impl FnOnce(&mut Cluster)) -> Observed {
    if let Ok(cluster) = &mut seen.sight {
        edit(cluster);
    }
    seen
}

fn step(seen: &Observed, edit: impl FnOnce(&mut Cluster)) -> Step {
    let seen = Observed { mesh: seen.mesh.clone(), sight: seen.sight.clone(), ..*seen };
    run(&edited(seen, edit))
}

fn meta(cluster: &mut Cluster) -> &mut Group {
    cluster.meta.as_mut().expect("a leader")
}

#[test]
fn a_broker_is_emptied_then_removed_and_then_its_pod_goes() {
    let seen = seen(5, 3);
    let moving = step(&seen, |c| c.groups = vec![group("s", 3, 0, &[1, 4])]);
    assert_eq!(moving, Step::Move(vec![Move { stream: "s".to_owned(), from: name(4) }]));
    let only_copy = step(&seen, |c| {
        c.stores.insert(name(4), Store { streams: BTreeSet::from(["alone".to_owned()]), ..Store::default() });
    });
    assert_eq!(only_copy, Step::Move(vec![Move { stream: "alone".to_owned(), from: name(4) }]));
    let leads = step(&seen, |c| {
        *meta(c) = Group { name: "metadata".to_owned(), ..group("", 0, 4, &[0, 1, 2, 3]) };
    });
    assert_eq!(leads, Step::HandOver(name(4)));
    assert_eq!(step(&seen, |_| {}), Step::Remove(name(4)));
    let gone = |c: &mut Cluster| {
        meta(c).others.remove(&name(4));
    };
    assert_eq!(step(&seen, gone), Step::Lower(name(4)));
    assert_eq!(seen.replicas_after(&Step::Lower(name(4))), 4);
    assert_eq!(seen.replicas_after(&Step::Remove(name(4))), 5, "it goes only when it is no member any more");
    // Whatever else is wrong: without it nothing becomes worse.
    let silent = step(&seen, |c| {
        gone(c);
        c.brokers.clear();
    });
    assert_eq!(silent, Step::Lower(name(4)));
}

#[rstest]
#[case::silent(|c: &mut Cluster| { c.brokers.remove(&name(1)); }, "waiting for m-broker-1 to answer")]
#[case::silent_itself(|c: &mut Cluster| { c.brokers.remove(&name(4)); }, "waiting for m-broker-4 to answer")]
#[case::no_member(|c: &mut Cluster| { meta(c).others.remove(&name(2)); }, "m-broker-2 to be up to date with the metadata")]
#[case::behind(|c: &mut Cluster| { meta(c).behind.insert(name(3)); }, "m-broker-3 to be up to date with the metadata")]
#[case::copy(|c: &mut Cluster| { c.groups[0].behind.insert(name(1)); }, "every copy is up to date of stream s")]
#[case::moving(|c: &mut Cluster| { c.groups[0].moving = true; }, "every copy is up to date of stream s")]
#[case::leaderless(|c: &mut Cluster| { c.meta = None; }, "no broker leads the metadata")]
fn nothing_moves_while_something_is_behind(#[case] edit: fn(&mut Cluster), #[case] why: &str) {
    let down = step(&seen(5, 3), edit);
    assert!(matches!(&down, Step::Wait(told) if told.contains(why)), "{down:?}");
}

#[test]
fn a_member_without_a_name_may_be_the_one_that_is_to_go() {
    let unknown = step(&seen(5, 3), |c| {
        meta(c).others.remove(&name(4));
        meta(c).others.insert("Server name unknown at this time (peerID: x)".to_owned());
    });
    assert!(matches!(&unknown, Step::Wait(why) if why.contains("peerID: x")), "{unknown:?}");
}

#[test]
fn what_the_brokers_left_cannot_take_is_listed() {
    let both = step(&seen(5, 3), |c| {
        c.groups = vec![group("wide", 5, 0, &[1, 2, 3, 4]), group("s", 3, 0, &[1, 4])];
        for index in 0..5 {
            c.stores.get_mut(&name(index)).expect("a store").used = 99;
        }
    });
    let Step::Blocked(what) = both else { panic!("{both:?}") };
    assert!(what[0].contains("wide (5)") && what[0].contains("storage.replicas"), "{what:?}");
    assert!(what[1].contains("store 198 bytes") && what[1].contains("room for 3"), "{what:?}");
}

#[test]
fn one_broker_comes_when_all_others_are_up_to_date() {
    let seen = seen(3, 5);
    assert_eq!(step(&seen, |_| {}), Step::Raise(name(3)));
    assert_eq!(seen.replicas_after(&Step::Raise(name(3))), 4);
    let waits = step(&seen, |c| {
        meta(c).behind.insert(name(2));
    });
    assert!(matches!(waits, Step::Wait(_)), "{waits:?}");
}

#[test]
fn a_broker_that_somebody_took_away_comes_back_at_once() {
    let seen = seen(2, 3);
    let back = step(&seen, |c| {
        meta(c).others.insert(name(2));
        meta(c).behind.insert(name(2));
    });
    assert_eq!(back, Step::Raise(name(2)));
    assert_eq!(step(&seen, |c| c.meta = None), Step::Raise(name(2)), "no majority is left");
    let unseen = Observed { sight: Err("no connection".to_owned()), mesh: "m".to_owned(), ..seen };
    assert_eq!(run(&unseen), Step::Raise(name(2)));
}

#[test]
fn new_brokers_get_their_share_once() {
    let mut seen = seen(5, 5);
    let streams = ["a", "b", "c", "d"].map(|stream| group(stream, 3, 0, &[1, 2]));
    if let Ok(cluster) = &mut seen.sight {
        cluster.groups = streams.to_vec();
    }
    assert_eq!(run(&seen), Step::Settled, "nobody has asked for another number");
    seen.was_scaling = true;
    let Step::Move(moves) = run(&seen) else { panic!("copies move") };
    assert!([name(1), name(2)].contains(&moves[0].from), "who leads stays at first: {moves:?}");
    let waits = edited(seen, |c| c.groups[0].moving = true);
    assert!(matches!(run(&waits), Step::Wait(_)));
}

#[test]
fn brokers_that_cannot_move_copies_keep_them() {
    let older = |cluster: &mut Cluster| {
        cluster.versions.extend(Version::read("2.14.10").map(|version| (name(1), version)));
    };
    let full = edited(seen(5, 3), |cluster| {
        cluster.groups = vec![group("s", 3, 0, &[3, 4])];
    });
    assert!(matches!(step(&full, |_| {}), Step::Move(_)));
    let blocked = step(&full, older);
    assert!(
        matches!(&blocked, Step::Blocked(why) if why[0].contains("m-broker-1 runs nats-server 2.14.10")),
        "{blocked:?}"
    );
    // One that holds nothing may go.
    let empty = step(&seen(5, 3), older);
    assert!(matches!(empty, Step::HandOver(_) | Step::Remove(_)), "{empty:?}");
    let grown = Observed { was_scaling: true, ..seen(5, 5) };
    assert_eq!(step(&grown, older), Step::Settled);
}
