//! What a consumer is told of an event that it gave, and what is told in its order.

use async_nats::{Client, Subject};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

/// Tells it without waiting. Should it not get through, the stream gives the event again: at least once.
pub fn answer(client: &Client, reply: Subject, payload: impl Into<Bytes>) {
    let payload = payload.into();
    if client.publish(reply.clone(), payload.clone()).now_or_never().is_none() {
        let client = client.clone();
        tokio::spawn(async move { client.publish(reply, payload).await });
    }
}

/// Takes its place in the queue to the socket now, and not when somebody first looks at it: so events leave in their order.
pub fn begun<T: Send + 'static>(publish: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    let mut publish = publish.boxed();
    match publish.as_mut().now_or_never() {
        Some(ended) => ready(ended).boxed(),
        None => publish,
    }
}
