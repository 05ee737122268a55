//! `Subscription`: one consumer's durable place in a Topic.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bridge::DeadLetter,
    common::{NamespacedRef, conditions_schema, duration_schema, std_duration},
};

/// A Subscription: one consumer's durable place in a Topic. All pods of the consumer share the work.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventmesh.dev",
    version = "v1alpha1",
    kind = "Subscription",
    shortname = "ems",
    category = "eventmesh",
    namespaced,
    cel,
    status = "SubscriptionStatus",
    derive = "PartialEq",
    doc = "A Subscription: one consumer's durable place in a Topic. All pods of the consumer share the work.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63")
        .message("the name of a Subscription must be a DNS label of at most 63 characters without dots: the consumer in the broker is named after it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".spec.topic.name"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Unacked", type_ = "integer", json_path = ".status.ackPending"),
    printcolumn(name = "Redelivered", type_ = "integer", json_path = ".status.redelivered"),
    printcolumn(name = "Dead", type_ = "integer", json_path = ".status.deadLettered"),
    printcolumn(name = "Consumer", type_ = "string", priority = 1, json_path = ".status.consumer"),
    printcolumn(name = "Push", type_ = "integer", priority = 1, json_path = ".spec.push.port"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.topic == oldSelf.topic").message("topic is immutable: a place in one Topic means nothing in another; create a new Subscription"),
    validation = Rule::new("has(self.startFrom) == has(oldSelf.startFrom) && (!has(self.startFrom) || self.startFrom == oldSelf.startFrom)")
        .message("startFrom is immutable: it only says where a new Subscription begins; create a new one to read again"),
    validation = Rule::new("!has(self.backoff) || !has(self.maxDeliver) || self.maxDeliver >= size(self.backoff)")
        .message("backoff must not have more entries than maxDeliver has tries"),
    validation = Rule::new("!has(self.push) || !has(self.subscriber) || has(self.subscriber.serviceAccount)")
        .message("push needs a ServiceAccount as subscriber: events are pushed by the sidecar of its pods, which a client outside Kubernetes does not have"),
    validation = Rule::new("!has(self.push) || !has(self.ackWait) || duration(self.ackWait) > duration(has(self.push.timeout) ? self.push.timeout : '30s')")
        .message("ackWait must be longer than push.timeout (default: 30s): else an event would be delivered again while the application still works on it"),
    validation = Rule::new("!has(self.deadLetter) || has(self.maxDeliver)")
        .message("deadLetter needs maxDeliver: without a limit an event is delivered again until it is accepted, and is never given up"),
)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionSpec {
    /// The Topic. One of another namespace must grant Subscribe to the subscriber. Immutable.
    pub topic: NamespacedRef,
    /// Who reads. Default: the ServiceAccount `default` of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<Subscriber>,
    /// Subjects of the Topic that are wanted; `*` stands for one token, a final `>` for one or more. They must lie
    /// within the Topic's subjects and must not overlap each other. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 1024)))]
    pub filter: Option<Vec<String>>,
    /// Where a new Subscription begins. Default: New. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFrom>,
    /// How the pods of the ServiceAccount get the events by HTTP, from the sidecar beside them. Without it a program pulls
    /// them with a NATS client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// Time that a consumer has to acknowledge an event before it is delivered again. Default: 30s. Where `backoff`
    /// is set, that decides instead. With `push` it is the time after which an event is given to another pod if the one that
    /// has it vanishes, must be longer than `push.timeout`, and is 30s longer by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub ack_wait: Option<Duration>,
    /// Deliveries of an event that is not acknowledged. Default: no limit. An event that is given up stays in the Topic
    /// for as long as its retention keeps it, and is not delivered again; `deadLetter` names a place for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_deliver: Option<i32>,
    /// Waiting times between the deliveries of an event; the last one repeats. With `push` they begin with the application's
    /// refusal, and the default is from 1s, doubling, to 1m; without, with the delivery that was not acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "durations_schema")]
    pub backoff: Option<Vec<Duration>>,
    /// Where events go that were not accepted in `maxDeliver` tries, or that the consumer has terminated: a Topic of this
    /// namespace and of the same mesh. They are stored there with their headers and the reason. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// Events that may be delivered and not yet acknowledged, over all pods of the consumer. Default: 1000, of which with
    /// `push` each pod has at most 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_in_flight: Option<i32>,
    /// True: nothing is delivered; events wait in the Topic. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// What happens to the place in the stream when this object is deleted; events stay with the Topic either way.
    /// Default: Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<PlacePolicy>,
}

/// Who reads a Subscription; exactly one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.serviceAccount) != has(self.client)")
        .message("exactly one of serviceAccount and client must be set"),
)]
#[serde(rename_all = "camelCase")]
pub struct Subscriber {
    /// The pods of this namespace that run as this ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account: Option<String>,
    /// A client of the mesh, by its name in the EventMesh's `clients`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub client: Option<String>,
}

/// How events are pushed: each is a POST of a CloudEvent to the application in the same pod. An answer of 2xx accepts it;
/// 429 and 503 slow the deliveries down; every other answer, and none in time, is a try that failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.timeout) || (duration(self.timeout) >= duration('100ms') && duration(self.timeout) <= duration('1h'))")
        .message("timeout must be between 100ms and 1h"),
)]
#[serde(rename_all = "camelCase")]
pub struct Push {
    /// The port at which the application listens for HTTP, on `127.0.0.1` or all addresses of its pod.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Path of the requests. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r#"^/[!-"$-~]*$"#))]
    pub path: Option<String>,
    /// How long the application may take to answer. Default: 30s. Must be shorter than `ackWait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,
}

impl Push {
    /// How long the application may take to answer.
    #[must_use]
    pub fn timeout(&self) -> std::time::Duration {
        self.timeout.as_ref().map_or(std::time::Duration::from_secs(30), std_duration)
    }
}

/// Where a new Subscription begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(self.position == 'Time') == has(self.time)").message("`time` must be set when `position` is Time, and only then"),
    validation = Rule::new("(self.position == 'Sequence') == has(self.sequence)").message("`sequence` must be set when `position` is Sequence, and only then"),
)]
#[serde(rename_all = "camelCase")]
pub struct StartFrom {
    /// New: events stored from now on. All: every stored event. Time: events stored at or after `time`. Sequence:
    /// events from stream sequence `sequence` on.
    pub position: StartPosition,
    /// For position Time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub time: Option<String>,
    /// For position Sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub sequence: Option<i64>,
}

/// Where a new Subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StartPosition {
    New,
    All,
    Time,
    Sequence,
}

/// What happens to the place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlacePolicy {
    /// The place is forgotten.
    Delete,
    /// The place stays; the same Subscription applied again goes on where it was.
    Retain,
}

/// What the operator saw last. Numbers are refreshed every few seconds while they change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionStatus {
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
    /// Name of the durable consumer in the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Events that wait to be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// Events delivered and not yet acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_pending: Option<i64>,
    /// Events now in a second or later delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivered: Option<i64>,
    /// When the broker last delivered an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<String>,
    /// Events stored in the dead-letter Topic since this Subscription was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_lettered: Option<i64>,
    /// When an event was last stored in the dead-letter Topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_dead_letter: Option<String>,
}

fn durations_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = duration_schema(generator);
    schemars::json_schema!({ "type": "array", "minItems": 1, "maxItems": 32, "items": item })
}

fn time_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "format": "date-time" })
}
