//! The status of an EventMesh, from its pods and from what the brokers say of themselves.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use eventmesh_crds::{
    EventMesh,
    conditions::{self, ConditionType, Reason, Verdict},
    mesh::{BrokerRestart, BrokerStatus, Endpoints, EventMeshStatus},
    tls::CertificatesStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{
    apply as children,
    build::{listeners::Listener, names},
    certificates::{Files, Plan},
    roll::{
        self, Progress, Roll,
        pods::{self, State},
    },
    take_up::{self, TakeUp},
};
use crate::{
    broker::{MeshKey, health::Health},
    cache::{mesh_key, namespaced},
    engine::{Context, Error, apply},
    pki::reading::facts,
};

/// Verdicts for a mesh that its user has paused.
pub fn paused() -> Vec<Verdict> {
    let message = "spec.paused is true: the operator changes nothing; events keep flowing";
    vec![
        Verdict::good(ConditionType::Accepted, Reason::Accepted, ""),
        Verdict::good(ConditionType::ResolvedRefs, Reason::ResolvedRefs, ""),
        Verdict { kind: ConditionType::Programmed, status: None, reason: Reason::Paused, message: message.to_owned() },
        Verdict::pending(ConditionType::Available),
    ]
}

/// Verdicts for a spec that cannot work.
pub fn rejected(accepted: Verdict) -> Vec<Verdict> {
    vec![
        accepted,
        Verdict::good(ConditionType::ResolvedRefs, Reason::ResolvedRefs, ""),
        Verdict::pending(ConditionType::Programmed),
        Verdict::pending(ConditionType::Available),
    ]
}

/// Verdicts for a mesh whose keys cannot be used.
pub fn unresolved(resolved_refs: Verdict) -> Vec<Verdict> {
    vec![
        Verdict::good(ConditionType::Accepted, Reason::Accepted, ""),
        resolved_refs,
        Verdict::pending(ConditionType::Programmed),
        Verdict::pending(ConditionType::Available),
    ]
}

/// Verdicts for a mesh whose brokers cannot be given certificates.
pub fn without_certificates(plan: &Plan) -> Vec<Verdict> {
    let problem = |kind| plan.problem.clone().filter(|problem| problem.kind == kind);
    let kind = ConditionType::ResolvedRefs;
    vec![
        Verdict::good(ConditionType::Accepted, Reason::Accepted, ""),
        problem(kind).unwrap_or_else(|| Verdict::good(kind, Reason::ResolvedRefs, "")),
        problem(ConditionType::Programmed).unwrap_or_else(|| Verdict::pending(ConditionType::Programmed)),
        Verdict::pending(ConditionType::Available),
    ]
}

/// Verdicts for a mesh whose children are applied.
pub fn programmed(context: &Context, mesh: &EventMesh, plan: &Plan, take_up: &TakeUp, roll: &Roll) -> Vec<Verdict> {
    let (namespace, name) = namespaced(mesh);
    let brokers = brokers(context, &namespace, &name);
    let failures = failures(&children::pods(context, &namespace, &name));
    let key = MeshKey { namespace, name };
    let connected = context.brokers.get(&key).is_some_and(|broker| broker.is_ready());
    let problem = |kind| plan.problem.clone().filter(|problem| problem.kind == kind);
    let (refs, programmed) = (ConditionType::ResolvedRefs, ConditionType::Programmed);
    let record = context.identities.get(&key).and_then(|report| report.problem);
    let record = record.map(|problem| Verdict::bad(refs, Reason::KeysUnreadable, problem));
    vec![
        accepted(mesh),
        record.or_else(|| problem(refs)).unwrap_or_else(|| Verdict::good(refs, Reason::ResolvedRefs, "")),
        problem(programmed).unwrap_or_else(|| Verdict::good(programmed, Reason::Programmed, take_up.message())),
        available(&Brokers::of(mesh, &brokers, &failures), &roll.progress(), connected),
    ]
}

fn accepted(mesh: &EventMesh) -> Verdict {
    if mesh.spec.has_tls() {
        return Verdict::good(ConditionType::Accepted, Reason::Accepted, "");
    }
    let message = "spec.tls.issuer is Disabled: passwords and events of clients cross the network in the clear";
    Verdict::good(ConditionType::Accepted, Reason::AcceptedWithWarning, message)
}

fn replicas(mesh: &EventMesh) -> usize {
    usize::try_from(mesh.spec.brokers.count()).unwrap_or_default()
}

/// How many brokers are ready, and how it stands with each that is not.
struct Brokers {
    wanted: usize,
    ready: usize,
    away: Vec<String>,
}

impl Brokers {
    /// `failures`: why brokers do not come up, by name.
    fn of(mesh: &EventMesh, brokers: &[BrokerStatus], failures: &BTreeMap<String, String>) -> Self {
        let restarts = mesh.status.iter().flat_map(|status| status.restarts.iter().flatten()).collect::<Vec<_>>();
        let is_ready = |name: &str| brokers.iter().any(|broker| broker.ready && broker.name == name);
        let wanted = replicas(mesh);
        let names = (0..wanted).map(|ordinal| format!("{}-{ordinal}", names::brokers(&mesh.name_any())));
        let away = names.filter(|name| !is_ready(name)).map(|name| {
            let restart = restarts.iter().find(|restart| restart.broker == name);
            let restart = restart.map(|one| format!("restarted at {}: {}", one.time, one.message));
            let told: Vec<String> = restart.into_iter().chain(failures.get(&name).cloned()).collect();
            if told.is_empty() { name } else { format!("{name} ({})", told.join("; ")) }
        });
        Self { wanted, ready: brokers.iter().filter(|broker| broker.ready).count(), away: away.collect() }
    }
}

fn failures(pods: &[Arc<Pod>]) -> BTreeMap<String, String> {
    let failure = |pod: &Arc<Pod>| match pods::read(pod).state {
        State::Failing(why) => Some((pod.name_any(), why)),
        _ => None,
    };
    pods.iter().filter_map(failure).collect()
}

/// True while a majority works, since events flow then; the reason says whether it is all of them.
fn available(brokers: &Brokers, progress: &Progress, connected: bool) -> Verdict {
    let Brokers { wanted, ready, away } = brokers;
    let count = format!("{ready} of {wanted} brokers are ready");
    let message = if away.is_empty() { count } else { format!("{count}; not ready: {}", away.join(", ")) };
    let works = *ready > wanted / 2;
    let kind = ConditionType::Available;
    match progress {
        Progress::Stopped(_) => {
            let message = format!("{message}; the roll has stopped there");
            Verdict { kind, status: Some(works && connected), reason: Reason::RollStopped, message }
        }
        _ if !works => Verdict::bad(kind, Reason::BrokersStarting, message),
        _ if !connected => {
            let message = format!("{message}; the operator is not connected to them yet");
            Verdict::bad(kind, Reason::BrokerUnavailable, message)
        }
        Progress::Going(step) => Verdict::good(kind, Reason::RollingOut, format!("{message}; {step}")),
        Progress::Settled if ready < wanted => Verdict::good(kind, Reason::Degraded, message),
        Progress::Settled => Verdict::good(kind, Reason::Available, message),
    }
}

/// Why a mesh that works is not ready.
const REDUCED: [Reason; 3] = [Reason::Degraded, Reason::RollingOut, Reason::RollStopped];

/// `Ready` only when all brokers are: a mesh that has lost one has no reserve left.
fn with_ready(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let mut all = conditions::with_ready(verdicts);
    let reduced = all.iter().find(|v| v.kind == ConditionType::Available && REDUCED.contains(&v.reason)).cloned();
    if let (Some(available), Some(ready)) = (reduced, all.first_mut())
        && ready.status == Some(true)
    {
        *ready = Verdict { kind: ConditionType::Ready, status: Some(false), ..available };
    }
    all
}

/// `plan` is absent where a pass has not come to certificates; what the status says of them stays then. `restart` is what
/// this pass is going to do.
pub async fn write(
    context: &Context,
    mesh: &EventMesh,
    verdicts: Vec<Verdict>,
    plan: Option<&Plan>,
    restart: Option<&BrokerRestart>,
) -> Result<(), Error> {
    let (namespace, name) = namespaced(mesh);
    let key = MeshKey { namespace, name };
    let before = mesh.status.clone().unwrap_or_default();
    let generation = mesh.metadata.generation;
    let mut brokers = brokers(context, &key.namespace, &key.name);
    let ready = brokers.iter().filter(|broker| broker.ready).count();
    let revision = plan.and_then(|plan| plan.files.as_ref()).map(Files::revision);
    let current = take_up::observe(context, &key, revision.as_deref(), mesh.spec.brokers.count()).brokers;
    for broker in &mut brokers {
        broker.certificates_current = current.get(&broker.name).copied().filter(|_| revision.is_some());
    }
    let status = EventMeshStatus {
        observed_generation: generation,
        conditions: conditions::merge(&before.conditions, &with_ready(verdicts), generation, context.now()),
        summary: Some(format!("{ready}/{}", replicas(mesh))),
        endpoints: Some(endpoints(mesh, &key)),
        certificates: plan.map_or(before.certificates, |plan| Some(certificates(mesh, plan))),
        broker_version: brokers
            .iter()
            .filter_map(|broker| broker.version.clone())
            .min_by(|a, b| order(a).cmp(&order(b))),
        brokers: Some(brokers),
        restarts: match roll::recorded(before.restarts.as_deref().unwrap_or_default(), restart) {
            restarts if restarts.is_empty() => None,
            restarts => Some(restarts),
        },
        topics: Some(count(
            context.cache.topics.state().iter().filter(|t| mesh_key(&t.spec.mesh, &namespace_of(&***t)) == key),
        )),
        subscriptions: Some(count(context.cache.subscriptions.state().iter().filter(|s| {
            let namespace = namespace_of(&***s);
            let of = s.spec.topic.namespace_or(&namespace);
            let topic = context.cache.topic(of, &s.spec.topic.name);
            topic.is_some_and(|topic| mesh_key(&topic.spec.mesh, of) == key)
        }))),
        bridges: Some(count(
            context.cache.bridges.state().iter().filter(|b| mesh_key(&b.spec.mesh, &namespace_of(&***b)) == key),
        )),
        account: context.keyring.get(&key).map(|keys| keys.mesh.public_key()).or(before.account),
        identities: match context.identities.get(&key) {
            Some(report) => Some(i64::try_from(report.identities).unwrap_or(i64::MAX)),
            None => before.identities,
        },
    };
    apply::status_over(&context.client, mesh, mesh.status.as_ref(), &status).await?;
    Ok(())
}

fn endpoints(mesh: &EventMesh, key: &MeshKey) -> Endpoints {
    let tls = mesh.spec.has_tls();
    let listeners = mesh.spec.listeners.clone().unwrap_or_default();
    let url = |listener: Listener, on: bool| on.then(|| listener.url(key, tls));
    Endpoints {
        nats: Some(names::client_url(key, tls)),
        mqtt: url(Listener::Mqtt, listeners.mqtt.is_some()),
        websocket: url(Listener::Websocket, listeners.websocket.is_some()),
        leaf: url(Listener::Leaf, listeners.leaf.is_some()),
    }
}

fn certificates(mesh: &EventMesh, plan: &Plan) -> CertificatesStatus {
    let serving = plan.files.as_ref().and_then(|files| files.serving.as_ref());
    let serving = serving.and_then(|pair| facts(&pair.certificate).ok());
    let authorities = plan.authorities.as_ref();
    CertificatesStatus {
        issuer: mesh.spec.tls.clone().unwrap_or_default().issuer().as_str().to_owned(),
        serial: serving.as_ref().map(|facts| facts.serial.clone()),
        not_after: serving.map(|facts| facts.not_after.to_string()),
        ca_not_after: authorities.map(|authorities| authorities.current.facts.not_after.to_string()),
        ca_phase: authorities.map(|authorities| authorities.phase().as_str().to_owned()),
    }
}

fn namespace_of<K: ResourceExt>(object: &K) -> String {
    object.namespace().unwrap_or_default()
}

fn count<T>(items: impl Iterator<Item = T>) -> i64 {
    i64::try_from(items.count()).unwrap_or(i64::MAX)
}

/// `2.9.1` before `2.15.0`.
fn order(version: &str) -> Vec<u64> {
    version.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).collect()
}

fn brokers(context: &Context, namespace: &str, mesh: &str) -> Vec<BrokerStatus> {
    let key = MeshKey { namespace: namespace.to_owned(), name: mesh.to_owned() };
    let broker = context.brokers.get(&key);
    let health = broker.map(|broker| broker.health.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let health = health.unwrap_or_default();
    let pods = children::pods(context, namespace, mesh);
    pods.iter().map(|pod| broker_status(pod, &health)).collect()
}

fn broker_status(pod: &Pod, health: &Health) -> BrokerStatus {
    let name = pod.name_any();
    let said = health.brokers.get(&name);
    let leaders = health.brokers.values().filter_map(|broker| broker.meta_leader.as_ref());
    let status = pod.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    BrokerStatus {
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ready: ready && pod.metadata.deletion_timestamp.is_none(),
        meta_leader: leaders.into_iter().any(|leader| *leader == name),
        version: said.map(|said| said.version.clone()),
        started_at: said.map(|said| said.started_at.clone()),
        certificates_current: None,
        restarts: status.container_statuses.iter().flatten().map(|container| container.restart_count).sum(),
        name,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// A mesh of as many brokers, some of which are ready.
    fn brokers(ready: &[bool]) -> Brokers {
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
        Brokers::of(&serde_json::from_value(mesh).expect("a mesh"), &all, &failures)
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
        let verdict = available(&brokers(ready), &progress, connected);
        assert_eq!((verdict.status, verdict.reason), (status, reason));
    }

    #[test]
    fn a_broker_that_is_away_is_named_with_its_restart_and_what_is_wrong() {
        let message = available(&brokers(&[true, true, false]), &stopped(), true).message;
        let away = "m-broker-2 (ErrImagePull)";
        assert_eq!(message, format!("2 of 3 brokers are ready; not ready: {away}; the roll has stopped there"));
        let message = available(&brokers(&[true, false, true]), &going(), true).message;
        let restart = "m-broker-1 (restarted at T: image changed from a to b)";
        assert_eq!(message, format!("2 of 3 brokers are ready; not ready: {restart}; restarting"));
    }

    #[rstest]
    #[case(Progress::Settled, Reason::Degraded)]
    #[case(going(), Reason::RollingOut)]
    #[case(stopped(), Reason::RollStopped)]
    fn a_degraded_mesh_is_available_but_not_ready(#[case] progress: Progress, #[case] reason: Reason) {
        let verdicts = with_ready(vec![available(&brokers(&[true, true, false]), &progress, true)]);
        assert_eq!((verdicts[0].status, verdicts[0].reason), (Some(false), reason));
        assert_eq!(verdicts[1].status, Some(true));
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(order("2.9.1") < order("2.15.0"));
    }
}
