//! The status of a Bridge, from its Deployment and from the reports of its pods.

use std::{collections::BTreeMap, sync::PoisonError};

use eventmesh_crds::{
    Bridge,
    bridge::{BridgeState, BridgeStatus, Counters, RouteStatus},
    conditions::{self, ConditionType, Reason, Verdict},
};
use eventmesh_wire::report::{Report, RouteReport, RouteState};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::time::Instant;

use super::{apply::pods, build};
use crate::{
    cache::{mesh_key, namespaced},
    engine::{Context, Error, apply},
    status_values::signed,
};

/// Writes the status: the verdicts of the pass, and `Connected` from the reports of pods that run what they should.
pub async fn write(
    context: &Context,
    bridge: &Bridge,
    mut verdicts: Vec<Verdict>,
    config_hash: Option<&str>,
) -> Result<(), Error> {
    let (namespace, name) = namespaced(bridge);
    let reports = reports(context, bridge);
    let deployment = context.cache.deployments.get(&ObjectRef::new(&build::child_name(&name)).within(&namespace));
    let pods = deployment.as_ref().and_then(|deployment| deployment.status.clone()).unwrap_or_default();
    verdicts.push(match config_hash {
        Some(hash) => connected(bridge, &reports, hash),
        None => Verdict::pending(ConditionType::Connected),
    });
    let before = bridge.status.clone().unwrap_or_default();
    let generation = bridge.metadata.generation;
    let routes = routes(&reports);
    let selector = build::selector(&name).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let status = BridgeStatus {
        observed_generation: generation,
        conditions: conditions::merge(&before.conditions, &conditions::with_ready(verdicts), generation, context.now()),
        replicas: Some(pods.replicas.unwrap_or(0)),
        ready_replicas: Some(pods.ready_replicas.unwrap_or(0)),
        selector: Some(selector.join(",")),
        active_pod: active(&reports).map(str::to_owned),
        endpoint: endpoint(context, bridge),
        totals: Some(totals(&routes)),
        routes: Some(routes),
    };
    apply::status(&context.client, bridge, bridge.status.as_ref(), &status).await?;
    Ok(())
}

/// Where the endpoint is, or where the Bridge itself is one for others.
fn endpoint(context: &Context, bridge: &Bridge) -> Option<String> {
    let endpoint = &bridge.spec.endpoint;
    let http = endpoint.http.as_ref();
    if let Some(listen) = http.and_then(|http| http.listen.as_ref()) {
        let (namespace, name) = namespaced(bridge);
        let key = ObjectRef::new(&build::child_name(&name)).within(&namespace);
        let service = context.cache.services.get(&key);
        return Some(build::service::url(&namespace, &name, listen.tls.is_some(), service.as_deref()));
    }
    let target = http.and_then(|http| http.target.as_ref()).map(|target| target.url.clone());
    target.or_else(|| endpoint.address())
}

fn reports(context: &Context, bridge: &Bridge) -> Vec<Report> {
    let (namespace, name) = namespaced(bridge);
    let Some(broker) = context.brokers.get(&mesh_key(&bridge.spec.mesh, &namespace)) else { return Vec::new() };
    let mut reports =
        broker.reports.lock().unwrap_or_else(PoisonError::into_inner).of(&namespace, &name, Instant::now());
    // The last word of a pod that is ending, or of one of an earlier Bridge of this name, says nothing of now.
    let running = pods(context, &namespace, &name);
    reports.retain(|report| {
        Some(&report.bridge.uid) == bridge.metadata.uid.as_ref()
            && running.iter().any(|pod| pod.name_any() == report.pod && pod.metadata.deletion_timestamp.is_none())
    });
    reports
}

fn connected(bridge: &Bridge, reports: &[Report], config_hash: &str) -> Verdict {
    let kind = ConditionType::Connected;
    if bridge.spec.replicas == 0 {
        return Verdict::good(kind, Reason::Paused, "spec.replicas is 0: nothing is delivered");
    }
    if reports.is_empty() {
        return Verdict::bad(kind, Reason::NoReport, "no bridge pod has reported yet, or not for 30 seconds");
    }
    for report in reports {
        if let Some(problem) = &report.config_problem {
            let message = format!("pod {} keeps its last good configuration: {problem}", report.pod);
            return Verdict::bad(kind, Reason::InvalidSpec, message);
        }
        if report.config_hash != config_hash {
            let message = format!("pod {} has not taken up the current configuration yet", report.pod);
            return Verdict { kind, status: None, reason: Reason::Connecting, message };
        }
        // A paused pod stays away from the endpoint.
        if bridge.spec.state == Some(BridgeState::Paused) {
            continue;
        }
        if !report.connected.mesh {
            return Verdict::bad(kind, Reason::Connecting, format!("pod {} is not connected to the mesh", report.pod));
        }
        // So does one that waits for its turn.
        if report.lease.as_ref().is_some_and(|lease| !lease.active) {
            continue;
        }
        if !report.connected.endpoint {
            let error = report.connected.endpoint_error.as_ref().map_or("no error yet", |error| error.message.as_str());
            let reason = if report.connected.endpoint_error.is_some() {
                Reason::EndpointUnreachable
            } else {
                Reason::Connecting
            };
            return Verdict::bad(kind, reason, format!("pod {}: {error}", report.pod));
        }
    }
    if let Some(problem) = nobody_active(reports) {
        return Verdict::bad(kind, Reason::Connecting, problem);
    }
    let stuck = reports.iter().flat_map(|report| &report.routes).max_by_key(|route| severity(route.state));
    match stuck {
        Some(route) if route.state != RouteState::Running => {
            if route.state == RouteState::Paused && bridge.spec.state == Some(BridgeState::Paused) {
                return Verdict::good(kind, Reason::Paused, "spec.state is Paused: nothing is delivered");
            }
            let reason = match route.state {
                RouteState::Blocked => Reason::RouteBlocked,
                RouteState::Failed => Reason::EndpointUnreachable,
                RouteState::Paused => Reason::Paused,
                RouteState::Connecting | RouteState::Running | RouteState::Standby => Reason::Connecting,
            };
            let error = route.last_error.as_ref().map_or("no error yet", |error| error.message.as_str());
            Verdict::bad(kind, reason, format!("route {} is {}: {error}", route.name, route.state.label()))
        }
        _ => Verdict::good(
            kind,
            Reason::Connected,
            match active(reports) {
                Some(pod) => format!("{} pod(s) report, {pod} is active", reports.len()),
                None => format!("{} pod(s) report", reports.len()),
            },
        ),
    }
}

/// The pod that carries the events of a Bridge of which one at a time does. Where a report is behind, the other pods' say
/// counts as well: the newest that names itself.
fn active(reports: &[Report]) -> Option<&str> {
    let active = reports.iter().filter(|report| report.lease.as_ref().is_some_and(|lease| lease.active));
    active.max_by_key(|report| report.at).map(|report| report.pod.as_str())
}

fn nobody_active(reports: &[Report]) -> Option<String> {
    let leases = reports.iter().filter_map(|report| report.lease.as_ref()).collect::<Vec<_>>();
    if leases.is_empty() || leases.iter().any(|lease| lease.active) {
        return None;
    }
    let known = leases.iter().find_map(|lease| lease.problem.clone());
    Some(
        known.unwrap_or_else(|| {
            "no pod is active yet; one takes over when the lease of the last one has ended".to_owned()
        }),
    )
}

fn severity(state: RouteState) -> u8 {
    match state {
        RouteState::Standby => 0,
        RouteState::Running => 1,
        RouteState::Paused => 2,
        RouteState::Connecting => 3,
        RouteState::Blocked => 4,
        RouteState::Failed => 5,
    }
}

/// Each route, summed over the pods; its state is the worst that a pod reports.
fn routes(reports: &[Report]) -> Vec<RouteStatus> {
    let mut by_name: BTreeMap<&str, Vec<&RouteReport>> = BTreeMap::new();
    for route in reports.iter().flat_map(|report| &report.routes) {
        by_name.entry(&route.name).or_default().push(route);
    }
    by_name.values().filter_map(|routes| summed(routes)).collect()
}

fn summed(routes: &[&RouteReport]) -> Option<RouteStatus> {
    let worst = routes.iter().max_by_key(|route| severity(route.state))?;
    let latest = routes.iter().filter_map(|route| route.last_error.as_ref()).max_by_key(|error| error.at);
    let sum = |of: fn(&RouteReport) -> u64| signed(routes.iter().map(|route| of(route)).fold(0, u64::saturating_add));
    Some(RouteStatus {
        name: worst.name.clone(),
        state: format!("{:?}", worst.state),
        since: Some(worst.since.to_string()),
        counters: Counters {
            received: sum(|r| r.counters.received),
            delivered: sum(|r| r.counters.delivered),
            filtered: sum(|r| r.counters.filtered),
            dead_lettered: sum(|r| r.counters.dead_lettered),
            dropped: sum(|r| r.counters.dropped),
            in_flight: sum(|r| r.counters.in_flight),
            // All pods read from one consumer, so each sees the same backlog.
            lag: routes.iter().filter_map(|route| route.lag).max().map(signed),
        },
        retries: sum(|r| r.retries),
        restarts: sum(|r| r.restarts),
        last_error: latest.map(|error| error.message.clone()),
        last_error_at: latest.map(|error| error.at.to_string()),
    })
}

fn totals(routes: &[RouteStatus]) -> Counters {
    let sum = |of: fn(&Counters) -> i64| routes.iter().map(|route| of(&route.counters)).fold(0, i64::saturating_add);
    let lags: Vec<i64> = routes.iter().filter_map(|route| route.counters.lag).collect();
    Counters {
        received: sum(|c| c.received),
        delivered: sum(|c| c.delivered),
        filtered: sum(|c| c.filtered),
        dead_lettered: sum(|c| c.dead_lettered),
        dropped: sum(|c| c.dropped),
        in_flight: sum(|c| c.in_flight),
        lag: (!lags.is_empty()).then(|| lags.iter().copied().fold(0, i64::saturating_add)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(pod: &str, state: &str, endpoint: bool) -> Report {
        let error = if endpoint { Value::Null } else { json!({"message": "refused", "at": "2026-01-01T00:00:00Z"}) };
        serde_json::from_value(json!({
            "version": 1, "bridge": {"namespace": "a", "name": "b", "uid": "u"}, "pod": pod, "configHash": "h",
            "at": "2026-01-01T00:00:00Z",
            "connected": {"mesh": true, "endpoint": endpoint, "endpointError": error},
            "routes": [{
                "name": "out", "direction": "Outbound", "state": state, "since": "2026-01-01T00:00:00Z",
                "counters": {"received": 5, "delivered": 3, "filtered": 1, "deadLettered": 0, "dropped": 0, "inFlight": 1},
                "retries": 2, "restarts": 0, "lag": 7, "lastError": {"message": "slow", "at": "2026-01-01T00:00:00Z"},
            }],
        }))
        .expect("a report")
    }

    fn bridge(fields: &Value) -> Bridge {
        let mut spec = json!({
            "mesh": {"name": "m"}, "endpoint": {"mqtt": {"url": "mqtt://h:1"}}, "replicas": 1,
            "outbound": [{"name": "out", "from": {"topic": "t"}, "to": "x"}],
        });
        spec.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Bridge", "metadata": {"name": "b", "namespace": "a"}, "spec": spec,
        }))
        .expect("a bridge")
    }

    #[test]
    fn connected_tells_the_worst() {
        let spec = bridge(&json!({}));
        let reason = |reports: &[Report]| connected(&spec, reports, "h").reason;
        assert_eq!(reason(&[]), Reason::NoReport);
        assert_eq!(reason(&[report("p1", "Running", true)]), Reason::Connected);
        assert_eq!(reason(&[report("p1", "Running", true), report("p2", "Blocked", true)]), Reason::RouteBlocked);
        let unreachable = connected(&spec, &[report("p1", "Connecting", false)], "h");
        assert_eq!(
            (unreachable.reason, unreachable.message.as_str()),
            (Reason::EndpointUnreachable, "pod p1: refused")
        );
        let old = connected(&spec, &[Report { config_hash: "old".into(), ..report("p1", "Running", true) }], "h");
        assert_eq!((old.status, old.reason), (None, Reason::Connecting), "an old configuration is not the spec's");
        assert_eq!(connected(&bridge(&json!({"replicas": 0})), &[], "h").reason, Reason::Paused);
        let paused = connected(&bridge(&json!({"state": "Paused"})), &[report("p1", "Paused", false)], "h");
        assert_eq!((paused.status, paused.reason), (Some(true), Reason::Paused));
    }

    #[test]
    fn one_pod_is_active_and_the_others_are_no_trouble() {
        let spec = bridge(&json!({"replicas": 2}));
        let with = |pod: &str, state: &str, active: bool| {
            let lease = serde_json::from_value(json!({"active": active, "holder": "p1"})).expect("a lease");
            Report { lease: Some(lease), ..report(pod, state, active) }
        };
        let reports = [with("p1", "Running", true), with("p2", "Standby", false)];
        let verdict = connected(&spec, &reports, "h");
        assert_eq!((verdict.reason, active(&reports)), (Reason::Connected, Some("p1")));
        assert_eq!(routes(&reports)[0].state, "Running");
        let waiting = [with("p1", "Standby", false), with("p2", "Standby", false)];
        assert_eq!((connected(&spec, &waiting, "h").status, active(&waiting)), (Some(false), None));
        let blocked = [with("p1", "Blocked", true), with("p2", "Standby", false)];
        assert_eq!(connected(&spec, &blocked, "h").reason, Reason::RouteBlocked);
    }

    #[test]
    fn numbers_that_no_pod_can_have_counted_end_at_the_largest() {
        let mut liar = report("p1", "Running", true);
        liar.routes[0].counters.received = u64::MAX;
        let mut other = liar.routes[0].clone();
        other.name = "other".to_owned();
        liar.routes.push(other);
        assert_eq!(totals(&routes(&[liar, report("p2", "Running", true)])).received, i64::MAX);
    }

    #[test]
    fn numbers_are_summed_and_the_backlog_is_not() {
        let routes = routes(&[report("p1", "Running", true), report("p2", "Blocked", true)]);
        let [route] = routes.as_slice() else { panic!("one route, not {}", routes.len()) };
        assert_eq!((route.counters.received, route.counters.delivered, route.counters.lag), (10, 6, Some(7)));
        assert_eq!((route.state.as_str(), route.retries), ("Blocked", 4));
        let sums = totals(&routes);
        assert_eq!(sums.received, sums.delivered + sums.filtered + sums.dead_lettered + sums.dropped + sums.in_flight);
    }
}
