//! The reports of the bridge pods of a mesh, kept while they are fresh.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use eventmesh_wire::{
    names::{self, REPORT_WILDCARD},
    report::{Report, RouteState},
};
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use super::{BrokerChange, BrokerError, MeshBroker};

/// Age at which a report no longer counts: pods report every few seconds.
pub const FRESH: Duration = Duration::from_secs(30);
/// Least time between two announcements of one Bridge when only numbers moved.
const QUIET: Duration = Duration::from_secs(10);

/// Latest report of each pod.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    /// By namespace and Bridge, then by pod.
    by_bridge: BTreeMap<(String, String), Group>,
}

#[derive(Debug, Clone, Default)]
struct Group {
    pods: BTreeMap<String, (Instant, Report)>,
    announced: Option<Instant>,
    /// Whether numbers have moved since the last announcement.
    stale: bool,
}

impl Reports {
    /// The fresh reports of a Bridge, ordered by pod.
    pub fn of(&self, namespace: &str, bridge: &str, now: Instant) -> Vec<Report> {
        self.by_bridge
            .get(&(namespace.to_owned(), bridge.to_owned()))
            .map(|group| {
                let fresh = group.pods.values().filter(|(at, _)| now.duration_since(*at) < FRESH);
                fresh.map(|(_, report)| report.clone()).collect()
            })
            .unwrap_or_default()
    }

    /// Stores a report; true when the Bridge should look at it now.
    fn put(&mut self, report: Report, now: Instant) -> bool {
        let key = (report.bridge.namespace.clone(), report.bridge.name.clone());
        let group = self.by_bridge.entry(key).or_default();
        let before = group.pods.get(&report.pod).map(|(_, old)| old);
        group.stale |= before.is_none_or(|old| old.routes != report.routes);
        let changed = before.is_none_or(|old| standing(old) != standing(&report));
        group.pods.insert(report.pod.clone(), (now, report));
        if changed || group.due(now) {
            group.announced = Some(now);
            group.stale = false;
            return true;
        }
        false
    }

    /// Drops reports that are too old; returns the Bridges that should look.
    fn sweep(&mut self, now: Instant) -> Vec<(String, String)> {
        let mut due = Vec::new();
        for (key, group) in &mut self.by_bridge {
            let count = group.pods.len();
            group.pods.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
            if group.pods.len() != count || group.due(now) {
                group.announced = Some(now);
                group.stale = false;
                due.push(key.clone());
            }
        }
        self.by_bridge.retain(|_, group| !group.pods.is_empty());
        due
    }
}

impl Group {
    fn due(&self, now: Instant) -> bool {
        self.stale && self.announced.is_none_or(|at| now.duration_since(at) >= QUIET)
    }
}

/// What of a report is a state and not a number.
#[derive(PartialEq)]
struct Standing<'r> {
    mesh: bool,
    endpoint: bool,
    active: Option<bool>,
    config_hash: &'r str,
    has_problem: bool,
    routes: Vec<(&'r str, RouteState)>,
}

fn standing(report: &Report) -> Standing<'_> {
    Standing {
        mesh: report.connected.mesh,
        endpoint: report.connected.endpoint,
        active: report.lease.as_ref().map(|lease| lease.active),
        config_hash: &report.config_hash,
        has_problem: report.config_problem.is_some(),
        routes: report.routes.iter().map(|route| (route.name.as_str(), route.state)).collect(),
    }
}

/// Listens until the mesh is removed.
pub(super) async fn run(broker: Arc<MeshBroker>) -> Result<(), BrokerError> {
    let subscribed = broker.client.subscribe(REPORT_WILDCARD).await;
    let mut messages = subscribed.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
    let mut ticks = interval(Duration::from_secs(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = broker.stop().cancelled() => return Ok(()),
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                match serde_json::from_slice::<Report>(&message.payload) {
                    Ok(report) if !is_of(&report, &message.subject) => {
                        warn!(mesh = %broker.key(), subject = %message.subject, "a report in the name of another pod");
                    }
                    Ok(report) => {
                        let (namespace, bridge) = (report.bridge.namespace.clone(), report.bridge.name.clone());
                        let look = lock(&broker).put(report, Instant::now());
                        if look {
                            broker.announce(BrokerChange::Report { namespace, bridge });
                        }
                    }
                    Err(error) => warn!(mesh = %broker.key(), subject = %message.subject, %error, "unreadable report"),
                }
            }
            _ = ticks.tick() => {
                let due = lock(&broker).sweep(Instant::now());
                for (namespace, bridge) in due {
                    broker.announce(BrokerChange::Report { namespace, bridge });
                }
            }
        }
    }
}

/// Whether a report came on the subject of the pod that it names: who may publish on a subject speaks for nobody else.
fn is_of(report: &Report, subject: &str) -> bool {
    names::report_subject(&report.bridge.namespace, &report.bridge.name, &report.pod) == subject
}

fn lock(broker: &MeshBroker) -> std::sync::MutexGuard<'_, Reports> {
    broker.reports.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(endpoint: bool, received: u64) -> Report {
        serde_json::from_value(json!({
            "version": 1, "bridge": {"namespace": "a", "name": "b", "uid": "u"}, "pod": "b-1", "configHash": "h",
            "at": "2026-01-01T00:00:00Z", "connected": {"mesh": true, "endpoint": endpoint},
            "routes": [{
                "name": "r", "direction": "Inbound", "state": "Running", "since": "2026-01-01T00:00:00Z",
                "counters": {"received": received, "delivered": received, "filtered": 0, "deadLettered": 0, "dropped": 0, "inFlight": 0},
                "retries": 0, "restarts": 0,
            }],
        }))
        .expect("a report")
    }

    #[test]
    fn a_pod_speaks_for_itself_only() {
        let report = report(true, 1);
        assert!(is_of(&report, "$EM.report.a.b.b-1"));
        for other in ["$EM.report.a.b.b-2", "$EM.report.a.c.b-1", "$EM.report.c.b.b-1"] {
            assert!(!is_of(&report, other), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn states_are_announced_at_once_and_numbers_after_a_while() {
        let mut reports = Reports::default();
        let start = Instant::now();
        assert!(reports.put(report(true, 1), start), "the first");
        assert!(!reports.put(report(true, 2), start + Duration::from_secs(5)), "numbers only");
        assert!(reports.put(report(false, 2), start + Duration::from_secs(6)), "a state");
        assert!(!reports.put(report(false, 2), start + Duration::from_secs(20)), "nothing moved");
        assert!(reports.put(report(false, 3), start + Duration::from_secs(21)), "numbers, long after");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_announced_once() {
        let mut reports = Reports::default();
        let start = Instant::now();
        reports.put(report(true, 1), start);
        assert_eq!(reports.of("a", "b", start).len(), 1);
        assert_eq!(reports.sweep(start + FRESH), vec![("a".to_owned(), "b".to_owned())]);
        assert_eq!(reports.sweep(start + FRESH * 2), vec![]);
        assert!(reports.of("a", "b", start).is_empty());
    }
}
