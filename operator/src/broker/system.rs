//! Asking all brokers of a mesh at once, over the system account.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use super::MeshBroker;

/// Hands each answer to `heard`, which says how long another one is awaited: nobody knows beforehand how many brokers
/// live. It is called first without an answer.
pub(super) async fn ask_all(
    broker: &MeshBroker,
    subject: &'static str,
    request: Bytes,
    mut heard: impl FnMut(Option<Message>) -> Option<Duration> + Send,
) -> Result<(), async_nats::Error> {
    let inbox = broker.system.new_inbox();
    let mut answers = broker.system.subscribe(inbox.clone()).await?;
    broker.system.publish_with_reply(subject, inbox, request).await?;
    let mut last = None;
    while let Some(window) = heard(last.take()) {
        let Ok(Some(answer)) = timeout(window, answers.next()).await else { break };
        last = Some(answer);
    }
    Ok(())
}
