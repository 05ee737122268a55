//! `Bridge`: pods that link the mesh to an endpoint outside Kubernetes.

mod amqp;
pub mod http;
mod kafka;
mod link;
mod mqtt;
mod nats;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{LocalRef, MeshRef, conditions_schema, duration_schema},
    mesh::PodTemplate,
};

pub use amqp::{AmqpEndpoint, AmqpVersion};
pub use http::HttpEndpoint;
pub use kafka::{KafkaCredentials, KafkaEndpoint, KafkaMechanism, KafkaStart, KafkaTls};
pub use link::LinkEndpoint;
pub use mqtt::{MqttEndpoint, MqttVersion};
pub use nats::{NatsCredentials, NatsEndpoint, NatsJetStream};

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
    validation = Rule::new("!has(self.endpoint.http) || !has(self.endpoint.http.listen) || !has(self.outbound) || size(self.outbound) == 0")
        .message("an HTTP listener has inbound routes only: make another Bridge with a target"),
    validation = Rule::new("!has(self.endpoint.http) || !has(self.endpoint.http.target) || !has(self.inbound) || size(self.inbound) == 0")
        .message("an HTTP target has outbound routes only: make another Bridge with a listener"),
    validation = Rule::new("!has(self.endpoint.nats) || has(self.endpoint.nats.jetstream) || has(self.delivery) && has(self.delivery.guarantee) && self.delivery.guarantee == 'AtMostOnce'")
        .message("core NATS confirms nothing: set `endpoint.nats.jetstream`, or `delivery.guarantee: AtMostOnce`"),
    validation = Rule::new("has(self.endpoint.kafka) || !has(self.outbound) || self.outbound.all(o, !has(o.key))")
        .message("`key` is for Kafka only"),
    validation = Rule::new("has(self.endpoint.mqtt) || !has(self.outbound) || self.outbound.all(o, !has(o.retain))")
        .message("`retain` is for MQTT only"),
    validation = Rule::new("!has(self.endpoint.link) || (!has(self.inbound) || size(self.inbound) == 0) && (!has(self.outbound) || self.outbound.all(o, !has(o.to) && !has(o.filter) && !has(o.transform)))")
        .message("a link takes copies of Topics: outbound routes without `to`, `filter` and `transform`"),
    validation = Rule::new("has(self.endpoint.link) || !has(self.outbound) || self.outbound.all(o, has(o.to))")
        .message("an outbound route needs an address in `to`"),
    validation = Rule::new("!has(self.endpoint.link) || !has(self.delivery) || !has(self.delivery.deadLetter) && (!has(self.delivery.guarantee) || self.delivery.guarantee == 'AtLeastOnce')")
        .message("a copy holds every event in its order: leave out `delivery.deadLetter` and `delivery.guarantee`"),
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
    /// Number of bridge pods; `kubectl scale`, an HPA or KEDA may set it. They share the work, unless one pod at a time has
    /// to do it: MQTT with inbound routes, and everything that asks for `ordering: PerSource`. Then one is active
    /// (`status.activePod`), and the others take over within seconds when it is gone. Default: 1.
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
        let amqp = self.endpoint.amqp.iter().flat_map(AmqpEndpoint::secret_names);
        let http = self.endpoint.http.iter().flat_map(HttpEndpoint::secret_names);
        let kafka = self.endpoint.kafka.iter().flat_map(KafkaEndpoint::secret_names);
        let mqtt = self.endpoint.mqtt.iter().flat_map(MqttEndpoint::secret_names);
        let nats = self.endpoint.nats.iter().flat_map(NatsEndpoint::secret_names);
        amqp.chain(http).chain(kafka).chain(mqtt).chain(nats).collect()
    }
}

/// The system outside; exactly one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("[has(self.amqp), has(self.http), has(self.kafka), has(self.mqtt), has(self.nats), has(self.link)].filter(set, set).size() == 1")
        .message("exactly one kind of endpoint must be set: `amqp`, `http`, `kafka`, `link`, `mqtt` or `nats`"),
)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// HTTP: a listener that takes events in, or a target that events are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpEndpoint>,
    /// A Kafka cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaEndpoint>,
    /// An MQTT broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttEndpoint>,
    /// An AMQP broker, of version 0-9-1 or 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amqp: Option<AmqpEndpoint>,
    /// Another NATS system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsEndpoint>,
    /// The other side of a link of the mesh, for copies of Topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkEndpoint>,
}

impl Endpoint {
    /// Where it is, without credentials.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        let nats = || self.nats.as_ref().map(|nats| nats.urls.join(","));
        let amqp = || self.amqp.as_ref().map(|amqp| amqp.url.clone());
        let kafka = || self.kafka.as_ref().map(|kafka| kafka.bootstrap_servers.join(","));
        let link = || self.link.as_ref().map(|link| format!("link {}", link.name));
        self.mqtt.as_ref().map(|mqtt| mqtt.url.clone()).or_else(amqp).or_else(kafka).or_else(nats).or_else(link)
    }
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
    /// Name to find in the other side's certificate. Default: the host of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,
}

/// One route from outside into the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboundRoute {
    /// Name of the route, unique in the Bridge.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Address outside, in the endpoint's own syntax; for MQTT a topic filter such as `line/+/temperature`, for AMQP a queue
    /// such as `orders`, or (0-9-1) an exchange and a binding key such as `amq.topic/line.*.temperature`, for HTTP a path such
    /// as `/orders/*`, for NATS a subject such as `orders.*.created`,
    /// for Kafka a topic such as `orders` or `orders.*`, where `*` stands for what is between two dots.
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
    /// CEL expression whose value is the event's new data, for example `{'c': event.data.celsius}`: a string or bytes as
    /// they are, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub transform: Option<String>,
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
    /// Address outside, for MQTT a topic such as `line/{1}/set`, for AMQP a queue or address such as `orders`, or (0-9-1)
    /// an exchange and a routing key such as `amq.topic/line.{1}.set`, for HTTP a path such as
    /// `/orders/{1}`, for Kafka a topic such as `orders.{1}`; `{n}` is what
    /// the n-th wildcard of the matching subject in `from.filter` stood for. Required, but for a link, where events keep their
    /// subjects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub to: Option<String>,
    /// Only events for which this CEL expression is true are delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub filter: Option<String>,
    /// CEL expression whose value is the event's new data: a string or bytes as they are, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub transform: Option<String>,
    /// Key of events in Kafka: text in which `{n}` is what the n-th wildcard of the matching subject in `from.filter` stood
    /// for and `{name}` a header, for example `{1}`. Events of one key are in one partition, in order. Default, also
    /// for an event without such a header: the key that it had in Kafka or its CloudEvents `partitionkey`, else its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub key: Option<String>,
    /// Ask the MQTT broker to keep the last event of each address for later subscribers. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
}

/// What an outbound route reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboundFrom {
    /// Name of the Topic.
    #[schemars(length(min = 1, max = 63))]
    pub topic: String,
    /// Namespace of the Topic, which must grant Subscribe to this Bridge or its namespace. Default: the Bridge's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
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
#[x_kube(
    validation = Rule::new("!has(self.evaluationErrors) || self.evaluationErrors != 'DeadLetter' || has(self.deadLetter)")
        .message("`evaluationErrors: DeadLetter` needs a `deadLetter`"),
)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// AtLeastOnce: the source is acknowledged only after the target has confirmed; nothing is lost, an event may
    /// come twice. AtMostOnce: the source is acknowledged first; an event may be lost. Default: AtLeastOnce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Guarantee>,
    /// Events of a route that may be under way at once. Default: 1000; 16384 with inbound MQTT routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_in_flight: Option<i32>,
    /// How a failed delivery is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Where events go that cannot be delivered. Default: they block their route until they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// None: in the order of the source while nothing fails; an event that is tried again may come after later ones.
    /// PerSource: events of one source address (topic, partition, queue, subject) arrive in its order, through retries and
    /// restarts, which costs throughput where few addresses carry much. Default: PerSource for kafka, else None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering: Option<Ordering>,
    /// What becomes of an event for which `filter` or `transform` gives no answer (a missing field, say). DeadLetter: as an
    /// event that cannot be delivered. Filter: it does not pass. Default: DeadLetter where there is a `deadLetter`, else Filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_errors: Option<EvaluationErrors>,
}

/// In which order events arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ordering {
    None,
    PerSource,
}

/// What becomes of an event for which an expression gives no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvaluationErrors {
    DeadLetter,
    Filter,
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
    /// The pod that carries events, where one at a time does; the others stand by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_pod: Option<String>,
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
