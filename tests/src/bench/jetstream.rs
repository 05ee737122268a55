//! What `async-nats` does alone: publish to a stream, and take from one. For the mesh and for another NATS as far side.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use async_nats::{Client, HeaderMap};
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Arrivals, Feed, WINDOW};

/// A server that says nothing for so long says nothing more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asynchronous publish with one inbox for all answers, a window on its way. With `identified`, each event has an id by which
/// the stream knows it.
pub async fn publish(client: &Client, prefix: &str, identified: bool, feed: &Feed<'_>) -> Result<()> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    // Answers are read while events wait for their time.
    let (room, total) = (Semaphore::new(WINDOW), Cell::new(None));
    let send = async {
        let mut sent: u32 = 0;
        while let Some(event) = feed.next().await {
            room.acquire().await?.forget();
            let subject = format!("{prefix}.{}", event.lane);
            if identified {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Msg-Id", format!("bench-{}", event.number));
                client.publish_with_reply_and_headers(subject, inbox.clone(), headers, event.payload).await?;
            } else {
                client.publish_with_reply(subject, inbox.clone(), event.payload).await?;
            }
            sent += 1;
        }
        total.set(Some(sent));
        // Who waits for answers may have seen the last one before this.
        client.publish(inbox.clone(), "".into()).await?;
        anyhow::Ok(())
    };
    let confirm = async {
        let mut confirmed = 0;
        while total.get() != Some(confirmed) {
            let answer = timeout(PATIENCE, answers.next()).await;
            let answer = answer.with_context(|| format!("{confirmed} of {:?} events were answered", total.get()))?;
            let answer = answer.context("the server went away")?;
            ensure!(answer.status.is_none(), "nobody stores it: {answer:?}");
            if answer.payload.is_empty() {
                continue;
            }
            ensure!(!answer.payload.windows(7).any(|text| text == b"\"error\""), "not stored: {answer:?}");
            confirmed += 1;
            room.add_permits(1);
        }
        Ok(())
    };
    tokio::try_join!(send, confirm).map(drop)
}

/// Takes what a consumer gives, and acknowledges each event; returns when the server knows all of that.
pub async fn pull(client: &Client, stream: &str, consumer: &str, arrivals: &mut Arrivals<'_>) -> Result<()> {
    let context = async_nats::jetstream::new(client.clone());
    let mut consumer: PullConsumer = context.get_consumer_from_stream(consumer, stream).await?;
    let mut messages = consumer.stream().max_messages_per_batch(WINDOW).messages().await?;
    loop {
        let message = messages.next().await.context("the consumer ended")??;
        message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
        if arrivals.arrived(&message.payload) {
            break;
        }
    }
    while consumer.info().await?.num_ack_pending > 0 {}
    Ok(())
}

/// Takes what comes into a stream from now on, for ever.
pub async fn watch(client: &Client, stream: &str, arrivals: &mut Arrivals<'_>) -> Result<()> {
    let stream = async_nats::jetstream::new(client.clone()).get_stream(stream).await?;
    let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::New, ..pull::OrderedConfig::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    while let Some(message) = messages.next().await {
        arrivals.arrived(&message?.payload);
    }
    Ok(())
}
