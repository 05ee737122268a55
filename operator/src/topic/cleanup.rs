//! Deletion of a Topic whose policy asks for its stream to go too.
//!
//! It never hangs: once the mesh is gone or going there is nothing to undo, and the finalizer is released.

use eventmesh_crds::{
    Topic,
    common::DeletionPolicy,
    conditions::{ConditionType, Reason, Verdict},
};
use eventmesh_wire::names;
use tracing::info;

use super::{resolve, status};
use crate::{
    cache::namespaced,
    engine::{Context, Error, Outcome, finalizer},
};

/// Whether deleting this Topic has to do something in the broker.
pub fn is_needed(topic: &Topic) -> bool {
    let policy = topic.spec.deletion_policy.unwrap_or(DeletionPolicy::Retain);
    !topic.spec.is_live() && topic.spec.managed.unwrap_or(true) && policy != DeletionPolicy::Retain
}

pub async fn run(context: &Context, topic: &Topic) -> Result<Outcome, Error> {
    if !finalizer::has(topic) {
        return Ok(Outcome::Done);
    }
    if is_needed(topic)
        && let Ok(mesh) = resolve::run(context, topic).mesh
    {
        let Some(broker) = mesh.broker else {
            let message = format!("deleting the stream waits for the brokers of EventMesh {}", mesh.key);
            let verdict = Verdict::bad(ConditionType::Programmed, Reason::BrokerUnavailable, message);
            status::write(context, topic, vec![verdict]).await?;
            return Ok(Outcome::Waiting);
        };
        let (namespace, name) = namespaced(topic);
        let stream = names::stream(&namespace, &name);
        // The view may be seconds old; whether the stream is empty must be known now.
        broker.reread_stream(&stream).await.map_err(Error::broker("read the stream"))?;
        let messages = broker.view().stream(&stream).map(|entry| entry.state.messages);
        match (messages, topic.spec.deletion_policy) {
            (None, _) => {}
            (Some(messages @ 1..), Some(DeletionPolicy::DeleteIfEmpty)) => {
                info!(stream, messages, "the stream is not empty and is kept");
                context.note(topic, "StreamKept", format!("stream {stream} holds {messages} events and is kept")).await;
            }
            (Some(messages), _) => {
                broker.delete_stream(&stream).await.map_err(Error::broker("delete the stream"))?;
                info!(stream, messages, "deleted the stream");
            }
        }
    }
    finalizer::set(&context.client, topic, false).await?;
    Ok(Outcome::Done)
}
