//! Carries out the plan of a Topic: the only writes to the broker.

use eventmesh_crds::{Topic, conditions::Reason};
use tracing::info;

use super::{plan::Plan, validate::ValidTopic};
use crate::{
    broker::{api::code, overlay::describe},
    engine::{Context, Error, Stopped},
};

pub async fn run(context: &Context, topic: &Topic, valid: &ValidTopic, plan: Plan) -> Result<Stopped, Error> {
    let (broker, stream) = (&valid.broker, valid.stream.as_str());
    let result = match plan {
        Plan::Nothing => return Ok(programmed(valid, Reason::Programmed)),
        Plan::Observe => return Ok(programmed(valid, Reason::Observed)),
        Plan::Missing => {
            let message = format!("the broker holds no stream {stream}, and this Topic has managed: false");
            return Ok(Stopped::not_programmed(Reason::StreamNotFound, message));
        }
        Plan::Conflict => {
            let message = format!(
                "stream {stream} was not made for a Topic; delete it, or set managed: false to report it without changing it"
            );
            return Ok(Stopped::not_programmed(Reason::StreamConflict, message));
        }
        Plan::Replace(config) => {
            info!(stream, "a deleted Topic of this name has left its stream, which goes");
            broker.delete_stream(stream).await.map_err(Error::broker("delete the stream"))?;
            broker.create_stream(stream, &config).await
        }
        Plan::Create(config) => {
            let result = broker.create_stream(stream, &config).await;
            if result.is_ok() {
                announce_creation(context, topic, valid).await;
            }
            result
        }
        Plan::Update { config, differences } => {
            let result = broker.update_stream(stream, &config).await;
            if result.is_ok() {
                announce_update(context, topic, valid, &describe(&differences)).await;
            }
            result
        }
    };
    match result {
        Ok(()) => Ok(programmed(valid, Reason::Programmed)),
        Err(error) if error.is_code(code::STREAM_NAME_IN_USE) => {
            // Made by somebody between the view and the call: look, and decide again.
            broker.reread_stream(stream).await.map_err(Error::broker("read the stream"))?;
            Err(Error::broker("create the stream")(error))
        }
        Err(error) if error.is_code(code::STREAM_NOT_FOUND) => {
            broker.reread_stream(stream).await.map_err(Error::broker("read the stream"))?;
            Err(Error::broker("update the stream")(error))
        }
        Err(error) if error.is_temporary() => Err(Error::broker("program the stream")(error)),
        Err(error) => Ok(Stopped::not_programmed(Reason::BrokerRefused, format!("stream {stream}: {error}"))),
    }
}

async fn announce_creation(context: &Context, topic: &Topic, valid: &ValidTopic) {
    info!(stream = valid.stream, "created the stream");
    // The first creation is what everybody expects; one after that is a repair.
    if valid.programmed_before {
        context.metrics.repaired("Topic");
        context
            .warn(topic, "StreamRecreated", format!("stream {} was missing and has been created again", valid.stream))
            .await;
    }
}

async fn announce_update(context: &Context, topic: &Topic, valid: &ValidTopic, differences: &str) {
    info!(stream = valid.stream, differences, "updated the stream");
    let status = topic.status.as_ref();
    if status.and_then(|status| status.observed_generation) == topic.metadata.generation {
        context.metrics.repaired("Topic");
        let note = format!("stream {} was changed by others and has been put back: {differences}", valid.stream);
        context.warn(topic, "DriftRepaired", note).await;
    } else {
        context.note(topic, "StreamUpdated", format!("stream {}: {differences}", valid.stream)).await;
    }
}

fn programmed(valid: &ValidTopic, reason: Reason) -> Stopped {
    Stopped::programmed(reason, format!("stream {}", valid.stream)).with_warnings(&valid.warnings)
}
