//! How far a copy is behind: asked of the mesh, and told to the far side.

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use eventmesh_wire::copy::{CopyReport, told_subject};
use serde_json::Value;
use tokio::time::Instant;

use super::{API, Copy};
use crate::jetstream::PullError;

/// How often it is looked whether there is something to tell.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is told when nothing changes.
const AGAIN: Duration = Duration::from_secs(5);

/// When a stream was made, as it tells itself.
pub(super) async fn created(client: &Client, stream: &str) -> Result<String, PullError> {
    let info = ask(client, format!("{API}.STREAM.INFO.{stream}")).await?;
    let created = info["created"].as_str().map(ToOwned::to_owned);
    created.ok_or_else(|| PullError::failed(format_args!("stream `{stream}` is not there; look at its Topic")))
}

/// Events that are not acknowledged.
pub(super) async fn of(client: &Client, stream: &str, consumer: &str) -> Result<u64, PullError> {
    let info = ask(client, format!("{API}.CONSUMER.INFO.{stream}.{consumer}")).await?;
    let pending = info["num_pending"].as_u64();
    let pending = pending
        .ok_or_else(|| PullError::failed(format_args!("consumer `{consumer}` is not there; the operator makes it")))?;
    Ok(pending + info["num_ack_pending"].as_u64().unwrap_or_default())
}

async fn ask(client: &Client, subject: String) -> Result<Value, PullError> {
    let answer = client.request(subject, Bytes::new()).await;
    let answer = answer.map_err(|error| PullError::blocked(&format!("the mesh does not answer: {error}")))?;
    serde_json::from_slice(&answer.payload).map_err(PullError::failed)
}

/// Tells the far side, for as long as this is polled.
pub(super) async fn tell(copy: &Copy) {
    let mut told: Option<(CopyReport, Instant)> = None;
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let Some(report) = report(copy) else { continue };
        let again = told.as_ref().is_none_or(|(before, at)| *before != report || at.elapsed() >= AGAIN);
        if !again || !copy.mesh.is_open() {
            continue;
        }
        if let Ok(payload) = serde_json::to_vec(&report)
            && copy.mesh.client.publish(told_subject(&copy.config.stream), payload.into()).await.is_ok()
        {
            told = Some((report, Instant::now()));
        }
    }
}

fn report(copy: &Copy) -> Option<CopyReport> {
    let lag = copy.books.lag()? + copy.books.counters().in_flight;
    let problem = copy.books.obstacle().and_then(|_| copy.books.last_error()).map(|error| error.message);
    Some(CopyReport { lag, problem })
}
