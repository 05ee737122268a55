//! `EventMesh`: a cluster of brokers and the rules of who may use it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector},
};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    common::{conditions_schema, duration_schema, std_duration},
    link::{Link, LinkStatus},
    quantity::ByteQuantity,
    tls::{CertificatesStatus, Tls, TlsIssuer},
};

/// An event mesh: a cluster of brokers (NATS JetStream) that stores events and delivers them to whoever asked.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventmesh.dev",
    version = "v1alpha1",
    kind = "EventMesh",
    plural = "eventmeshes",
    shortname = "em",
    category = "eventmesh",
    namespaced,
    cel,
    status = "EventMeshStatus",
    derive = "PartialEq",
    doc = "An event mesh: a cluster of brokers (NATS JetStream) that stores events and delivers them to whoever asked.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 45")
        .message("the name of an EventMesh must be a DNS label of at most 45 characters that begins with a letter, since Services are named after it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Brokers", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Topics", type_ = "integer", json_path = ".status.topics"),
    printcolumn(name = "Bridges", type_ = "integer", json_path = ".status.bridges"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.brokerVersion"),
    printcolumn(name = "Endpoint", type_ = "string", priority = 1, json_path = ".status.endpoints.nats"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EventMeshSpec {
    /// The broker cluster. `{}` takes every default.
    pub brokers: Brokers,
    /// How clients reach the brokers. The `nats` listener is always on inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Listeners>,
    /// Where the certificates of the brokers come from. Default: the operator makes and renews them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Which namespaces may hold Topics and Bridges that name this mesh. Default: only the mesh's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
    /// Identities for applications and devices outside Kubernetes. Each gets a Secret `<mesh>-client-<name>` in the
    /// mesh's namespace that holds all it needs to connect. An identity may do what `grants` of Topics and
    /// Subscriptions give it, and nothing else. Removing an entry revokes it for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub clients: Option<Vec<MeshClient>>,
    /// Links to other meshes, over which events cross when somebody at the other side wants them. Meshes that are linked must have
    /// different names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub links: Option<Vec<Link>>,
    /// Credentials that the operator issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<Identities>,
    /// The container that is added to pods which ask for this mesh at `localhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
    /// The service mesh (Istio or Linkerd) beside this event mesh. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_mesh: Option<ServiceMesh>,
    /// While true the operator leaves everything that belongs to this mesh as it is: brokers, Topics, Subscriptions
    /// and Bridges. Events keep flowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl EventMeshSpec {
    /// The service mesh, the default filled in.
    #[must_use]
    pub fn service_mesh(&self) -> ServiceMesh {
        self.service_mesh.unwrap_or_default()
    }

    /// Whether clients speak TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.issuer() != TlsIssuer::Disabled)
    }
}

/// The broker cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || self.replicas in [1, 3, 5, 7]")
        .message("replicas must be 1, 3, 5 or 7: an even number of brokers survives no more failures than one fewer"),
    validation = Rule::new("(has(self.replicas) ? self.replicas : 3) > 1 || (has(oldSelf.replicas) ? oldSelf.replicas : 3) == 1")
        .message("a cluster cannot become a mesh of one broker: create a new EventMesh with 1 replica and move the events"),
    validation = Rule::new("(has(self.replicas) ? self.replicas : 3) == (has(oldSelf.replicas) ? oldSelf.replicas : 3) || (has(oldSelf.replicas) ? oldSelf.replicas : 3) > 1")
        .message("a mesh of one broker cannot grow into a cluster in this release: create a new EventMesh with 3 replicas"),
    validation = Rule::new("has(self.storage) == has(oldSelf.storage) || !has(self.storage) && (!has(oldSelf.storage.size) || quantity(oldSelf.storage.size).compareTo(quantity('10Gi')) <= 0) && !has(oldSelf.storage.className) || has(self.storage) && (!has(self.storage.size) || quantity(self.storage.size).compareTo(quantity('10Gi')) >= 0) && !has(self.storage.className)")
        .message("storage.size cannot shrink, and storage.className cannot be changed, by adding or removing `storage`"),
)]
#[serde(rename_all = "camelCase")]
pub struct Brokers {
    /// Number of brokers: 1, 3, 5 or 7. Default: 3. Three and more can become more or fewer while events flow: brokers that
    /// are to go are emptied first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Container image of the brokers. Default: the broker version that this operator release was tested with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// The volume of each broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// CPU and memory of each broker. Default: requests of 100m and 256Mi, no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels, annotations and scheduling of the broker pods; never their containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// Limits of the brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<BrokerSettings>,
    /// More keys of the broker's configuration file, for what this API does not model. Keys that the operator owns
    /// (such as `cluster`, `jetstream`, `accounts`, `port`) are refused with a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object_schema")]
    pub extra_config: Option<Map<String, Value>>,
}

impl Brokers {
    /// Number of brokers, the default filled in.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.replicas.unwrap_or(3)
    }

    /// When events are forced to disk, the default filled in: one copy has nothing but its disk, several have each other.
    #[must_use]
    pub fn sync(&self) -> Sync {
        let asked = self.storage.as_ref().and_then(|storage| storage.sync);
        let several = std::time::Duration::from_secs(10);
        asked.unwrap_or(if self.count() == 1 { Sync::Always } else { Sync::Interval(several.into()) })
    }
}

/// The volume of each broker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("quantity(has(self.size) ? self.size : '10Gi').compareTo(quantity(has(oldSelf.size) ? oldSelf.size : '10Gi')) >= 0")
        .message("storage.size cannot shrink: a volume that holds events is never made smaller; create a new EventMesh and move the events"),
    validation = Rule::new("has(self.className) == has(oldSelf.className) && (!has(self.className) || self.className == oldSelf.className)")
        .message("storage.className is immutable: existing volumes keep their class"),
)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume of each broker. Default: 10Gi. The broker uses up to 90 % of it for events. It can grow while
    /// events flow, where the StorageClass lets volumes grow, and never shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteQuantity>,
    /// StorageClass of the volumes. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// What happens to the volumes when the EventMesh is deleted. Default: Retain; the same EventMesh applied again
    /// finds its events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<WhenDeleted>,
    /// When a broker forces stored events to disk: `Always` (before each acknowledgement) or an interval such as
    /// `10s`. A killed broker process loses nothing either way; a power failure can lose what was acknowledged within
    /// the interval, if it hits every copy. Default: Always with one replica, 10s with three or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<Sync>,
}

/// What happens to volumes when the EventMesh is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// The volumes and their events stay.
    Retain,
    /// The volumes are deleted with the mesh.
    Delete,
}

/// When stored events are forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sync {
    /// Before each acknowledgement.
    Always,
    /// At this interval.
    Interval(Duration),
}

impl TryFrom<String> for Sync {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "Always" {
            return Ok(Self::Always);
        }
        text.parse().map(Self::Interval).map_err(|_| format!("`{text}` is neither Always nor a duration such as 10s"))
    }
}

impl From<Sync> for String {
    fn from(sync: Sync) -> Self {
        match sync {
            Sync::Always => "Always".to_owned(),
            Sync::Interval(interval) => interval.to_string(),
        }
    }
}

impl JsonSchema for Sync {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sync".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^(Always|([0-9]{1,9}(\\.[0-9]{1,9})?(ms|s|m|h))+)$",
        })
    }
}

/// Labels, annotations and scheduling of pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels added to the pods. Labels that the operator owns win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations added to the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Nodes that the pods may run on, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Spread of the pods. Default: one broker a node where there are enough nodes, preferred and not forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// Limits of the brokers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.maxPayload) || quantity(self.maxPayload).compareTo(quantity('64Mi')) <= 0 && quantity(self.maxPayload).compareTo(quantity('1Ki')) >= 0")
        .message("maxPayload must be between 1Ki and 64Mi, the range that the broker supports"),
)]
#[serde(rename_all = "camelCase")]
pub struct BrokerSettings {
    /// Largest event that the brokers accept, headers included. Default: 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_payload: Option<ByteQuantity>,
    /// Connections that each broker accepts at most. Default: 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<i32>,
}

/// An identity for an application or device outside Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshClient {
    /// Name of the client, unique in the mesh. `grants` of Topics name it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// How long the client's credentials are valid; they are renewed in the Secret after two thirds of it, and have to
    /// be taken away again before the end. Default: 8760h (one year).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub lifetime: Option<Duration>,
}

/// Credentials that the operator issues to ServiceAccounts and Bridges.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.lifetime) || duration(self.lifetime) >= duration('1m')")
        .message("identities.lifetime must be at least 1m"),
)]
#[serde(rename_all = "camelCase")]
pub struct Identities {
    /// How long the credentials of ServiceAccounts and Bridges are valid. They are renewed after two thirds of it, so
    /// that nobody notices an operator that is away for up to a third. Default: 720h (30 days, so 10 days without an
    /// operator).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub lifetime: Option<Duration>,
    /// Connections that one identity may have open at once, over all brokers: all pods of a ServiceAccount together.
    /// Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<i32>,
}

impl Identities {
    /// How long credentials are valid, the default filled in.
    #[must_use]
    pub fn lifetime(this: Option<&Self>) -> std::time::Duration {
        this.and_then(|identities| identities.lifetime.as_ref()).map_or(DEFAULT_LIFETIME, std_duration)
    }

    /// Connections of one identity, the default filled in.
    #[must_use]
    pub fn max_connections(this: Option<&Self>) -> i32 {
        this.and_then(|identities| identities.max_connections).unwrap_or(1000)
    }
}

impl MeshClient {
    /// How long credentials are valid, the default filled in.
    #[must_use]
    pub fn lifetime(&self) -> std::time::Duration {
        self.lifetime.as_ref().map_or(DEFAULT_CLIENT_LIFETIME, std_duration)
    }
}

const DEFAULT_LIFETIME: std::time::Duration = std::time::Duration::from_hours(720);
const DEFAULT_CLIENT_LIFETIME: std::time::Duration = std::time::Duration::from_hours(8760);

/// A service mesh whose proxies may be in pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceMesh {
    /// Found out for each namespace from the labels and annotations by which the injectors decide.
    #[default]
    Auto,
    /// Every namespace of this mesh's pods is in Istio.
    Istio,
    /// Every namespace of this mesh's pods is in Linkerd.
    Linkerd,
    /// No marks at all.
    None,
}

/// The container that is added to pods which ask for this mesh at `localhost`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// CPU and memory of the container, in pods that are created from now on. Default: requests of 10m and 16Mi, a limit
    /// of 128Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// How clients reach the brokers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listeners {
    /// The NATS protocol on port 4222.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<Listener>,
    /// MQTT 3.1.1 on port 8883 (1883 without TLS), Service `<mesh>-mqtt`. Present: on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<Listener>,
    /// The NATS protocol over WebSocket on port 8443 (8080 without TLS), Service `<mesh>-websocket`. Present: on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<Listener>,
    /// Leaf nodes on port 7422, Service `<mesh>-leaf`: where other meshes and remote sites dial in. Present: on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<Listener>,
}

/// One way in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Type of the Service that exposes the listener. Default: ClusterIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Expose>,
}

/// Type of the Service that exposes a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Expose {
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// Which namespaces may use the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
        .message("`selector` must be set when `from` is Selector, and only then"),
)]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// Same: only the mesh's own namespace. All: every namespace. Selector: its own and those that match `selector`.
    pub from: AllowedFrom,
    /// Labels of the namespaces that are let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllowedFrom {
    Same,
    All,
    Selector,
}

/// What the operator saw last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventMeshStatus {
    /// The generation of the spec that the rest of this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: Ready, Accepted, ResolvedRefs, Programmed, Available, and Linked where the spec has links.
    #[serde(default)]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Ready brokers of wanted brokers, for example `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Version that the brokers report. While they differ during a roll: the lowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_version: Option<String>,
    /// What each broker reports of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brokers: Option<Vec<BrokerStatus>>,
    /// The restarts of brokers by the operator, the newest first, at most ten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<Vec<BrokerRestart>>,
    /// The certificates of the brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// Links to other meshes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Vec<LinkStatus>>,
    /// Topics that name this mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<i64>,
    /// Subscriptions of these Topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<i64>,
    /// Bridges that name this mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridges: Option<i64>,
    /// The account that holds the mesh's events in the brokers: the public key of the Secret `<mesh>-keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Identities that may connect: ServiceAccounts, Bridges and clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<i64>,
}

/// Where clients connect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// URL of the NATS protocol inside the cluster. The Secret of each identity holds it with the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<String>,
    /// URL of the MQTT listener inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<String>,
    /// URL of the WebSocket listener inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<String>,
    /// URL of the leaf node listener inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<String>,
}

/// What one broker reports of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Name of the broker and of its pod.
    pub name: String,
    /// Node that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether the pod is ready.
    pub ready: bool,
    /// Whether the broker leads the cluster's metadata.
    pub meta_leader: bool,
    /// Version of the broker; absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the broker process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// Restarts of the container, by whatever cause.
    pub restarts: i32,
    /// Whether the broker runs with the certificates that it should; absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates_current: Option<bool>,
}

/// One restart of a broker by the operator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerRestart {
    /// Name of the broker and of its pod.
    pub broker: String,
    /// The pod that was ended.
    pub pod_uid: String,
    /// When the operator decided it.
    pub time: String,
    /// Why: `ImageChanged`, `ConfigurationChanged`, `ResourcesChanged` or `PodTemplateChanged`, the first of several; or `StorageStopped`.
    pub reason: String,
    /// Everything that changed, for example `image changed from a to b`; or what the broker had stopped storing.
    pub message: String,
}

fn free_object_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
