use rstest::rstest;

use super::*;
use crate::{broker::version::Version, mesh::roll::pods::State};

fn name(index: usize) -> String {
    format!("m-broker-{index}")
}

fn pod(index: usize) -> BrokerPod {
    BrokerPod {
        name: name(index),
        uid: "u".to_owned(),
        resource_version: "1".to_owned(),
        revision: "r".to_owned(),
        has_tls: true,
        state: State::Refused("empty".to_owned()),
    }
}

/// Led by the first broker.
fn group(text: &str, others: &[usize], behind: &[usize]) -> Group {
    Group {
        name: text.to_owned(),
        leader: Some(name(0)),
        others: others.iter().map(|index| name(*index)).collect(),
        behind: behind.iter().map(|index| name(*index)).collect(),
        ..Group::default()
    }
}

/// Three brokers, of which the second has lost its volume.
fn seen() -> Observed {
    let cluster = Cluster {
        brokers: BTreeSet::from([name(0), name(2)]),
        meta: Some(group("metadata", &[1, 2], &[1])),
        groups: vec![group("stream s", &[1, 2], &[1])],
        ..Cluster::default()
    };
    Observed {
        brokers: (0..3).map(name).collect(),
        listed: (0..3).map(name).collect(),
        empty: vec![pod(1)],
        given_up: BTreeSet::new(),
        answering: BTreeSet::from([name(0), name(2)]),
        was_replacing: false,
        was_lost: false,
        sight: Some(Ok(cluster)),
    }
}

fn edited(mut seen: Observed, edit: impl FnOnce(&mut Cluster)) -> Observed {
    if let Some(Ok(cluster)) = &mut seen.sight {
        edit(cluster);
    }
    seen
}

fn gone(cluster: &mut Cluster) {
    cluster.meta = Some(group("metadata", &[2], &[]));
}

fn healed(cluster: &mut Cluster) {
    gone(cluster);
    cluster.groups = vec![group("stream s", &[2], &[])];
}

fn removal() -> Step {
    Step::Remove { broker: name(1), member: name(1) }
}

#[test]
fn it_leaves_the_metadata_then_every_group_and_then_it_is_let_in() {
    assert_eq!(run(&seen()), removal());
    let waits = run(&edited(seen(), gone));
    assert!(
        matches!(&waits, Step::Wait(why) if why.contains("stream s has not gone on without m-broker-1")),
        "{waits:?}"
    );
    let seen = edited(seen(), healed);
    assert_eq!(run(&seen), Step::Admit(vec![pod(1)]));
    assert!(counted_on(&seen).contains(&name(1)), "only who lets it in takes it off the list");
    let unlisted = Observed { listed: BTreeSet::from([name(0), name(2)]), sight: None, ..seen };
    assert_eq!(run(&unlisted), Step::Admit(vec![pod(1)]), "it was asked before the list changed");
}

#[rstest]
#[case::silent(|c: &mut Cluster| { c.brokers.remove(&name(2)); }, "m-broker-2 does not answer")]
#[case::meta(|c: &mut Cluster| c.meta = Some(group("metadata", &[1, 2], &[1, 2])), "not up to date with the metadata")]
#[case::member(|c: &mut Cluster| c.meta = Some(group("metadata", &[1], &[1])), "not up to date with the metadata")]
#[case::copy(|c: &mut Cluster| c.groups = vec![group("stream s", &[1, 2], &[1, 2])], "not up to date of stream s")]
#[case::moving(|c: &mut Cluster| c.groups.push(Group { moving: true, ..group("stream t", &[2], &[]) }), "not up to date of stream t")]
#[case::election(|c: &mut Cluster| c.groups[0].leader = None, "not up to date of stream s")]
#[case::leaderless(|c: &mut Cluster| c.meta = None, "no broker leads")]
fn no_second_broker_may_be_missing(#[case] edit: fn(&mut Cluster), #[case] why: &str) {
    let waits = run(&edited(seen(), edit));
    assert!(matches!(&waits, Step::Wait(told) if told.contains(why)), "{waits:?}");
}

#[test]
fn a_stream_of_two_copies_leads_only_without_it() {
    let two = edited(seen(), |c| c.groups = vec![Group { leader: None, ..group("stream s", &[1], &[1]) }]);
    assert_eq!(run(&two), removal());
    let moves = edited(seen(), |c| c.groups[0].moving = true);
    assert_eq!(run(&moves), removal(), "what moves to it comes to no end");
}

#[test]
fn a_member_without_a_name_is_the_one_that_is_left() {
    let unknown = "Server name unknown at this time (peerID: x)".to_owned();
    let others = BTreeSet::from([unknown.clone(), name(2)]);
    let of_others = |c: &mut Cluster| {
        let meta = c.meta.as_mut().expect("a leader");
        (meta.others, meta.behind) = (others.clone(), BTreeSet::from([unknown.clone()]));
    };
    let found = run(&edited(seen(), of_others));
    assert_eq!(found, Step::Remove { broker: name(1), member: unknown.clone() });
    let two = run(&edited(seen(), |c| {
        of_others(c);
        c.meta.as_mut().expect("a leader").others.insert("another".to_owned());
    }));
    assert!(matches!(&two, Step::Wait(why) if why.contains("none of these brokers")), "{two:?}");
}

#[test]
fn several_empty_volumes_are_for_a_person_to_decide() {
    let mut seen = edited(seen(), |c| {
        (c.meta, c.groups) = (None, Vec::new());
        c.brokers.remove(&name(2));
    });
    seen.empty.push(pod(2));
    let lost = run(&seen);
    assert_eq!(lost, Step::Lost(vec![name(1), name(2)]));
    let told = lost.to_string();
    assert!(told.contains("eventmesh.dev/give-up-volumes=m-broker-1,m-broker-2"), "{told}");
    assert_eq!(counted_on(&seen), seen.listed, "nobody leaves the list because nobody answers");

    seen.given_up = BTreeSet::from([name(1), name(2)]);
    assert_eq!(run(&seen), Step::Rescue(1));
    seen = edited(seen, |c| c.versions.extend(Version::read("2.14.10").map(|version| (name(0), version))));
    assert!(matches!(run(&seen), Step::Wait(why) if why.contains("2.15 or newer")));
    seen = edited(seen, |c| c.versions.clear());
    // Then one that is left leads.
    let led = |others: &[usize]| Some(group("metadata", others, others));
    seen = edited(seen, |c| {
        c.meta = led(&[1, 2]);
        c.groups = vec![Group { leader: None, ..group("stream s", &[1, 2], &[1, 2]) }];
    });
    assert_eq!(run(&seen), removal());
    seen = edited(seen, |c| c.meta = led(&[2]));
    assert_eq!(run(&seen), Step::Remove { broker: name(2), member: name(2) }, "all leave before any comes back");
    seen = edited(seen, |c| c.meta = led(&[]));
    assert!(matches!(run(&seen), Step::Wait(why) if why.contains("stream s has not gone on without m-broker-1")));
    seen = edited(seen, |c| c.groups = vec![group("stream s", &[], &[])]);
    assert_eq!(run(&seen), Step::Admit(vec![pod(1)]));
}

#[test]
fn a_broker_that_may_be_somewhere_else_is_never_led_past() {
    let mut seen = edited(seen(), |c| {
        c.meta = None;
        c.brokers.remove(&name(2));
    });
    seen.given_up = BTreeSet::from([name(1), name(2)]);
    let waits = run(&seen);
    assert!(matches!(&waits, Step::Wait(why) if why.contains("m-broker-2 does not answer")), "{waits:?}");
}

#[test]
fn where_nobody_has_anything_all_start_anew() {
    let mut seen = Observed { empty: vec![pod(0), pod(1), pod(2)], sight: Some(Err("silence".to_owned())), ..seen() };
    assert!(matches!(run(&seen), Step::Lost(all) if all.len() == 3));
    seen.given_up = (0..3).map(name).collect();
    assert_eq!(run(&seen), Step::Admit(vec![pod(0), pod(1), pod(2)]));
}

#[test]
fn who_is_given_up_leaves_while_others_are_away_but_a_leader_is_awaited() {
    let given_up = Observed { given_up: BTreeSet::from([name(1)]), ..seen() };
    assert_eq!(run(&edited(given_up, |c| c.groups[0].behind = BTreeSet::from([name(1), name(2)]))), removal());
    let elects = Observed { given_up: BTreeSet::from([name(1)]), ..edited(seen(), |c| c.meta = None) };
    assert!(matches!(run(&elects), Step::Wait(_)), "a majority is about to elect a leader");
}

#[test]
fn afterwards_it_joins_and_copies_come_back() {
    let mut seen = edited(seen(), healed);
    seen.empty.clear();
    seen.listed.remove(&name(1));
    assert_eq!(run(&seen), Step::Settled, "a new mesh does not wait for its brokers here");
    seen.was_replacing = true;
    assert_eq!(run(&seen), Step::Join(vec![name(1)]));
    assert!(!counted_on(&seen).contains(&name(1)));
    let mut seen = edited(seen, |c| {
        c.meta = Some(group("metadata", &[1, 2], &[]));
        c.groups[0].copies = 3;
    });
    assert_eq!(run(&seen), Step::Copy(vec!["stream s".to_owned()]));
    assert!(counted_on(&seen).contains(&name(1)));
    seen = edited(seen, |c| c.groups[0].others = BTreeSet::from([name(1), name(2)]));
    assert_eq!(run(&seen), Step::Settled);
}
