//! From a spec that the API server took to one that the broker will not refuse. Pure.

use std::sync::Arc;

use eventmesh_crds::{
    Topic,
    common::{DeletionPolicy, std_duration},
    conditions::Reason,
    quantity::ByteQuantity,
    topic::{Compression, Discard, RetentionPolicy, StorageType},
};
use eventmesh_wire::{names, subject::Pattern};
use serde_json::json;

use super::resolve::{Overlap, Resolved};
use crate::{
    broker::{
        MeshBroker,
        api::{Config, object},
    },
    cache::namespaced,
    engine::Stopped,
    identity::grants,
    leftovers::mark,
    link,
    refs::ResolvedMesh,
    subjects::{Refusal, subjects_of},
};

/// Metadata of a stream: which Topic it belongs to.
pub const OWNER: &str = "eventmesh.dev/topic";

/// Default time in which an id is remembered.
const DEDUPLICATION_WINDOW: i64 = 120_000_000_000;

/// A Topic that can be programmed.
pub struct ValidTopic {
    pub broker: Arc<MeshBroker>,
    pub stream: String,
    /// The keys of the stream's configuration that the operator owns.
    pub config: Config,
    pub managed: bool,
    /// Whether this Topic is known to have programmed the stream before.
    pub programmed_before: bool,
    /// What the spec gives up, for the condition.
    pub warnings: Vec<String>,
}

pub fn run(topic: &Topic, resolved: &Resolved) -> Result<ValidTopic, Stopped> {
    let mesh = resolved.mesh.as_ref().map_err(|problem| Stopped::unresolved(problem.verdict()))?;
    if mesh.is_paused() {
        return Err(Stopped::waiting(Reason::Paused, format!("EventMesh {} is paused", mesh.key)));
    }
    let config = accept(topic, mesh, resolved.overlap.as_ref())
        .map_err(|(reason, message)| Stopped::rejected(reason, message))?;
    let Some(broker) = mesh.broker.clone() else {
        let message = format!("waiting for the brokers of EventMesh {}", mesh.key);
        return Err(Stopped::waiting(Reason::BrokerUnavailable, message));
    };
    let (namespace, name) = namespaced(topic);
    let stream = names::stream(&namespace, &name);
    Ok(ValidTopic {
        broker,
        programmed_before: topic.status.as_ref().is_some_and(|status| status.stream.as_ref() == Some(&stream)),
        stream,
        config,
        managed: topic.spec.managed.unwrap_or(true),
        warnings: warnings(topic, mesh, &resolved.unknown),
    })
}

fn accept(topic: &Topic, mesh: &ResolvedMesh, overlap: Option<&Overlap>) -> Result<Config, Refusal> {
    let subjects = subjects_of(topic);
    let mut patterns = Vec::with_capacity(subjects.len());
    for subject in &subjects {
        let pattern = Pattern::parse(subject).map_err(|error| (Reason::InvalidSubject, error.to_string()))?;
        if let Some(other) = patterns.iter().find(|other| pattern.overlaps(other)) {
            let message = format!("subjects `{other}` and `{pattern}` of this Topic overlap; remove one of them");
            return Err((Reason::InvalidSubject, message));
        }
        patterns.push(pattern);
    }
    let replicas = replicas(topic, mesh.brokers());
    if replicas > mesh.brokers() && !topic.spec.is_live() {
        let message = format!(
            "storage.replicas is {replicas}, but EventMesh {} has {} broker(s); lower it or add brokers",
            mesh.key,
            mesh.brokers()
        );
        return Err((Reason::InvalidReplicas, message));
    }
    if let Some(Overlap { winner: (namespace, name), mine, theirs }) = overlap {
        let message = format!(
            "subject `{mine}` overlaps with `{theirs}` of Topic {namespace}/{name}, which is older; change the subjects of one of them"
        );
        return Err((Reason::SubjectOverlap, message));
    }
    if let Some(message) = grants::second_repliers(topic) {
        return Err((Reason::ReplyTaken, message));
    }
    if let Some(message) = grants::crossing_publishers(topic) {
        return Err((Reason::GrantsOverlap, message));
    }
    let mut config = build(topic, &subjects, replicas).map_err(|message| (Reason::InvalidSpec, message))?;
    if link::plan::exports(&mesh.mesh, &patterns) {
        hand_on(&mut config);
    }
    mark::put(&mut config, topic, &mesh.mesh, topic.spec.deletion_policy.unwrap_or(DeletionPolicy::Retain));
    Ok(config)
}

/// Hands on to links what is stored. A batch is stored with its marks, by which the other side would take what comes for a batch of
/// its own, of which links may carry a part only: so there are none.
fn hand_on(config: &mut Config) {
    config.insert("republish".to_owned(), json!({"src": ">", "dest": link::account::handed_on(">")}));
    config.insert("allow_atomic".to_owned(), json!(false));
}

fn replicas(topic: &Topic, brokers: i32) -> i32 {
    let asked = topic.spec.storage.as_ref().and_then(|storage| storage.replicas);
    asked.unwrap_or(if brokers >= 3 { 3 } else { 1 })
}

fn warnings(topic: &Topic, mesh: &ResolvedMesh, unknown: &[String]) -> Vec<String> {
    let mut warnings = grants::problems(topic);
    warnings.extend_from_slice(unknown);
    if topic.spec.is_live() {
        return warnings;
    }
    if mesh.brokers() > 1 && replicas(topic, mesh.brokers()) == 1 {
        warnings
            .push("storage.replicas is 1: the loss of one broker's volume loses the events of this Topic".to_owned());
    }
    if topic.spec.storage.as_ref().and_then(|storage| storage.kind) == Some(StorageType::Memory) {
        warnings.push("storage.type is Memory: a restart of the brokers loses the events of this Topic".to_owned());
    }
    warnings
}

/// The keys of the stream's configuration that the operator owns, in the broker's own words and units.
fn build(topic: &Topic, subjects: &[String], replicas: i32) -> Result<Config, String> {
    let (namespace, name) = namespaced(topic);
    let retention = topic.spec.retention.clone().unwrap_or_default();
    let storage = topic.spec.storage.clone().unwrap_or_default();
    let max_age = nanoseconds("retention.maxAge", retention.max_age.as_ref())?.unwrap_or(0);
    let window = match nanoseconds("deduplicationWindow", topic.spec.deduplication_window.as_ref())? {
        Some(window) if max_age > 0 && window > max_age => {
            return Err("deduplicationWindow is longer than retention.maxAge; make it at most as long".to_owned());
        }
        Some(window) => window,
        None if max_age > 0 => DEDUPLICATION_WINDOW.min(max_age),
        None => DEDUPLICATION_WINDOW,
    };
    let value = json!({
        "name": names::stream(&namespace, &name),
        "subjects": subjects,
        "retention": match retention.policy.unwrap_or(RetentionPolicy::Limits) {
            RetentionPolicy::Limits => "limits",
            RetentionPolicy::WorkQueue => "workqueue",
            RetentionPolicy::Interest => "interest",
        },
        "max_age": max_age,
        "max_bytes": retention.max_bytes.as_ref().map_or(-1, ByteQuantity::bytes),
        "max_msgs": retention.max_messages.unwrap_or(-1),
        "max_msgs_per_subject": retention.max_messages_per_subject.unwrap_or(-1),
        "max_msg_size": retention.max_message_size.as_ref().map_or(-1, ByteQuantity::bytes),
        "max_consumers": -1,
        "discard": match retention.discard.unwrap_or(Discard::Old) { Discard::Old => "old", Discard::New => "new" },
        "discard_new_per_subject":
            retention.discard == Some(Discard::New) && retention.max_messages_per_subject.is_some(),
        "storage": match storage.kind.unwrap_or(StorageType::File) {
            StorageType::Memory => "memory",
            // Of None no stream is made.
            StorageType::File | StorageType::None => "file",
        },
        "num_replicas": replicas,
        "compression": match storage.compression.unwrap_or(Compression::None) { Compression::None => "none", Compression::S2 => "s2" },
        "duplicate_window": window,
        "allow_direct": true,
        // Bridges write in batches: one disk sync or one acknowledgement for many events.
        "allow_atomic": true,
        "allow_batched": true,
        "deny_delete": false,
        "deny_purge": false,
        "no_ack": false,
        "sealed": false,
        // Only what a link exports is handed on; see `hand_on`.
        "republish": null,
        "metadata": { OWNER: format!("{namespace}/{name}") },
    });
    Ok(object(value))
}

fn nanoseconds(field: &str, duration: Option<&kube::core::Duration>) -> Result<Option<i64>, String> {
    duration
        .map(|duration| {
            i64::try_from(std_duration(duration).as_nanos())
                .map_err(|_| format!("{field} is longer than 292 years; leave it out for no limit"))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    fn topic(spec: &Value) -> Topic {
        let mut full = json!({"mesh": {"name": "retail"}});
        full.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic",
            "metadata": {"name": "accounts", "namespace": "shop", "uid": "u-1"}, "spec": full,
        }))
        .expect("a topic")
    }

    fn mesh(brokers: i32) -> ResolvedMesh {
        let mesh = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
            "metadata": {"name": "retail", "namespace": "shop"}, "spec": {"brokers": {"replicas": brokers}},
        });
        ResolvedMesh {
            key: crate::broker::MeshKey { namespace: "shop".into(), name: "retail".into() },
            mesh: Arc::new(serde_json::from_value(mesh).expect("a mesh")),
            broker: None,
            starting: false,
        }
    }

    #[test]
    fn every_field_reaches_the_stream() {
        let topic = topic(&json!({
            "subjects": ["accounts.>"],
            "retention": {
                "policy": "WorkQueue", "maxAge": "168h", "maxBytes": "1Gi", "maxMessages": 5, "maxMessagesPerSubject": 1,
                "maxMessageSize": "1Ki", "discard": "New",
            },
            "storage": {"type": "Memory", "replicas": 3, "compression": "S2"},
            "deduplicationWindow": "1m",
        }));
        let config = accept(&topic, &mesh(3), None).expect("valid");
        insta::assert_yaml_snapshot!("every_field", Value::Object(config));
    }

    #[test]
    fn defaults_suit_the_mesh() {
        let config = accept(&topic(&json!({})), &mesh(1), None).expect("valid");
        assert_eq!(config["subjects"], json!(["accounts", "accounts.>"]));
        assert_eq!(config["num_replicas"], json!(1));
        let config = accept(&topic(&json!({"retention": {"maxAge": "10s"}})), &mesh(5), None).expect("valid");
        assert_eq!(config["num_replicas"], json!(3));
        assert_eq!(config["duplicate_window"], config["max_age"], "the broker refuses a longer window");
    }

    #[rstest]
    #[case(json!({"subjects": ["a..b"]}), 3, Reason::InvalidSubject)]
    #[case(json!({"subjects": ["$JS.API.>"]}), 3, Reason::InvalidSubject)]
    #[case(json!({"subjects": ["$EM.report.>"]}), 3, Reason::InvalidSubject)]
    #[case(json!({"subjects": [">"]}), 3, Reason::InvalidSubject)]
    #[case(json!({"subjects": ["a.>", "a.b"]}), 3, Reason::InvalidSubject)]
    #[case(json!({"storage": {"replicas": 5}}), 3, Reason::InvalidReplicas)]
    #[case(json!({"storage": {"replicas": 3}}), 1, Reason::InvalidReplicas)]
    #[case(json!({"retention": {"maxAge": "1m"}, "deduplicationWindow": "2m"}), 3, Reason::InvalidSpec)]
    fn refuses(#[case] spec: Value, #[case] brokers: i32, #[case] reason: Reason) {
        let (found, message) = accept(&topic(&spec), &mesh(brokers), None).expect_err("refused");
        assert_eq!(found, reason, "{message}");
    }

    #[test]
    fn an_overlap_names_the_winner() {
        let overlap = Overlap {
            winner: ("crm".into(), "all-accounts".into()),
            mine: Pattern::parse("accounts.>").expect("valid"),
            theirs: Pattern::parse("accounts.*").expect("valid"),
        };
        let (reason, message) = accept(&topic(&json!({})), &mesh(3), Some(&overlap)).expect_err("refused");
        assert_eq!(reason, Reason::SubjectOverlap);
        assert!(message.contains("crm/all-accounts"), "{message}");
    }
}
