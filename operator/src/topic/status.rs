//! The status of a Topic, from the verdicts of the pass and the view of the brokers.

use std::sync::PoisonError;

use eventmesh_crds::{
    Topic,
    conditions::{self, ConditionType, Verdict},
    topic::TopicStatus,
};
use eventmesh_wire::names;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::mirror;
use crate::{
    broker::{api::StreamState, view::StreamEntry},
    cache::{mesh_key, namespaced, topics::TopicKey},
    engine::{Context, Error, apply},
    link,
    status_values::{signed, whole_seconds},
};

pub async fn write(context: &Context, topic: &Topic, mut verdicts: Vec<Verdict>) -> Result<(), Error> {
    let (namespace, name) = namespaced(topic);
    let key = mesh_key(&topic.spec.mesh, &namespace);
    let (broker, stream) = (context.brokers.get(&key), names::stream(&namespace, &name));
    let told = broker
        .as_ref()
        .and_then(|broker| broker.copies.lock().unwrap_or_else(PoisonError::into_inner).of(&stream, Instant::now()));
    let mesh = context.cache.mesh(&key);
    let mirrored = mirror::verdict(topic, mesh.as_deref(), taken_by(context, topic).as_ref(), told.as_ref());
    let before = topic.status.as_ref().and_then(|status| status.mirror.as_ref());
    let mirror = mirror::status(mirrored.as_ref(), told.as_ref(), before, context.now());
    verdicts.extend(mirrored);
    let status = {
        let view = broker.as_ref().map(|broker| broker.view());
        let entry = view.as_ref().and_then(|view| view.stream(&stream));
        TopicStatus { mirror, ..build(topic, &verdicts, entry, context.now()) }
    };
    apply::status(&context.client, topic, topic.status.as_ref(), &status).await?;
    Ok(())
}

/// An older Topic of the mesh that is a copy of the same.
fn taken_by(context: &Context, topic: &Topic) -> Option<TopicKey> {
    topic.spec.mirror.as_ref()?;
    let mesh = |topic: &Topic| mesh_key(&topic.spec.mesh, &namespaced(topic).0);
    let own = mesh(topic);
    let all = context.cache.topics.state_filter(|other| mesh(other) == own);
    link::copy::taken_by(topic, all.iter().map(|other| &**other))
}

fn build(topic: &Topic, verdicts: &[Verdict], entry: Option<&StreamEntry>, now: Timestamp) -> TopicStatus {
    let before = topic.status.clone().unwrap_or_default();
    let generation = topic.metadata.generation;
    let verdicts = conditions::with_ready(verdicts.to_vec());
    let conditions = conditions::merge(&before.conditions, &verdicts, generation, now);
    // Only a stream that is known to be this Topic's is reported; a name in the status says so to later passes.
    let programmed = verdicts.iter().any(|v| v.kind == ConditionType::Programmed && v.status == Some(true));
    let Some(entry) = entry.filter(|_| programmed) else {
        // The brokers cannot be asked, or hold nothing of ours: what was last known stays.
        return TopicStatus { observed_generation: generation, conditions, ..before };
    };
    let config = entry.config().unwrap_or_default();
    let StreamState { messages, bytes, first_ts, last_ts, consumer_count, .. } = &entry.state;
    let time = |time: &str| (*messages > 0).then(|| whole_seconds(time));
    TopicStatus {
        observed_generation: generation,
        conditions,
        stream: config.get("name").and_then(Value::as_str).map(ToOwned::to_owned),
        subjects: config.get("subjects").and_then(|subjects| serde_json::from_value(subjects.clone()).ok()),
        replicas: config.get("num_replicas").and_then(Value::as_i64),
        messages: Some(signed(*messages)),
        bytes: Some(signed(*bytes)),
        first_time: time(first_ts),
        last_time: time(last_ts),
        consumers: Some(signed(*consumer_count)),
        mirror: None,
    }
}
