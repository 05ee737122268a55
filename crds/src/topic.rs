//! `Topic`: a stored, replicated, subject-addressed stream of events.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{DeletionPolicy, MeshRef, NamespacedRef, conditions_schema, duration_schema},
    quantity::ByteQuantity,
};

/// A Topic: a stored, replicated stream of events, addressed by subjects.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventmesh.dev",
    version = "v1alpha1",
    kind = "Topic",
    shortname = "emt",
    category = "eventmesh",
    namespaced,
    cel,
    status = "TopicStatus",
    derive = "PartialEq",
    doc = "A Topic: a stored, replicated stream of events, addressed by subjects.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63")
        .message("the name of a Topic must be a DNS label of at most 63 characters without dots: the stream in the broker is named after it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Mesh", type_ = "string", json_path = ".spec.mesh.name"),
    printcolumn(name = "Messages", type_ = "integer", json_path = ".status.messages"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes"),
    printcolumn(name = "Consumers", type_ = "integer", json_path = ".status.consumers"),
    printcolumn(name = "Lag", type_ = "integer", priority = 1, json_path = ".status.mirror.lag"),
    printcolumn(name = "Replicas", type_ = "integer", priority = 1, json_path = ".status.replicas"),
    printcolumn(name = "Stream", type_ = "string", priority = 1, json_path = ".status.stream"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!(has(self.storage) && has(self.storage.type) && self.storage.type == 'None') || !(has(self.retention) || has(self.deduplicationWindow) || has(self.deletionPolicy) || has(self.managed) || has(self.storage.replicas) || has(self.storage.compression))")
        .message("storage.type None stores nothing: leave out retention, deduplicationWindow, deletionPolicy, managed, storage.replicas and storage.compression"),
    validation = Rule::new("!has(self.grants) || (has(self.storage) && has(self.storage.type) && self.storage.type == 'None') || !self.grants.exists(grant, 'Reply' in grant.allow)")
        .message("Reply is a right in Topics with storage.type None only: an event that is stored is answered by the store"),
    validation = Rule::new("self.mesh == oldSelf.mesh").message("mesh is immutable: events do not move between meshes; create a new Topic"),
    validation = Rule::new("(has(self.storage) && has(self.storage.type) ? self.storage.type : 'File') == (has(oldSelf.storage) && has(oldSelf.storage.type) ? oldSelf.storage.type : 'File')")
        .message("storage.type is immutable: the broker cannot move a stream between memory and disk; create a new Topic"),
    validation = Rule::new("(has(self.retention) && has(self.retention.policy) ? self.retention.policy : 'Limits') == (has(oldSelf.retention) && has(oldSelf.retention.policy) ? oldSelf.retention.policy : 'Limits')")
        .message("retention.policy is immutable: changing it could delete stored events; create a new Topic"),
    validation = Rule::new("!has(self.mirror) || (!has(self.storage) || !has(self.storage.type) || self.storage.type != 'None') && (!has(self.retention) || !has(self.retention.policy) || self.retention.policy == 'Limits')")
        .message("a copy stores events until a limit removes them: leave out storage.type None and retention.policy"),
    validation = Rule::new("!has(self.mirror) || !has(self.grants) || self.grants.all(grant, grant.allow.all(right, right == 'Subscribe'))")
        .message("nobody publishes to a copy: grant Subscribe only, or publish where the events come from"),
    validation = Rule::new("!has(self.mirror) || has(oldSelf.mirror) && self.mirror == oldSelf.mirror")
        .message("mirror cannot be added or changed, since a copy holds the events of one Topic only: create a new Topic. It can be removed: then the Topic goes on with what it has"),
)]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// The mesh that stores the Topic. Immutable.
    pub mesh: MeshRef,
    /// Subjects whose events the Topic stores; `*` stands for one token, a final `>` for one or more. Default: the
    /// Topic's name and everything below it, `<name>` and `<name>.>`. No two Topics of a mesh may overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 1024)))]
    pub subjects: Option<Vec<String>>,
    /// How long events are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Where and how often events are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<TopicStorage>,
    /// An event whose id was already stored within this time is not stored again. Default: 2m. At most `maxAge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub deduplication_window: Option<Duration>,
    /// Who may publish to the Topic, and which other namespaces may subscribe to it. Subscriptions and routes of the
    /// Topic's own namespace need no grant; publishers always do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub grants: Option<Vec<Grant>>,
    /// What happens to the stored events when this object is deleted. Default: Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// False: report the state of a stream that already exists, and never create, change or delete it. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<bool>,
    /// This Topic is a copy of one of a linked mesh: it holds the same events in the same order, and catches up after an
    /// outage. `subjects` must hold those of the other. Nobody else may publish to it. Without it the Topic goes on with
    /// what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
}

/// What a Topic is a copy of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Name of the link in the `links` of this Topic's mesh. A Bridge at the other side sends the events over it.
    #[schemars(length(min = 1, max = 32))]
    pub link: String,
    /// The Topic at the other side.
    pub topic: MirroredTopic,
}

/// A Topic of a linked mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirroredTopic {
    /// Name of the Topic there.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Its namespace there. Default: the name of this Topic's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

/// Rights in a Topic that its owner gives away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!('Reply' in self.allow) || has(self.to.serviceAccount) || has(self.to.client)")
        .message("Reply is for one serviceAccount or client: of several, each would be asked and the first answer would win"),
)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Who gets the rights.
    pub to: GrantTo,
    /// Publish: to publish events. Subscribe: to have Subscriptions and outbound routes that read the Topic; for a
    /// client that speaks MQTT, to subscribe there. In a Topic with storage.type None, Publish: to publish events and to send
    /// requests; Subscribe: to hear them; Reply: to answer requests, for one ServiceAccount or client only.
    #[schemars(length(min = 1, max = 3))]
    pub allow: Vec<Right>,
    /// Subjects that the grant is limited to; `*` stands for one token, a final `>` for one or more. They must lie
    /// within the Topic's subjects. Default: all of the Topic's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 1024)))]
    pub subjects: Option<Vec<String>>,
}

/// Who a grant is for; exactly one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.serviceAccount) ? 1 : 0) + (has(self.bridge) ? 1 : 0) + (has(self.namespace) ? 1 : 0) + (has(self.client) ? 1 : 0) == 1")
        .message("exactly one of serviceAccount, bridge, namespace and client must be set"),
)]
#[serde(rename_all = "camelCase")]
pub struct GrantTo {
    /// The pods that run as this ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<NamespacedRef>,
    /// A Bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<NamespacedRef>,
    /// Every ServiceAccount and Bridge of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// A client of the mesh, by its name in the EventMesh's `clients`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub client: Option<String>,
}

/// A right in a Topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Right {
    Publish,
    Subscribe,
    Reply,
}

/// How long events are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.discard) || self.discard == 'Old' || has(self.maxBytes) || has(self.maxMessages) || has(self.maxMessagesPerSubject)")
        .message("discard: New refuses events when the Topic is full, so it needs maxBytes, maxMessages or maxMessagesPerSubject"),
)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Limits: events stay until a limit removes them. WorkQueue: until one consumer has processed them. Interest:
    /// until every consumer that exists has processed them. Default: Limits. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RetentionPolicy>,
    /// Age at which events are removed, for example `168h`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub max_age: Option<Duration>,
    /// Bytes that are kept at most. Default: no limit other than the brokers' volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteQuantity>,
    /// Events that are kept at most. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_messages: Option<i64>,
    /// Events that are kept at most of each subject; 1 keeps the latest state of each. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_messages_per_subject: Option<i64>,
    /// Largest event that the Topic takes. Default: the mesh's `maxPayload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_size: Option<ByteQuantity>,
    /// What happens at a limit. Old: the oldest event is removed. New: new events are refused, and publishers told.
    /// Default: Old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<Discard>,
}

/// When stored events may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetentionPolicy {
    Limits,
    WorkQueue,
    Interest,
}

/// What happens at a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Discard {
    Old,
    New,
}

/// Where and how often events are stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || self.replicas in [1, 3, 5]")
        .message("replicas must be 1, 3 or 5: an even number of copies survives no more failures than one fewer"),
)]
#[serde(rename_all = "camelCase")]
pub struct TopicStorage {
    /// File, Memory or None. Memory loses its events when its brokers restart. None stores nothing: events reach whoever
    /// listens at that moment, and requests whoever answers. Default: File. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "type")]
    pub kind: Option<StorageType>,
    /// Copies of each event, on different brokers: 1, 3 or 5, at most the mesh's brokers. Default: 3, or 1 in a mesh
    /// of one broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Compression of stored events. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// Medium of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageType {
    File,
    Memory,
    None,
}

impl TopicSpec {
    /// Whether nothing is stored: events and requests go to who is there.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.storage.as_ref().and_then(|storage| storage.kind) == Some(StorageType::None)
    }
}

/// Compression of stored events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    None,
    S2,
}

/// What the operator saw last. Numbers are refreshed every few seconds while they change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The generation of the spec that the rest of this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: Ready, Accepted, ResolvedRefs, Programmed.
    #[serde(default)]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// Name of the stream in the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Subjects that the stream stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<String>>,
    /// Copies of each event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Events stored now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,
    /// Bytes stored now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Time of the oldest stored event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_time: Option<String>,
    /// Time of the newest stored event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_time: Option<String>,
    /// Durable places in the stream: Subscriptions, outbound routes of Bridges, and consumers made by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<i64>,
    /// How far the copy is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorStatus>,
}

/// How far a copy is, as the other side has told it last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorStatus {
    /// Following, Blocked, Silent or Waiting.
    pub state: String,
    /// Since when it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Events at the other side that the copy did not have when that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// What kept it last from catching up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
