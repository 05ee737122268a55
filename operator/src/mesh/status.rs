//! The status of an EventMesh, from its pods and from what the brokers say of themselves.

use std::sync::PoisonError;

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
    availability::{Availability, failures, ready, wanted, with_ready},
    build::{listeners::Listener, names},
    certificates::{Files, Plan},
    clocks::Clocks,
    roll::{self, Roll},
    take_up::{self, TakeUp},
};
use crate::{
    broker::{MeshKey, health::Health, version::Version},
    cache::{mesh_key, namespaced},
    engine::{Context, Error, apply},
    link::{self, plan::Links, status::Seen},
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
pub fn programmed(
    context: &Context,
    mesh: &EventMesh,
    plan: &Plan,
    take_up: &TakeUp,
    roll: &Roll,
    under_way: Option<Verdict>,
) -> Vec<Verdict> {
    let (namespace, name) = namespaced(mesh);
    let brokers = brokers(context, &namespace, &name);
    let failures = failures(&children::pods(context, &namespace, &name));
    let key = MeshKey { namespace, name };
    let clocks = Clocks::observe(context, &key);
    let connected = context.brokers.get(&key).is_some_and(|broker| broker.is_ready());
    let problem = |kind| plan.problem.clone().filter(|problem| problem.kind == kind);
    let (refs, programmed) = (ConditionType::ResolvedRefs, ConditionType::Programmed);
    let record = context.identities.get(&key).and_then(|report| report.problem);
    let record = record.map(|problem| Verdict::bad(refs, Reason::KeysUnreadable, problem));
    vec![
        accepted(mesh, &brokers),
        record.or_else(|| problem(refs)).unwrap_or_else(|| Verdict::good(refs, Reason::ResolvedRefs, "")),
        problem(programmed)
            .or(under_way)
            .unwrap_or_else(|| Verdict::good(programmed, Reason::Programmed, take_up.message())),
        Availability::of(mesh, &brokers, &failures, &roll.stopped, &clocks).verdict(&roll.progress(), connected),
    ]
}

fn accepted(mesh: &EventMesh, brokers: &[BrokerStatus]) -> Verdict {
    let in_the_clear = (!mesh.spec.has_tls()).then(|| {
        "spec.tls.issuer is Disabled: passwords and events of clients cross the network in the clear".to_owned()
    });
    // The tag of their image does not tell it, or it would have been refused.
    let unsupported = brokers.iter().find_map(|broker| Version::read(broker.version.as_deref()?)?.refusal());
    let given_up = mesh.annotations().get(names::GIVE_UP).map(|brokers| {
        let annotation = names::GIVE_UP;
        format!("{annotation} gives up what only {brokers} had: remove the annotation when they are back")
    });
    let warnings: Vec<String> = [in_the_clear, unsupported, given_up].into_iter().flatten().collect();
    let reason = if warnings.is_empty() { Reason::Accepted } else { Reason::AcceptedWithWarning };
    Verdict::good(ConditionType::Accepted, reason, warnings.join("; "))
}

/// What a pass has come to. Of what is absent the status says what it said before.
#[derive(Clone, Copy, Default)]
pub struct Reached<'a> {
    pub certificates: Option<&'a Plan>,
    /// What this pass is going to do.
    pub restart: Option<&'a BrokerRestart>,
    pub links: Option<(&'a Links, &'a Seen)>,
}

pub async fn write(
    context: &Context,
    mesh: &EventMesh,
    verdicts: Vec<Verdict>,
    reached: Reached<'_>,
) -> Result<(), Error> {
    let Reached { certificates: plan, restart, links } = reached;
    let (namespace, name) = namespaced(mesh);
    let key = MeshKey { namespace, name };
    let before = mesh.status.clone().unwrap_or_default();
    let generation = mesh.metadata.generation;
    let mut brokers = brokers(context, &key.namespace, &key.name);
    let ready = ready(mesh, &brokers);
    let revision = plan.and_then(|plan| plan.files.as_ref()).map(Files::revision);
    let current = take_up::observe(context, &key, revision.as_deref(), mesh.spec.brokers.count()).brokers;
    for broker in &mut brokers {
        broker.certificates_current = current.get(&broker.name).copied().filter(|_| revision.is_some());
    }
    let status = EventMeshStatus {
        observed_generation: generation,
        conditions: conditions::merge(&before.conditions, &with_ready(verdicts), generation, context.now()),
        summary: Some(format!("{ready}/{}", wanted(mesh))),
        endpoints: Some(endpoints(mesh, &key)),
        certificates: plan.map_or(before.certificates, |plan| Some(certificates(mesh, plan))),
        broker_version: brokers
            .iter()
            .filter_map(|broker| broker.version.clone())
            .min_by_key(|version| Version::read(version)),
        brokers: Some(brokers),
        restarts: match roll::recorded(before.restarts.as_deref().unwrap_or_default(), restart) {
            restarts if restarts.is_empty() => None,
            restarts => Some(restarts),
        },
        links: match links {
            Some((links, seen)) => {
                let links =
                    link::status::links(links, seen, before.links.as_deref().unwrap_or_default(), context.now());
                Some(links).filter(|links| !links.is_empty())
            }
            None => before.links,
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_that_is_not_known_is_a_warning() {
        let mesh: EventMesh = serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh", "metadata": {"name": "m"}, "spec": {"brokers": {}},
        }))
        .expect("a mesh");
        let running = |version: &str| BrokerStatus { version: Some(version.to_owned()), ..BrokerStatus::default() };
        assert_eq!(accepted(&mesh, &[running("2.15.2")]).reason, Reason::Accepted);
        let warned = accepted(&mesh, &[running("2.15.2"), running("2.16.1")]);
        assert_eq!(warned.reason, Reason::AcceptedWithWarning);
        assert!(warned.message.contains("2.16.1"), "{}", warned.message);
    }
}
