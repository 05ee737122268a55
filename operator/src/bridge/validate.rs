//! From a spec that the API server took to a configuration that the data plane will not refuse. Pure.

use std::sync::Arc;

use eventmesh_crds::{
    Bridge, EventMesh, Topic,
    bridge::{BridgeState, EvaluationErrors, Guarantee, InboundRoute, Ordering, OutboundRoute, RouteStart},
    common::{DeletionPolicy, std_duration},
    conditions::{Reason, Verdict},
    mesh::{Expose, PodTemplate, Sync},
};
use eventmesh_wire::{
    config::{self as wire, BridgeConfig},
    names,
    validate::{Problem, ProblemKind},
};
use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::ResourceExt;
use serde_json::json;

use super::{
    endpoint::{self, unresolved},
    resolve::{Resolved, dead_letters, source},
};
use crate::{
    broker::{
        MeshBroker,
        api::object,
        consumers::{WantedConsumer, put_filter},
    },
    cache::{mesh_key, namespaced},
    engine::{Stopped, apply::owner_reference},
    identity::party::Party,
    leftovers::mark,
    mesh::build::names as mesh_names,
    refs::ResolvedMesh,
    subjects::{Refusal, check_filter, dead_letter_subject, delivered_subjects, subjects_of},
};

/// Metadata of a consumer: which Bridge it belongs to.
pub const OWNER: &str = "eventmesh.dev/bridge";

/// Events of a direction that may be under way, where the spec does not say.
const MAX_IN_FLIGHT: u32 = 1000;
/// Small events, and a broker that gives as many as the receive maximum says before it waits.
const MAX_IN_FLIGHT_FROM_MQTT: u32 = 16384;
/// How long the broker waits for a bridge's acknowledgement before it delivers an event again.
const ACK_WAIT: i64 = 30_000_000_000;

/// A Bridge that can be built.
pub struct ValidBridge {
    pub namespace: String,
    pub name: String,
    pub owner: OwnerReference,
    /// Name of the mesh, for the label.
    pub mesh: String,
    pub broker: Arc<MeshBroker>,
    pub replicas: i32,
    /// Brokers of the mesh.
    pub brokers: i32,
    pub config: BridgeConfig,
    pub consumers: Vec<WantedConsumer>,
    /// How a listener is reached.
    pub expose: Expose,
    pub resources: Option<ResourceRequirements>,
    pub pod_template: PodTemplate,
}

pub fn run(bridge: &Bridge, resolved: &Resolved) -> Result<ValidBridge, Stopped> {
    let mesh = resolved.mesh.as_ref().map_err(|problem| Stopped::unresolved(problem.verdict()))?;
    if mesh.is_paused() {
        return Err(Stopped::waiting(Reason::Paused, format!("EventMesh {} is paused", mesh.key)));
    }
    check_topics(bridge, resolved, mesh).map_err(Stopped::unresolved)?;
    let endpoint = endpoint::run(bridge, resolved).map_err(Stopped::unresolved)?;
    let Some(credentials) = &resolved.credentials else {
        let message = format!("waiting for credentials for EventMesh {}", mesh.key);
        return Err(Stopped::waiting(Reason::CredentialsPending, message));
    };
    if mesh.mesh.spec.has_tls() && resolved.trust.is_none() {
        let message = format!("EventMesh {} has no certificates yet", mesh.key);
        return Err(Stopped::waiting(Reason::BrokerUnavailable, message));
    }
    let rejected = |(reason, message): Refusal| Stopped::rejected(reason, message);
    let mut consumers = consumers(bridge, resolved).map_err(rejected)?;
    for consumer in &mut consumers {
        mark::put(&mut consumer.config, bridge, &mesh.mesh, DeletionPolicy::Delete);
    }
    let mut config = config(bridge, resolved, mesh, endpoint, credentials);
    config.lease = lease(&config, bridge.spec.replicas);
    check_config(&config).map_err(rejected)?;
    let Some(broker) = mesh.broker.clone() else {
        let message = format!("waiting for the brokers of EventMesh {}", mesh.key);
        return Err(Stopped::waiting(Reason::BrokerUnavailable, message));
    };
    let streams: Vec<&str> = consumers
        .iter()
        .map(|consumer| consumer.stream.as_str())
        .chain(config.inbound.iter().map(|route| route.stream.as_str()).filter(|stream| !stream.is_empty()))
        .collect();
    if let Some(missing) = streams.iter().find(|stream| broker.view().stream(stream).is_none()) {
        let message = format!("stream {missing} does not exist yet; look at its Topic");
        return Err(Stopped::waiting(Reason::TopicNotReady, message));
    }
    let (namespace, name) = namespaced(bridge);
    Ok(ValidBridge {
        namespace,
        name,
        owner: owner_reference(bridge),
        mesh: mesh.key.name.clone(),
        broker,
        replicas: bridge.spec.replicas,
        brokers: mesh.brokers(),
        config,
        consumers,
        expose: expose(bridge),
        resources: bridge.spec.resources.clone(),
        pod_template: bridge.spec.pod_template.clone().unwrap_or_default(),
    })
}

fn expose(bridge: &Bridge) -> Expose {
    let listen = bridge.spec.endpoint.http.as_ref().and_then(|http| http.listen.as_ref());
    listen.and_then(|listen| listen.expose).unwrap_or(Expose::ClusterIP)
}

fn check_topics(bridge: &Bridge, resolved: &Resolved, mesh: &ResolvedMesh) -> Result<(), Verdict> {
    for ((namespace, name), topic) in &resolved.topics {
        let Some(topic) = topic else {
            let message = format!("Topic {namespace}/{name} does not exist; waiting for it");
            return Err(unresolved(Reason::TopicNotFound, message));
        };
        let theirs = mesh_key(&topic.spec.mesh, namespace);
        if theirs != mesh.key {
            let message = format!("Topic {namespace}/{name} belongs to EventMesh {theirs}, not to {}", mesh.key);
            return Err(unresolved(Reason::TopicOfOtherMesh, message));
        }
        if topic.spec.is_live() {
            let message =
                format!("Topic {namespace}/{name} has storage.type None; routes and dead letters need one that stores");
            return Err(unresolved(Reason::TopicStoresNothing, message));
        }
    }
    let written = resolved.stores.values().cloned().chain(dead_letters(bridge));
    if let Some((namespace, name)) = written.into_iter().find(|key| resolved.copies.contains(key)) {
        let message = format!("Topic {namespace}/{name} is a copy, to which nobody publishes; name another for it");
        return Err(unresolved(Reason::TopicIsCopy, message));
    }
    if let Some((route, ((namespace, topic), right))) = resolved.refused.first_key_value() {
        let message = format!(
            "route {route}: Topic {namespace}/{topic} does not grant {} what the route needs; its owner can add a grant that allows {right:?}",
            Party::of_bridge(bridge)
        );
        return Err(unresolved(Reason::RefNotPermitted, message));
    }
    for route in bridge.spec.inbound.iter().flatten() {
        match resolved.stores.get(&route.name) {
            Some(_) => {}
            // A subject that is no subject is told of as such.
            None if delivered_subjects(&route.to).is_some() => {
                let message = format!(
                    "no Topic stores all subjects that route {} delivers to (`{}`); waiting for one",
                    route.name, route.to
                );
                return Err(unresolved(Reason::NoTopicForRoute, message));
            }
            None => {}
        }
    }
    Ok(())
}

/// Also a single pod takes the lease: it may get company, and its node may be away and not gone. It renews the lease seldom, for
/// nobody waits for it but its successor.
fn lease(config: &BridgeConfig, replicas: i32) -> Option<wire::LeaseConfig> {
    config.exclusive().then_some(wire::LeaseConfig { ttl_ms: if replicas > 1 { 2_000 } else { 10_000 } })
}

fn guarantee(bridge: &Bridge) -> Guarantee {
    bridge.spec.delivery.as_ref().and_then(|delivery| delivery.guarantee).unwrap_or(Guarantee::AtLeastOnce)
}

fn millis(duration: &kube::core::Duration) -> u64 {
    std_duration(duration).as_millis().try_into().unwrap_or(u64::MAX)
}

fn consumers(bridge: &Bridge, resolved: &Resolved) -> Result<Vec<WantedConsumer>, Refusal> {
    bridge.spec.outbound.iter().flatten().map(|route| consumer(bridge, route, resolved)).collect()
}

fn consumer(bridge: &Bridge, route: &OutboundRoute, resolved: &Resolved) -> Result<WantedConsumer, Refusal> {
    let (namespace, name) = namespaced(bridge);
    if let Some((filter, topic)) = route.from.filter.as_ref().zip(topic_of(bridge, route, resolved)) {
        check_filter(filter, topic)
            .map_err(|(reason, message)| (reason, format!("route {}: {message}", route.name)))?;
    }
    let consumer = names::bridge_consumer(&namespace, &name, &route.name);
    let mut config = object(json!({
        "durable_name": consumer,
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT,
        "max_deliver": -1,
        "backoff": [],
        "max_ack_pending": i64::from(max_in_flight(bridge, MAX_IN_FLIGHT)) * i64::from(bridge.spec.replicas.max(1)),
        "metadata": { OWNER: format!("{namespace}/{name}") },
    }));
    put_filter(&mut config, route.from.filter.as_deref());
    let start = match route.from.start_from.unwrap_or(RouteStart::All) {
        RouteStart::New => "new",
        RouteStart::All => "all",
    };
    Ok(WantedConsumer {
        stream: stream_of(bridge, route),
        name: consumer,
        config,
        at_creation: object(json!({ "deliver_policy": start })),
        paused: false,
    })
}

fn topic_of<'a>(bridge: &Bridge, route: &OutboundRoute, resolved: &'a Resolved) -> Option<&'a Topic> {
    resolved.topics.get(&source(bridge, route))?.as_deref()
}

fn stream_of(bridge: &Bridge, route: &OutboundRoute) -> String {
    let (namespace, topic) = source(bridge, route);
    names::stream(&namespace, &topic)
}

fn max_in_flight(bridge: &Bridge, default: u32) -> u32 {
    let asked = bridge.spec.delivery.as_ref().and_then(|delivery| delivery.max_in_flight);
    asked.and_then(|asked| u32::try_from(asked).ok()).unwrap_or(default)
}

/// The file for the pods, complete and concrete.
fn config(
    bridge: &Bridge,
    resolved: &Resolved,
    mesh: &ResolvedMesh,
    endpoint: wire::EndpointConfig,
    credentials: &wire::MeshCredentials,
) -> BridgeConfig {
    let (namespace, name) = namespaced(bridge);
    let delivery = bridge.spec.delivery.clone().unwrap_or_default();
    let retry = delivery.retry.unwrap_or_default();
    let inbound: Vec<_> =
        bridge.spec.inbound.iter().flatten().map(|r| inbound(bridge, r, resolved, &mesh.mesh)).collect();
    let from_mqtt = !inbound.is_empty() && bridge.spec.endpoint.mqtt.is_some();
    let default_window = if from_mqtt { MAX_IN_FLIGHT_FROM_MQTT } else { MAX_IN_FLIGHT };
    BridgeConfig {
        version: wire::CONFIG_VERSION,
        bridge: wire::BridgeIdentity { namespace, name, uid: bridge.uid().unwrap_or_default() },
        mesh: wire::MeshConfig {
            servers: vec![mesh_names::client_url(&mesh.key, mesh.mesh.spec.has_tls())],
            credentials: Some(credentials.clone()),
            ca_pem: resolved.trust.clone().filter(|_| mesh.mesh.spec.has_tls()),
        },
        endpoint,
        inbound,
        outbound: bridge.spec.outbound.iter().flatten().map(|r| outbound(bridge, r, resolved)).collect(),
        delivery: wire::DeliveryConfig {
            guarantee: match guarantee(bridge) {
                Guarantee::AtLeastOnce => wire::Guarantee::AtLeastOnce,
                Guarantee::AtMostOnce => wire::Guarantee::AtMostOnce,
            },
            max_in_flight: max_in_flight(bridge, default_window),
            retry: wire::RetryConfig {
                initial_ms: retry.initial.as_ref().map_or(100, millis),
                max_ms: retry.max.as_ref().map_or(30_000, millis),
                attempts: retry.attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0),
            },
            ordering: match delivery.ordering {
                Some(Ordering::PerSource) => wire::Ordering::PerSource,
                Some(Ordering::None) => wire::Ordering::None,
                // What users of Kafka expect of a partition.
                None if bridge.spec.endpoint.kafka.is_some() => wire::Ordering::PerSource,
                None => wire::Ordering::None,
            },
            evaluation_errors: match delivery.evaluation_errors {
                Some(EvaluationErrors::DeadLetter) | None => wire::EvaluationErrors::DeadLetter,
                Some(EvaluationErrors::Filter) => wire::EvaluationErrors::Filter,
            },
        },
        state: match bridge.spec.state.unwrap_or(BridgeState::Running) {
            BridgeState::Running => wire::DesiredState::Running,
            BridgeState::Paused => wire::DesiredState::Paused,
        },
        lease: None,
        report_interval_seconds: 5,
    }
}

/// Where each acknowledgement waits for the disk, a batch shares one sync. Elsewhere events go one by one: fast ingest would
/// make the brokers remember each of them for two minutes, for it crosses accounts. Measured in docs/adr/0031.
fn inbound(bridge: &Bridge, route: &InboundRoute, resolved: &Resolved, mesh: &EventMesh) -> wire::InboundRoute {
    let store = resolved.stores.get(&route.name);
    wire::InboundRoute {
        name: route.name.clone(),
        from: route.from.clone(),
        to: route.to.clone(),
        filter: route.filter.clone(),
        transform: route.transform.clone(),
        id_header: route.id_header.clone(),
        stream: store.map(|(namespace, topic)| names::stream(namespace, topic)).unwrap_or_default(),
        ingest: if mesh.spec.brokers.sync() == Sync::Always { wire::Ingest::Atomic } else { wire::Ingest::Single },
        dead_letter_subject: dead_letter(bridge, &route.name, resolved),
    }
}

fn outbound(bridge: &Bridge, route: &OutboundRoute, resolved: &Resolved) -> wire::OutboundRoute {
    let (namespace, name) = namespaced(bridge);
    let subjects = route.from.filter.clone();
    wire::OutboundRoute {
        name: route.name.clone(),
        stream: stream_of(bridge, route),
        consumer: names::bridge_consumer(&namespace, &name, &route.name),
        subjects: subjects.or_else(|| topic_of(bridge, route, resolved).map(subjects_of)).unwrap_or_default(),
        to: route.to.clone().unwrap_or_default(),
        filter: route.filter.clone(),
        transform: route.transform.clone(),
        key: route.key.clone(),
        retain: route.retain == Some(true),
        dead_letter_subject: dead_letter(bridge, &route.name, resolved),
    }
}

fn dead_letter(bridge: &Bridge, route: &str, resolved: &Resolved) -> Option<String> {
    let topic = resolved.topics.get(&dead_letters(bridge)?)?.as_deref()?;
    let (namespace, name) = namespaced(bridge);
    dead_letter_subject(topic, &namespace, &name, route)
}

/// The same check that a pod makes of its file, so that no pod is ever given one that it refuses.
fn check_config(config: &BridgeConfig) -> Result<(), Refusal> {
    let mut problems = config.validate();
    // A route whose `to` is wrong has no Topic either; only the cause is worth telling.
    if problems.iter().any(|problem| !problem.field.ends_with(".stream")) {
        problems.retain(|problem| !problem.field.ends_with(".stream"));
    }
    let Some(first) = problems.first() else { return Ok(()) };
    let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Err((reason(first), message))
}

fn reason(problem: &Problem) -> Reason {
    match problem.kind {
        ProblemKind::Filter => Reason::InvalidFilter,
        ProblemKind::Loop => Reason::LoopRefused,
        ProblemKind::Mapping => Reason::InvalidMapping,
        ProblemKind::Value => Reason::InvalidSpec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_pod_at_a_time_carries_needs_a_lease_that_is_taken_over_soon_where_somebody_waits() {
        let mut config: BridgeConfig = serde_json::from_value(json!({
            "version": 1, "bridge": {"namespace": "n", "name": "b", "uid": "u"}, "mesh": {"servers": ["nats://x"]},
            "endpoint": {"mqtt": {"url": "mqtt://x", "clientId": "c"}},
            "outbound": [{"name": "r", "stream": "S", "consumer": "c", "subjects": ["a"], "to": "a"}],
        }))
        .expect("a configuration");
        assert_eq!(lease(&config, 3), None, "pods share what needs no order");
        config.delivery.ordering = wire::Ordering::PerSource;
        let ttl = |replicas| lease(&config, replicas).map(|lease| lease.ttl_ms);
        assert_eq!((ttl(1), ttl(2)), (Some(10_000), Some(2_000)));
    }
}
