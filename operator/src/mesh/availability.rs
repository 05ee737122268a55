//! Whether a mesh works, from its brokers and from the roll. Pure.

use std::{collections::BTreeMap, sync::Arc};

use eventmesh_crds::{
    EventMesh,
    conditions::{self, ConditionType, Reason, Verdict},
    mesh::BrokerStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{
    build::names,
    clocks::Clocks,
    roll::{
        Progress,
        pods::{self, State},
    },
};
use crate::broker::stopped::StoppedByBroker;

/// Brokers that there should be.
pub fn wanted(mesh: &EventMesh) -> usize {
    usize::try_from(mesh.spec.brokers.count()).unwrap_or_default()
}

/// Those of them that are ready.
pub fn ready(mesh: &EventMesh, brokers: &[BrokerStatus]) -> usize {
    names(mesh).filter(|name| brokers.iter().any(|broker| broker.ready && broker.name == *name)).count()
}

fn names(mesh: &EventMesh) -> impl Iterator<Item = String> {
    let mesh_name = mesh.name_any();
    (0..mesh.spec.brokers.count()).map(move |ordinal| names::broker(&mesh_name, ordinal))
}

/// How many brokers are ready, and how it stands with each that is not.
pub struct Availability {
    wanted: usize,
    ready: usize,
    away: Vec<String>,
    /// Brokers that have stopped storing something.
    stopped: StoppedByBroker,
    /// Those of them that are ready.
    impaired: usize,
    clocks: Clocks,
}

impl Availability {
    /// `failures`: why brokers do not come up, by name.
    pub fn of(
        mesh: &EventMesh,
        brokers: &[BrokerStatus],
        failures: &BTreeMap<String, String>,
        stopped: &StoppedByBroker,
        clocks: &Clocks,
    ) -> Self {
        let restarts = mesh.status.iter().flat_map(|status| status.restarts.iter().flatten()).collect::<Vec<_>>();
        let is_ready = |name: &str| brokers.iter().any(|broker| broker.ready && broker.name == name);
        let away = names(mesh).filter(|name| !is_ready(name)).map(|name| {
            let restart = restarts.iter().find(|restart| restart.broker == name);
            let restart = restart.map(|one| format!("restarted at {}: {}", one.time, one.message));
            let told: Vec<String> = restart.into_iter().chain(failures.get(&name).cloned()).collect();
            if told.is_empty() { name } else { format!("{name} ({})", told.join("; ")) }
        });
        Self {
            wanted: wanted(mesh),
            ready: ready(mesh, brokers),
            away: away.collect(),
            stopped: stopped.clone(),
            impaired: names(mesh).filter(|name| is_ready(name) && stopped.contains_key(name)).count(),
            clocks: clocks.clone(),
        }
    }

    /// True while a majority works, since events flow then; the reason says whether it is all of them.
    pub fn verdict(&self, progress: &Progress, connected: bool) -> Verdict {
        let Self { wanted, ready, away, stopped, impaired, clocks } = self;
        let count = format!("{ready} of {wanted} brokers are ready");
        let message = if away.is_empty() { count } else { format!("{count}; not ready: {}", away.join(", ")) };
        let works = *ready > wanted / 2;
        let stores = ready - impaired > wanted / 2;
        let kind = ConditionType::Available;
        match progress {
            Progress::Stopped(why) => {
                let stopped = if away.is_empty() { why } else { "the roll has stopped there" };
                let message = format!("{message}; {stopped}");
                Verdict { kind, status: Some(works && connected), reason: Reason::RollStopped, message }
            }
            _ if !works => Verdict::bad(kind, Reason::BrokersStarting, message),
            _ if !connected => {
                let message = format!("{message}; the operator is not connected to them yet");
                Verdict::bad(kind, Reason::BrokerUnavailable, message)
            }
            progress if !stopped.is_empty() => {
                let step = if let Progress::Going(step) = progress { format!("; {step}") } else { String::new() };
                let message = format!("{}; {message}{step}", self::stopped(stopped));
                Verdict { kind, status: Some(stores), reason: Reason::StorageStopped, message }
            }
            Progress::Going(step) => Verdict::good(kind, Reason::RollingOut, format!("{message}; {step}")),
            Progress::Settled if ready < wanted => Verdict::good(kind, Reason::Degraded, message),
            Progress::Settled if !clocks.are_right() => {
                Verdict::good(kind, Reason::ClocksDiffer, format!("{message}; {clocks}"))
            }
            Progress::Settled => Verdict::good(kind, Reason::Available, message),
        }
    }
}

/// What brokers have stopped storing, and what to do.
pub fn stopped(brokers: &StoppedByBroker) -> String {
    let told: Vec<String> = brokers.iter().map(|(name, stopped)| format!("{name} {stopped}")).collect();
    format!("{}; make sure that the volume has room", told.join("; "))
}

/// Why brokers do not come up, by name.
pub fn failures(pods: &[Arc<Pod>]) -> BTreeMap<String, String> {
    let failure = |pod: &Arc<Pod>| match pods::read(pod).state {
        State::Failing(why) | State::Refused(why) => Some((pod.name_any(), why)),
        _ => None,
    };
    pods.iter().filter_map(failure).collect()
}

/// Why a mesh that works is not ready.
const REDUCED: [Reason; 4] = [Reason::Degraded, Reason::RollingOut, Reason::RollStopped, Reason::StorageStopped];

/// `Ready` only when all brokers are: a mesh that has lost one has no reserve left.
pub fn with_ready(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let mut all = conditions::with_ready(verdicts);
    let reduced = all.iter().find(|v| v.kind == ConditionType::Available && REDUCED.contains(&v.reason)).cloned();
    if let (Some(available), Some(ready)) = (reduced, all.first_mut())
        && ready.status == Some(true)
    {
        *ready = Verdict { kind: ConditionType::Ready, status: Some(false), ..available };
    }
    all
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::broker::stopped::Stopped;

    /// A mesh of as many brokers, some of which are ready.
    fn brokers(ready: &[bool]) -> Availability {
        let restarts = json!([{"broker": "m-broker-1", "podUid": "u", "time": "T", "reason": "ImageChanged", "message": "image changed from a to b"}]);
        let mesh = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh", "metadata": {"name": "m"},
            "spec": {"brokers": {"replicas": ready.len()}}, "status": {"conditions": [], "restarts": restarts},
        });
        let broker = |(i, ready): (usize, &bool)| BrokerStatus {
            name: format!("m-broker-{i}"),
            ready: *ready,
            ..BrokerStatus::default()
        };
        let all: Vec<_> = ready.iter().enumerate().map(broker).collect();
        let failures = BTreeMap::from([("m-broker-2".to_owned(), "ErrImagePull".to_owned())]);
        Availability::of(
            &serde_json::from_value(mesh).expect("a mesh"),
            &all,
            &failures,
            &StoppedByBroker::new(),
            &Clocks::default(),
        )
    }

    /// The same three, of which the first ones have no room.
    fn full(count: usize) -> Availability {
        let stopped = Stopped { streams: ["s".to_owned()].into(), why: "no room".to_owned(), ..Stopped::default() };
        let stopped = (0..count).map(|i| (format!("m-broker-{i}"), stopped.clone())).collect();
        Availability { stopped, impaired: count, ..brokers(&[true, true, true]) }
    }

    #[rstest]
    #[case(1, Progress::Settled, true)]
    #[case(1, going(), true)]
    #[case(2, Progress::Settled, false)]
    fn brokers_that_store_no_longer_are_told_and_count_as_away(
        #[case] count: usize,
        #[case] progress: Progress,
        #[case] works: bool,
    ) {
        let verdict = full(count).verdict(&progress, true);
        assert_eq!((verdict.status, verdict.reason), (Some(works), Reason::StorageStopped));
        assert!(verdict.message.starts_with("m-broker-0 has stopped storing s: no room"), "{}", verdict.message);
        assert_eq!(with_ready(vec![verdict])[0].status, Some(false));
    }

    #[rstest]
    #[case(&[true, true, true], Progress::Settled, Reason::ClocksDiffer, true)]
    #[case(&[true, true, false], Progress::Settled, Reason::Degraded, false)]
    #[case(&[true, true, true], going(), Reason::RollingOut, false)]
    fn a_wrong_clock_is_told_when_nothing_else_is_and_the_mesh_is_ready(
        #[case] ready: &[bool],
        #[case] progress: Progress,
        #[case] reason: Reason,
        #[case] is_ready: bool,
    ) {
        let clocks = Clocks::of([("m-broker-1", 60)]);
        let verdict = Availability { clocks: clocks.clone(), ..brokers(ready) }.verdict(&progress, true);
        assert_eq!((verdict.status, verdict.reason), (Some(true), reason));
        assert_eq!(verdict.message.ends_with(&format!("; {clocks}")), is_ready);
        assert_eq!(with_ready(vec![verdict])[0].status, Some(is_ready));
    }

    fn going() -> Progress {
        Progress::Going("restarting".to_owned())
    }

    fn stopped() -> Progress {
        Progress::Stopped("no such image".to_owned())
    }

    #[rstest]
    #[case(&[true, true, true], Progress::Settled, true, Some(true), Reason::Available)]
    #[case(&[true, true, true], Progress::Settled, false, Some(false), Reason::BrokerUnavailable)]
    #[case(&[true, true, false], Progress::Settled, true, Some(true), Reason::Degraded)]
    #[case(&[true, true, false], going(), true, Some(true), Reason::RollingOut)]
    #[case(&[true, true, false], stopped(), true, Some(true), Reason::RollStopped)]
    #[case(&[true, false, false], Progress::Settled, true, Some(false), Reason::BrokersStarting)]
    #[case(&[true, false, false], stopped(), true, Some(false), Reason::RollStopped)]
    #[case(&[false], going(), true, Some(false), Reason::BrokersStarting)]
    fn availability(
        #[case] ready: &[bool],
        #[case] progress: Progress,
        #[case] connected: bool,
        #[case] status: Option<bool>,
        #[case] reason: Reason,
    ) {
        let verdict = brokers(ready).verdict(&progress, connected);
        assert_eq!((verdict.status, verdict.reason), (status, reason));
    }

    #[test]
    fn a_broker_that_is_away_is_named_with_its_restart_and_what_is_wrong() {
        let message = brokers(&[true, true, false]).verdict(&stopped(), true).message;
        let away = "m-broker-2 (ErrImagePull)";
        assert_eq!(message, format!("2 of 3 brokers are ready; not ready: {away}; the roll has stopped there"));
        let message = brokers(&[true, false, true]).verdict(&going(), true).message;
        let restart = "m-broker-1 (restarted at T: image changed from a to b)";
        assert_eq!(message, format!("2 of 3 brokers are ready; not ready: {restart}; restarting"));
    }

    #[rstest]
    #[case(Progress::Settled, Reason::Degraded)]
    #[case(going(), Reason::RollingOut)]
    #[case(stopped(), Reason::RollStopped)]
    fn a_degraded_mesh_is_available_but_not_ready(#[case] progress: Progress, #[case] reason: Reason) {
        let verdicts = with_ready(vec![brokers(&[true, true, false]).verdict(&progress, true)]);
        assert_eq!((verdicts[0].status, verdicts[0].reason), (Some(false), reason));
        assert_eq!(verdicts[1].status, Some(true));
    }
}
