//! From a spec that the API server took to a configuration that the data plane will not refuse. Pure.

use std::sync::Arc;

use eventmesh_crds::{
    Bridge, EventMesh, Topic,
    bridge::{BridgeState, Guarantee, InboundRoute, MqttEndpoint, MqttVersion, OutboundRoute, RouteStart},
    common::std_duration,
    conditions::{ConditionType, Reason, Verdict},
    mesh::{PodTemplate, Sync},
};
use eventmesh_wire::{
    config::{self as wire, BridgeConfig},
    names,
    secret::Secret,
    validate::{Problem, ProblemKind},
};
use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::ResourceExt;
use serde_json::json;

use super::resolve::Resolved;
use crate::{
    broker::{
        MeshBroker,
        api::object,
        consumers::{WantedConsumer, put_filter},
    },
    cache::{mesh_key, namespaced},
    engine::{Stopped, apply::owner_reference},
    mesh::{Credentials, build::names as mesh_names},
    refs::ResolvedMesh,
    subjects::{Refusal, check_filter, dead_letter_subject, delivered_subjects, subjects_of},
};

/// Metadata of a consumer: which Bridge it belongs to.
pub const OWNER: &str = "eventmesh.dev/bridge";

/// Events of a direction that may be under way, where the spec does not say.
const MAX_IN_FLIGHT_INBOUND: u32 = 16384;
const MAX_IN_FLIGHT_OUTBOUND: u32 = 1000;
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
    pub config: BridgeConfig,
    pub consumers: Vec<WantedConsumer>,
    pub resources: Option<ResourceRequirements>,
    pub pod_template: PodTemplate,
}

pub fn run(bridge: &Bridge, resolved: &Resolved) -> Result<ValidBridge, Stopped> {
    let mesh = resolved.mesh.as_ref().map_err(|problem| Stopped::unresolved(problem.verdict()))?;
    if mesh.is_paused() {
        return Err(Stopped::waiting(Reason::Paused, format!("EventMesh {} is paused", mesh.key)));
    }
    check_topics(bridge, resolved, mesh).map_err(Stopped::unresolved)?;
    let endpoint = endpoint(bridge, resolved).map_err(Stopped::unresolved)?;
    let Some(credentials) = &resolved.credentials else {
        let message = format!("EventMesh {} has no brokers yet", mesh.key);
        return Err(Stopped::waiting(Reason::BrokerUnavailable, message));
    };
    let rejected = |(reason, message): Refusal| Stopped::rejected(reason, message);
    let consumers = consumers(bridge, resolved).map_err(rejected)?;
    let config = config(bridge, resolved, mesh, endpoint, credentials);
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
        config,
        consumers,
        resources: bridge.spec.resources.clone(),
        pod_template: bridge.spec.pod_template.clone().unwrap_or_default(),
    })
}

fn bad_ref(reason: Reason, message: String) -> Verdict {
    Verdict::bad(ConditionType::ResolvedRefs, reason, message)
}

fn check_topics(bridge: &Bridge, resolved: &Resolved, mesh: &ResolvedMesh) -> Result<(), Verdict> {
    let (namespace, _) = namespaced(bridge);
    for (name, topic) in &resolved.topics {
        let Some(topic) = topic else {
            let message = format!("Topic {namespace}/{name} does not exist; waiting for it");
            return Err(bad_ref(Reason::TopicNotFound, message));
        };
        let theirs = mesh_key(&topic.spec.mesh, &namespace);
        if theirs != mesh.key {
            let message = format!("Topic {namespace}/{name} belongs to EventMesh {theirs}, not to {}", mesh.key);
            return Err(bad_ref(Reason::TopicOfOtherMesh, message));
        }
    }
    for route in bridge.spec.inbound.iter().flatten() {
        match resolved.stores.get(&route.name) {
            // A Topic of another namespace would need a grant, which this release does not know.
            Some((owner, topic)) if *owner != namespace => {
                let message = format!(
                    "route {} delivers to `{}`, which Topic {owner}/{topic} of another namespace stores; move the Bridge there",
                    route.name, route.to
                );
                return Err(bad_ref(Reason::RefNotPermitted, message));
            }
            Some(_) => {}
            // A subject that is no subject is told of as such.
            None if delivered_subjects(&route.to).is_some() => {
                let message = format!(
                    "no Topic stores all subjects that route {} delivers to (`{}`); waiting for one",
                    route.name, route.to
                );
                return Err(bad_ref(Reason::NoTopicForRoute, message));
            }
            None => {}
        }
    }
    Ok(())
}

fn guarantee(bridge: &Bridge) -> Guarantee {
    bridge.spec.delivery.as_ref().and_then(|delivery| delivery.guarantee).unwrap_or(Guarantee::AtLeastOnce)
}

fn endpoint(bridge: &Bridge, resolved: &Resolved) -> Result<wire::EndpointConfig, Verdict> {
    // The API server lets no Bridge without an endpoint through.
    let Some(mqtt) = &bridge.spec.endpoint.mqtt else {
        return Err(bad_ref(Reason::InvalidSpec, "spec.endpoint names no endpoint".to_owned()));
    };
    let (namespace, name) = namespaced(bridge);
    let (username, password) = match &mqtt.credentials {
        None => (None, None),
        Some(credentials) => {
            let secret = &credentials.secret.name;
            (Some(text(resolved, secret, "username")?), Some(Secret::new(text(resolved, secret, "password")?)))
        }
    };
    Ok(wire::EndpointConfig::Mqtt(wire::MqttEndpoint {
        url: mqtt.url.clone(),
        version: match mqtt.version.unwrap_or(MqttVersion::V5) {
            MqttVersion::V5 => wire::MqttVersion::V5,
            MqttVersion::V311 => wire::MqttVersion::V311,
        },
        client_id: mqtt.client_id.clone().unwrap_or_else(|| format!("eventmesh-{namespace}-{name}")),
        username,
        password,
        keep_alive_seconds: mqtt.keep_alive.as_ref().map_or(30, |d| seconds(d).try_into().unwrap_or(u16::MAX)),
        session_expiry_seconds: mqtt.session_expiry.as_ref().map_or(7 * 24 * 3600, seconds),
        tls: tls(mqtt, resolved)?,
    }))
}

fn tls(mqtt: &MqttEndpoint, resolved: &Resolved) -> Result<Option<wire::TlsConfig>, Verdict> {
    let Some(tls) = &mqtt.tls else { return Ok(None) };
    let name = &tls.secret.name;
    let optional =
        |key: &str| if has_key(resolved, name, key)? { text(resolved, name, key).map(Some) } else { Ok(None) };
    let (certificate, key) = (optional("tls.crt")?, optional("tls.key")?);
    if certificate.is_some() != key.is_some() {
        let message = format!("Secret {name} must hold both tls.crt and tls.key, or neither");
        return Err(bad_ref(Reason::SecretKeyMissing, message));
    }
    Ok(Some(wire::TlsConfig {
        ca_pem: optional("ca.crt")?,
        client_cert_pem: certificate,
        client_key_pem: key.map(Secret::new),
        server_name: None,
    }))
}

fn has_key(resolved: &Resolved, secret: &str, key: &str) -> Result<bool, Verdict> {
    match resolved.secrets.get(secret) {
        Some(Some(data)) => Ok(data.contains_key(key)),
        _ => Err(bad_ref(Reason::SecretNotFound, format!("Secret {secret} does not exist; waiting for it"))),
    }
}

fn text(resolved: &Resolved, secret: &str, key: &str) -> Result<String, Verdict> {
    let missing = |what: &str| bad_ref(Reason::SecretKeyMissing, format!("Secret {secret}: key `{key}` {what}"));
    if !has_key(resolved, secret, key)? {
        return Err(missing("is missing"));
    }
    let value = resolved.secrets.get(secret).and_then(|data| data.as_ref()?.get(key)).cloned().unwrap_or_default();
    String::from_utf8(value).map_err(|_| missing("is not text"))
}

fn seconds(duration: &kube::core::Duration) -> u32 {
    std_duration(duration).as_secs().try_into().unwrap_or(u32::MAX)
}

fn millis(duration: &kube::core::Duration) -> u64 {
    std_duration(duration).as_millis().try_into().unwrap_or(u64::MAX)
}

fn consumers(bridge: &Bridge, resolved: &Resolved) -> Result<Vec<WantedConsumer>, Refusal> {
    bridge.spec.outbound.iter().flatten().map(|route| consumer(bridge, route, resolved)).collect()
}

fn consumer(bridge: &Bridge, route: &OutboundRoute, resolved: &Resolved) -> Result<WantedConsumer, Refusal> {
    let (namespace, name) = namespaced(bridge);
    if let Some((filter, topic)) = route.from.filter.as_ref().zip(topic_of(route, resolved)) {
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
        "max_ack_pending": i64::from(max_in_flight(bridge, MAX_IN_FLIGHT_OUTBOUND)) * i64::from(bridge.spec.replicas.max(1)),
        "metadata": { OWNER: format!("{namespace}/{name}") },
    }));
    put_filter(&mut config, route.from.filter.as_deref());
    let start = match route.from.start_from.unwrap_or(RouteStart::All) {
        RouteStart::New => "new",
        RouteStart::All => "all",
    };
    Ok(WantedConsumer {
        stream: names::stream(&namespace, &route.from.topic),
        name: consumer,
        config,
        at_creation: object(json!({ "deliver_policy": start })),
        paused: false,
    })
}

fn topic_of<'a>(route: &OutboundRoute, resolved: &'a Resolved) -> Option<&'a Topic> {
    resolved.topics.get(&route.from.topic)?.as_deref()
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
    credentials: &Credentials,
) -> BridgeConfig {
    let (namespace, name) = namespaced(bridge);
    let delivery = bridge.spec.delivery.clone().unwrap_or_default();
    let retry = delivery.retry.unwrap_or_default();
    let inbound: Vec<_> =
        bridge.spec.inbound.iter().flatten().map(|r| inbound(bridge, r, resolved, &mesh.mesh)).collect();
    let default_window = if inbound.is_empty() { MAX_IN_FLIGHT_OUTBOUND } else { MAX_IN_FLIGHT_INBOUND };
    BridgeConfig {
        version: wire::CONFIG_VERSION,
        bridge: wire::BridgeIdentity { namespace, name, uid: bridge.uid().unwrap_or_default() },
        mesh: wire::MeshConfig {
            servers: vec![mesh_names::client_url(&mesh.key)],
            username: Some(credentials.bridge.user.clone()),
            password: Some(Secret::new(credentials.bridge.password.clone())),
            ca_pem: None,
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
        },
        state: match bridge.spec.state.unwrap_or(BridgeState::Running) {
            BridgeState::Running => wire::DesiredState::Running,
            BridgeState::Paused => wire::DesiredState::Paused,
        },
        report_interval_seconds: 5,
    }
}

/// Where each acknowledgement waits for the disk, a batch shares one sync; elsewhere fast ingest shares one
/// acknowledgement among many events. Measured in docs/adr/0010.
fn inbound(bridge: &Bridge, route: &InboundRoute, resolved: &Resolved, mesh: &EventMesh) -> wire::InboundRoute {
    let store = resolved.stores.get(&route.name);
    wire::InboundRoute {
        name: route.name.clone(),
        from: route.from.clone(),
        to: route.to.clone(),
        filter: route.filter.clone(),
        id_header: route.id_header.clone(),
        stream: store.map(|(namespace, topic)| names::stream(namespace, topic)).unwrap_or_default(),
        ingest: if mesh.spec.brokers.sync() == Sync::Always { wire::Ingest::Atomic } else { wire::Ingest::Fast },
        dead_letter_subject: dead_letter(bridge, &route.name, resolved),
    }
}

fn outbound(bridge: &Bridge, route: &OutboundRoute, resolved: &Resolved) -> wire::OutboundRoute {
    let (namespace, name) = namespaced(bridge);
    let subjects = route.from.filter.clone();
    wire::OutboundRoute {
        name: route.name.clone(),
        stream: names::stream(&namespace, &route.from.topic),
        consumer: names::bridge_consumer(&namespace, &name, &route.name),
        subjects: subjects.or_else(|| topic_of(route, resolved).map(subjects_of)).unwrap_or_default(),
        to: route.to.clone(),
        filter: route.filter.clone(),
        retain: route.retain == Some(true),
        dead_letter_subject: dead_letter(bridge, &route.name, resolved),
    }
}

fn dead_letter(bridge: &Bridge, route: &str, resolved: &Resolved) -> Option<String> {
    let dead = bridge.spec.delivery.as_ref()?.dead_letter.as_ref()?;
    let topic = resolved.topics.get(&dead.topic)?.as_deref()?;
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
