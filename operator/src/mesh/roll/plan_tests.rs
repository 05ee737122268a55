use std::collections::{BTreeMap, BTreeSet};

use rstest::rstest;

use super::*;
use crate::broker::version::Version;

const NAMES: [&str; 3] = ["m-broker-0", "m-broker-1", "m-broker-2"];

pub fn pod(index: usize, revision: &str, state: State) -> BrokerPod {
    BrokerPod {
        name: NAMES[index].to_owned(),
        uid: format!("uid-{index}"),
        resource_version: "1".to_owned(),
        revision: revision.to_owned(),
        has_tls: true,
        state,
    }
}

pub fn group(name: &str, leader: usize, behind: &[usize]) -> Group {
    let names = |wanted: &dyn Fn(usize) -> bool| -> BTreeSet<String> {
        (0..3).filter(|index| wanted(*index)).map(|index| NAMES[index].to_owned()).collect()
    };
    Group {
        name: name.to_owned(),
        leader: Some(NAMES[leader].to_owned()),
        behind: names(&|index| behind.contains(&index)),
        others: names(&|index| index != leader),
        ..Group::default()
    }
}

pub fn cluster(leader: usize) -> Cluster {
    Cluster {
        brokers: NAMES.map(str::to_owned).into(),
        meta: Some(group("metadata", leader, &[])),
        groups: vec![group("stream s", 0, &[]), group("consumer c of stream s", 1, &[])],
        ..Cluster::default()
    }
}

/// Three brokers, all to be restarted; the first leads.
pub fn seen() -> Observed {
    Observed {
        revision: Some("new".to_owned()),
        pods: (0..3).map(|index| pod(index, "old", State::Ready)).collect(),
        absent: Vec::new(),
        sight: Sight::Seen(cluster(0).into()),
        stopped: BTreeMap::new(),
        templates: BTreeMap::new(),
    }
}

/// With another state or revision of one broker.
pub fn with(mut seen: Observed, index: usize, revision: &str, state: State) -> Observed {
    seen.pods[index] = pod(index, revision, state);
    seen
}

fn failing() -> State {
    State::Failing("ErrImagePull: no such image".to_owned())
}

fn restarted(seen: &Observed) -> Option<String> {
    match run(seen) {
        Step::Restart(pod) => Some(pod.name),
        _ => None,
    }
}

#[test]
fn all_are_restarted_and_who_leads_the_metadata_hands_over_and_is_the_last() {
    let mut now = seen();
    for expected in ["m-broker-2", "m-broker-1"] {
        let name = restarted(&now).expect("a restart");
        assert_eq!(name, expected);
        let index = NAMES.iter().position(|known| *known == name).expect("one of them");
        now = with(now, index, "new", State::Ready);
    }
    assert_eq!(run(&now), Step::HandOver("m-broker-0".to_owned()));
    now.sight = Sight::Seen(cluster(2).into());
    assert_eq!(restarted(&now).as_deref(), Some("m-broker-0"));
    assert_eq!(run(&with(now, 0, "new", State::Ready)), Step::Settled);
}

#[test]
fn a_leader_in_the_middle_is_passed_over() {
    let now = Observed { sight: Sight::Seen(cluster(2).into()), ..seen() };
    assert_eq!(restarted(&now).as_deref(), Some("m-broker-1"));
}

#[rstest]
#[case(State::Starting)]
#[case(State::Leaving)]
fn nobody_joins_a_broker_that_is_down(#[case] state: State) {
    let now = with(seen(), 1, "new", state);
    assert_eq!(run(&now), Step::Wait(Hold::Down { brokers: vec!["m-broker-1".to_owned()] }));
}

#[test]
fn nobody_joins_a_broker_whose_pod_is_not_there() {
    let mut now = seen();
    now.pods.remove(2);
    now.absent = vec!["m-broker-2".to_owned()];
    assert_eq!(run(&now), Step::Wait(Hold::Down { brokers: now.absent.clone() }));
}

#[test]
fn a_roll_stops_at_the_first_broker_that_does_not_come_up_and_going_back_heals_it() {
    let now = with(seen(), 2, "new", failing());
    let why = "ErrImagePull: no such image".to_owned();
    assert_eq!(run(&now), Step::Wait(Hold::Failing { broker: "m-broker-2".to_owned(), why }));
    // The change is taken back: only that broker runs what it should not.
    let back = Observed { revision: Some("old".to_owned()), ..now };
    assert_eq!(restarted(&back).as_deref(), Some("m-broker-2"));
    assert_eq!(run(&with(back, 2, "old", State::Starting)), Step::Settled);
}

#[test]
fn a_roll_that_heals_goes_on_with_the_broker_that_is_down_and_no_other() {
    let now = with(seen(), 1, "old", failing());
    assert_eq!(restarted(&now).as_deref(), Some("m-broker-1"));
    assert_eq!(restarted(&with(now, 1, "old", State::Leaving)), None);
}

#[test]
fn of_several_that_are_down_one_is_restarted_only_when_no_other_broker_hears_it() {
    let now = with(with(seen(), 1, "old", State::Starting), 2, "old", State::Starting);
    assert_eq!(restarted(&now), None, "they may be what holds the majority");
    let unheard = Observed { sight: Sight::Unseen("no connection".to_owned()), ..now };
    assert_eq!(restarted(&unheard).as_deref(), Some("m-broker-2"));
}

#[test]
fn what_is_not_up_to_date_holds_the_roll() {
    let holds = |change: &dyn Fn(&mut Cluster)| {
        let mut cluster = cluster(0);
        change(&mut cluster);
        match run(&Observed { sight: Sight::Seen(cluster.into()), ..seen() }) {
            Step::Wait(hold) => hold,
            other => panic!("{other:?}"),
        }
    };
    let one = || vec!["m-broker-1".to_owned()];
    assert_eq!(holds(&|c| c.brokers.retain(|name| name != "m-broker-1")), Hold::Silent { brokers: one() });
    assert_eq!(holds(&|c| c.meta = None), Hold::Leaderless);
    assert_eq!(holds(&|c| c.meta = Some(group("metadata", 0, &[1]))), Hold::MetadataBehind { brokers: one() });
    let not_a_member = |c: &mut Cluster| c.meta.as_mut().expect("meta").others.retain(|name| name != "m-broker-1");
    assert_eq!(holds(&not_a_member), Hold::MetadataBehind { brokers: one() });
    let groups = |names: &[&str]| Hold::CopiesBehind { groups: names.iter().map(|&name| name.to_owned()).collect() };
    assert_eq!(holds(&|c| c.groups[0] = group("stream s", 0, &[2])), groups(&["stream s"]));
    assert_eq!(holds(&|c| c.groups[1].leader = None), groups(&["consumer c of stream s"]));
    assert_eq!(holds(&|c| c.groups[1].moving = true), groups(&["consumer c of stream s"]));
}

#[test]
fn a_lone_broker_is_restarted() {
    let alone = Cluster { brokers: [NAMES[0].to_owned()].into(), meta: None, ..Cluster::default() };
    let now = Observed { pods: vec![pod(0, "old", State::Ready)], sight: Sight::Seen(alone.into()), ..seen() };
    assert_eq!(restarted(&now).as_deref(), Some("m-broker-0"));
}

#[test]
fn without_sight_nobody_is_restarted_unless_the_roll_is_what_gives_it_back() {
    let blind = Observed { sight: Sight::Unseen("no connection".to_owned()), ..seen() };
    assert_eq!(run(&blind), Step::Wait(Hold::Unseen("no connection".to_owned())));
    assert_eq!(restarted(&Observed { sight: Sight::Changing, ..seen() }).as_deref(), Some("m-broker-2"));
}

#[test]
fn nothing_is_done_before_kubernetes_has_seen_the_change() {
    assert_eq!(run(&Observed { revision: None, ..seen() }), Step::Wait(Hold::Unnoticed));
}

#[test]
fn many_names_are_counted() {
    let hold = Hold::CopiesBehind { groups: (0..5).map(|n| format!("stream s{n}")).collect() };
    assert_eq!(hold.to_string(), "not every copy is up to date of stream s0, stream s1, stream s2 and of 2 more");
}

#[test]
fn a_version_that_is_not_known_stops_the_roll_at_the_first_broker_that_runs_it() {
    let version = |text: &str| Version::read(text).expect("a version");
    let running = |revision: &str, unknown: &str| {
        let mut now = with(seen(), 2, revision, State::Ready);
        let mut cluster = cluster(0);
        cluster.versions = NAMES.iter().map(|&name| (name.to_owned(), version("2.15.2"))).collect();
        cluster.versions.insert(NAMES[2].to_owned(), version(unknown));
        now.sight = Sight::Seen(cluster.into());
        now
    };
    let held = run(&running("new", "2.16.0"));
    assert!(
        matches!(&held, Step::Wait(Hold::Unsupported { broker, why }) if broker == NAMES[2] && why.contains("2.16.0"))
    );
    assert_eq!(restarted(&running("new", "2.14.10")).as_deref(), Some("m-broker-1"), "a known one goes on");
    assert_eq!(restarted(&running("old", "2.16.0")).as_deref(), Some("m-broker-2"), "going back heals it");
}
