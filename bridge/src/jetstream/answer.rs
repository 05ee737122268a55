//! What a consumer is told of an event that it gave.

use async_nats::{Client, Subject};
use bytes::Bytes;
use futures::FutureExt as _;

/// Tells it without waiting. Should it not get through, the stream gives the event again: at least once.
pub fn answer(client: &Client, reply: Subject, payload: impl Into<Bytes>) {
    let payload = payload.into();
    if client.publish(reply.clone(), payload.clone()).now_or_never().is_none() {
        let client = client.clone();
        tokio::spawn(async move { client.publish(reply, payload).await });
    }
}
