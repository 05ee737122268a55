//! `Bridge`: pods that link the mesh to an endpoint outside Kubernetes.

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{LocalRef, MeshRef, conditions_schema, duration_schema},
    mesh::PodTemplate,
};

/// A Bridge: pods that carry events between the mesh and an endpoint outside Kubernetes.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventmesh.dev",
    version = "v1alpha1",
    kind = "Bridge",
    shortname = "emb",
    category = "eventmesh",
    namespaced,
    cel,
    status = "BridgeStatus",
    derive = "PartialEq",
    doc = "A Bridge: pods that carry events between the mesh and an endpoint outside Kubernetes.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 50")
        .message("the name of a Bridge must be a DNS label of at most 50 characters that begins with a letter, since pods and consumers are named after it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Mesh", type_ = "string", json_path = ".spec.mesh.name"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint"),
    printcolumn(name = "Delivered", type_ = "integer", json_path = ".status.totals.delivered"),
    printcolumn(name = "In Flight", type_ = "integer", json_path = ".status.totals.inFlight"),
    printcolumn(name = "Dead", type_ = "integer", json_path = ".status.totals.deadLettered"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.totals.lag"),
    printcolumn(name = "State", type_ = "string", priority = 1, json_path = ".spec.state"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.mesh == oldSelf.mesh").message("mesh is immutable: create a new Bridge"),
    validation = Rule::new("has(self.inbound) && size(self.inbound) > 0 || has(self.outbound) && size(self.outbound) > 0")
        .message("a Bridge needs at least one route in `inbound` or `outbound`"),
    validation = Rule::new("!has(self.inbound) || !has(self.outbound) || self.inbound.all(i, self.outbound.all(o, i.name != o.name))")
        .message("route names must be unique over `inbound` and `outbound`"),
    validation = Rule::new("!has(self.endpoint.mqtt) || !has(self.inbound) || size(self.inbound) == 0 || self.replicas <= 1")
        .message("a Bridge with inbound MQTT routes runs at most 1 replica: its persistent session belongs to one client"),
)]
#[serde(rename_all = "camelCase")]
pub struct BridgeSpec {
    /// The mesh. Immutable.
    pub mesh: MeshRef,
    /// The system outside; exactly one kind.
    pub endpoint: Endpoint,
    /// Routes from outside into the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "inbound_schema")]
    pub inbound: Option<Vec<InboundRoute>>,
    /// Routes from the mesh to outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "outbound_schema")]
    pub outbound: Option<Vec<OutboundRoute>>,
    /// How surely, how fast and with what in the worst case events are delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Number of bridge pods. Outbound routes share the work among them.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// Paused: the pods keep running and read nothing; events wait where they are. Default: Running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<BridgeState>,
    /// CPU and memory of each bridge pod. Default: requests of 50m and 32Mi, a memory limit of 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels, annotations and scheduling of the bridge pods; never their containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

fn one() -> i32 {
    1
}

impl BridgeSpec {
    /// The Secrets that the spec names.
    #[must_use]
    pub fn secret_names(&self) -> Vec<&str> {
        let Some(mqtt) = &self.endpoint.mqtt else { return Vec::new() };
        let credentials = mqtt.credentials.as_ref().map(|credentials| credentials.secret.name.as_str());
        let tls = mqtt.tls.as_ref().map(|tls| tls.secret.name.as_str());
        credentials.into_iter().chain(tls).collect()
    }
}

/// The system outside; exactly one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.mqtt)").message("exactly one kind of endpoint must be set; this release knows `mqtt`"))]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// An MQTT broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttEndpoint>,
}

/// An MQTT broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.tls) || self.url.startsWith('mqtts://')").message("`tls` needs a url that begins with mqtts://"),
)]
#[serde(rename_all = "camelCase")]
pub struct MqttEndpoint {
    /// Address, `mqtt://host:1883` or, with TLS, `mqtts://host:8883`.
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^mqtts?://[^/@\s]+$"))]
    pub url: String,
    /// Protocol version. Default: V5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<MqttVersion>,
    /// Client id, which names the persistent session at the broker. Default: `eventmesh-<namespace>-<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub client_id: Option<String>,
    /// Interval of keep-alive packets. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub keep_alive: Option<Duration>,
    /// How long the broker keeps the session, with the events in it, while the bridge is away (MQTT 5). Default: 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub session_expiry: Option<Duration>,
    /// User name and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Certificates of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
}

/// Version of the MQTT protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    V5,
    V311,
}

/// User name and password of an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Secret of this namespace with the keys `username` and `password`.
    pub secret: LocalRef,
}

/// Certificates of a connection to an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTls {
    /// Secret of this namespace with the key `ca.crt` (authorities to trust; default: the public ones) and, for a
    /// client certificate, `tls.crt` and `tls.key`.
    pub secret: LocalRef,
}

/// One route from outside into the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboundRoute {
    /// Name of the route, unique in the Bridge.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Address outside, in the endpoint's own syntax; for MQTT a topic filter such as `line/+/temperature`.
    #[schemars(length(min = 1, max = 1024))]
    pub from: String,
    /// Subject in the mesh, for example `factory.line.{1}.temperature`; `{n}` is what the n-th wildcard of `from`
    /// stood for. A Topic must store it.
    #[schemars(length(min = 1, max = 1024))]
    pub to: String,
    /// Only events for which this CEL expression is true are delivered, for example `event.data.celsius > 80`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub filter: Option<String>,
    /// Header (MQTT 5: user property) that identifies an event; an event whose id was stored within the Topic's
    /// `deduplicationWindow` is not stored again. Default: the CloudEvents attributes `source` and `id`, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub id_header: Option<String>,
}

/// One route from the mesh to outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboundRoute {
    /// Name of the route, unique in the Bridge.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What is read.
    pub from: OutboundFrom,
    /// Address outside, for MQTT a topic such as `line/{1}/set`; `{n}` is what the n-th wildcard of the matching
    /// subject in `from.filter` stood for.
    #[schemars(length(min = 1, max = 1024))]
    pub to: String,
    /// Only events for which this CEL expression is true are delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub filter: Option<String>,
    /// Ask the MQTT broker to keep the last event of each address for later subscribers. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
}

/// What an outbound route reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboundFrom {
    /// Name of the Topic, of this namespace.
    #[schemars(length(min = 1, max = 63))]
    pub topic: String,
    /// Subjects of the Topic that are wanted. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 1024)))]
    pub filter: Option<Vec<String>>,
    /// Where a new route begins: New or All. Default: All, so that nothing stored is missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<RouteStart>,
}

/// Where a new outbound route begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RouteStart {
    New,
    All,
}

/// How surely, how fast and with what in the worst case events are delivered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// AtLeastOnce: the source is acknowledged only after the target has confirmed; nothing is lost, an event may
    /// come twice. AtMostOnce: the source is acknowledged first; an event may be lost. Default: AtLeastOnce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Guarantee>,
    /// Events of a route that may be under way at once. Default: 1000 outbound, 16384 inbound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_in_flight: Option<i32>,
    /// How a failed delivery is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Where events go that cannot be delivered. Default: they block their route until they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
}

/// Guarantee of delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Guarantee {
    AtLeastOnce,
    AtMostOnce,
}

/// How a failed delivery is tried again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// First waiting time; it doubles with each try. Default: 100ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub initial: Option<Duration>,
    /// Longest waiting time. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub max: Option<Duration>,
    /// Tries before an event is dead-lettered; 0 tries for ever. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempts: Option<i32>,
}

/// Where events go that cannot be delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Name of a Topic, of this namespace and mesh.
    #[schemars(length(min = 1, max = 63))]
    pub topic: String,
}

/// Whether a Bridge carries events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BridgeState {
    Running,
    Paused,
}

/// What the operator saw last, from the pods and from their reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BridgeStatus {
    /// The generation of the spec that the rest of this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: Ready, Accepted, ResolvedRefs, Programmed, Connected.
    #[serde(default)]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Bridge pods that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Bridge pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Label selector of the bridge pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Address of the endpoint, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Sums over the routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Counters>,
    /// State of each route, summed over the pods that report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<RouteStatus>>,
}

/// Counters since the bridge pods started: received = delivered + filtered + deadLettered + dropped + inFlight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Events taken from the source.
    pub received: i64,
    /// Events that the target confirmed.
    pub delivered: i64,
    /// Events that the filter or the loop guard held back.
    pub filtered: i64,
    /// Events stored in the dead-letter Topic.
    pub dead_lettered: i64,
    /// Events given up; only ever more than zero with the guarantee AtMostOnce.
    pub dropped: i64,
    /// Events under way.
    pub in_flight: i64,
    /// Events that wait in the Topic (outbound routes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// State of one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// Name of the route.
    pub name: String,
    /// Connecting, Running, Paused, Blocked or Failed; the worst of the pods that report.
    pub state: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The counters.
    pub counters: Counters,
    /// Deliveries tried again.
    pub retries: i64,
    /// Restarts of the route inside its pod.
    pub restarts: i64,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<String>,
}

fn routes_schema(item: &schemars::Schema) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    })
}

fn inbound_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    routes_schema(&generator.subschema_for::<InboundRoute>())
}

fn outbound_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    routes_schema(&generator.subschema_for::<OutboundRoute>())
}
