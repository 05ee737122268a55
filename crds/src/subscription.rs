//! `Subscription`: one consumer's durable place in a Topic.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{LocalRef, conditions_schema, duration_schema};

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
    printcolumn(name = "Consumer", type_ = "string", priority = 1, json_path = ".status.consumer"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.topic == oldSelf.topic").message("topic is immutable: a place in one Topic means nothing in another; create a new Subscription"),
    validation = Rule::new("has(self.startFrom) == has(oldSelf.startFrom) && (!has(self.startFrom) || self.startFrom == oldSelf.startFrom)")
        .message("startFrom is immutable: it only says where a new Subscription begins; create a new one to read again"),
    validation = Rule::new("!has(self.backoff) || !has(self.maxDeliver) || self.maxDeliver >= size(self.backoff)")
        .message("backoff must not have more entries than maxDeliver has tries"),
)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionSpec {
    /// The Topic, of this namespace. Immutable.
    pub topic: LocalRef,
    /// Subjects of the Topic that are wanted; `*` stands for one token, a final `>` for one or more. They must lie
    /// within the Topic's subjects and must not overlap each other. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 1024)))]
    pub filter: Option<Vec<String>>,
    /// Where a new Subscription begins. Default: New. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFrom>,
    /// Time that a consumer has to acknowledge an event before it is delivered again. Default: 30s. Where `backoff`
    /// is set, that decides instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub ack_wait: Option<Duration>,
    /// Deliveries of an event that is not acknowledged. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_deliver: Option<i32>,
    /// Waiting times between the deliveries of an event; the last one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "durations_schema")]
    pub backoff: Option<Vec<Duration>>,
    /// Events that may be delivered and not yet acknowledged, over all pods of the consumer. Default: 1000.
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
}

fn durations_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = duration_schema(generator);
    schemars::json_schema!({ "type": "array", "minItems": 1, "maxItems": 32, "items": item })
}

fn time_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "format": "date-time" })
}
