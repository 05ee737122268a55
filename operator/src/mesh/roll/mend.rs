//! Brokers that have stopped storing something, as after their volume was full: only a restart ends that. Pure.

use super::{
    observe::{Observed, Sight},
    plan::{Hold, Step},
    pods::{BrokerPod, State},
};
use crate::broker::{
    cluster::{Cluster, Group},
    stopped::Stopped,
};

/// Absent where no broker needs it. One whose pod is not ready has been restarted, and its kubelet goes on with that
/// until it has room.
pub fn run(seen: &Observed) -> Option<Step> {
    let mut held = None;
    for pod in seen.pods.iter().filter(|pod| pod.state == State::Ready) {
        let Some(stopped) = seen.stopped.get(&pod.name) else { continue };
        match hurts(seen, pod, stopped) {
            None => return Some(Step::Restart(pod.clone())),
            Some(why) => held = Some(Step::Wait(Hold::Stopped { broker: pod.name.clone(), why })),
        }
    }
    held
}

/// Why it cannot be restarted now.
fn hurts(seen: &Observed, pod: &BrokerPod, stopped: &Stopped) -> Option<String> {
    let cluster = match &seen.sight {
        Sight::Seen(cluster) => cluster,
        Sight::Unseen(why) => return Some(why.clone()),
        Sight::Changing => return Some("brokers change how they are connected to".to_owned()),
    };
    let others = seen.pods.iter().filter(|other| other.name != pod.name);
    // One that is not ready since others hold it up counts as there; one that has no room itself does not.
    let away = |other: &&BrokerPod| {
        let is_up = match other.state {
            State::Ready => true,
            State::Starting => !seen.stopped.contains_key(&other.name),
            State::Leaving | State::Failing(_) | State::Refused(_) => false,
        };
        !is_up || !cluster.brokers.contains(&other.name)
    };
    let away = others.filter(away).map(|other| &other.name).chain(&seen.absent).next();
    if let Some(away) = away {
        return Some(format!("{away} is not ready or not heard"));
    }
    let needs_it = groups(seen, cluster).find(|group| needs(group, &pod.name, stopped));
    needs_it.map(|group| format!("{} would be left without a majority", group.name))
}

fn groups<'a>(seen: &Observed, cluster: &'a Cluster) -> impl Iterator<Item = &'a Group> {
    let meta = cluster.meta.iter().filter(|_| seen.pods.len() > 1);
    meta.chain(&cluster.groups)
}

/// Whether a group would stand still without this broker, and does not do so already.
fn needs(group: &Group, broker: &str, stopped: &Stopped) -> bool {
    let is_lost_there = stopped.everything || stopped.streams.contains(&group.stream);
    group.has(broker) && !is_lost_there && !group.goes_on_without(broker)
}

#[cfg(test)]
mod tests {
    use super::{
        super::plan::{
            self,
            tests::{cluster, group, pod, seen, with},
        },
        *,
    };

    fn stopped(streams: &[&str]) -> Stopped {
        let streams = streams.iter().map(|&name| name.to_owned()).collect();
        Stopped { everything: false, streams, why: "stream write error: no space left on device".to_owned() }
    }

    /// Nothing is to be rolled out; these brokers cannot write, and the copy of `s` on the last is behind.
    fn full(brokers: &[usize]) -> Observed {
        let mut seen = seen();
        for index in 0..3 {
            seen = with(seen, index, "new", State::Ready);
        }
        let mut cluster = cluster(0);
        cluster.groups = vec![Group { stream: "s".to_owned(), ..group("stream s", 0, &[2]) }];
        seen.sight = Sight::Seen(cluster.into());
        seen.stopped = brokers.iter().map(|index| (format!("m-broker-{index}"), stopped(&["s"]))).collect();
        seen
    }

    fn held(seen: &Observed) -> String {
        match plan::run(seen) {
            Step::Wait(hold) => hold.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_broker_that_has_stopped_storing_is_restarted_also_when_nothing_is_rolled_out() {
        assert_eq!(plan::run(&full(&[])), Step::Settled);
        assert_eq!(plan::run(&full(&[2])), Step::Restart(pod(2, "new", State::Ready)));
    }

    #[test]
    fn its_kubelet_goes_on_with_it_and_no_roll_does() {
        let restarted = with(full(&[2]), 2, "new", State::Starting);
        assert_eq!(plan::run(&restarted), Step::Settled);
        let rolled = with(restarted, 0, "old", State::Ready);
        assert_eq!(held(&rolled), "m-broker-2 is not ready, and no second broker goes meanwhile");
    }

    #[test]
    fn nobody_is_taken_from_a_group_that_needs_him() {
        let mut now = full(&[2]);
        let Sight::Seen(cluster) = &mut now.sight else { panic!("seen") };
        cluster.groups.push(group("stream t", 0, &[1]));
        let told = "m-broker-2 has stopped storing, and its restart waits: stream t would be left without a majority";
        assert_eq!(held(&now), told);
        // And no roll begins.
        assert_eq!(held(&with(now, 0, "old", State::Ready)), told);
    }

    #[test]
    fn when_all_volumes_are_full_one_goes_at_a_time_and_the_next_when_that_one_has_room() {
        let mut all = full(&[0, 1, 2]);
        let Sight::Seen(cluster) = &mut all.sight else { panic!("seen") };
        cluster.groups[0].leader = None;
        assert_eq!(plan::run(&all), Step::Restart(pod(0, "new", State::Ready)));
        let mut first = with(all, 0, "new", State::Starting);
        assert!(held(&first).ends_with("m-broker-0 is not ready or not heard"), "{}", held(&first));
        // It can write again, and waits for the others.
        first.stopped.remove("m-broker-0");
        assert_eq!(plan::run(&first), Step::Restart(pod(1, "new", State::Ready)));
    }

    #[test]
    fn what_is_not_seen_is_not_hurt() {
        let blind = Observed { sight: Sight::Unseen("no connection".to_owned()), ..full(&[2]) };
        assert!(held(&blind).ends_with("no connection"));
        let mut silent = full(&[2]);
        let Sight::Seen(cluster) = &mut silent.sight else { panic!("seen") };
        cluster.brokers.remove("m-broker-1");
        assert!(held(&silent).ends_with("m-broker-1 is not ready or not heard"));
    }
}
