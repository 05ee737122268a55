//! Consuming: the durable pull consumer of an outbound route, read ahead up to a window.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind, consumer::PullConsumer};
use async_nats::{Client, Subject};
use bytes::Bytes;
use eventmesh_wire::config::Guarantee;
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::books::Obstacle;
use crate::endpoint::mqtt::LinkState;
use crate::event::{Acknowledge, Receipt, Sink};
use crate::mesh::Mesh;
use crate::mesh::held::{Held, Place};
use crate::route::outbound::{Outbound, OutboundTargets};

/// How long an event that was given back rests in the stream.
const REST: Duration = Duration::from_secs(1);

/// Everything an outbound route works with.
pub struct Consume {
    pub route: Outbound,
    pub mesh: Mesh,
    pub endpoint: watch::Receiver<LinkState>,
    pub sink: Arc<dyn Sink>,
    pub targets: Arc<OutboundTargets>,
    pub window: usize,
}

/// Reads until it is told to stop. It reads only while both sides stand.
pub async fn run(consume: Consume, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
    let held = Held::start(consume.mesh.clone());
    let window = Arc::new(Semaphore::new(consume.window));
    let mut endpoint = consume.endpoint.clone();
    loop {
        let ready = async {
            consume.mesh.until_connected().await;
            endpoint.wait_for(|state| state.connected).await.is_ok()
        };
        tokio::select! {
            ready = ready => if !ready { return },
            () = stop.cancelled() => return,
        }
        let ended = tokio::select! {
            ended = read(&consume, &held, &window, &mut backoff) => ended,
            () = stop.cancelled() => return,
        };
        if let Err(error) = ended {
            consume.route.books.obstructed(Obstacle::Failed, error);
            consume.route.books.retried(1);
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {},
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Reads until a side is lost or the consumer is.
async fn read(
    consume: &Consume,
    held: &Arc<Held>,
    window: &Arc<Semaphore>,
    backoff: &mut Backoff,
) -> Result<(), String> {
    let (stream, name) = (&consume.route.config.stream, &consume.route.config.consumer);
    let context = jetstream::new(consume.mesh.client.clone());
    let consumer: PullConsumer = context.get_consumer_from_stream(name, stream).await.map_err(|error| {
        format!("consumer `{name}` of stream `{stream}` can not be used: {error}; the operator makes it")
    })?;
    consume.route.books.set_lag(Some(consumer.cached_info().num_pending));
    held.set_ack_wait(consumer.cached_info().config.ack_wait);
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(consume.window)
        .heartbeat(Duration::from_secs(5))
        .expires(Duration::from_secs(30))
        .messages()
        .await
        .map_err(|error| format!("can not read from consumer `{name}`: {error}"))?;
    let mut endpoint = consume.endpoint.clone();
    consume.route.books.clear();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(window).acquire_owned() => permit.map_err(|_| String::new())?,
            _ = endpoint.wait_for(|state| !state.connected) => return Ok(()),
        };
        let message = tokio::select! {
            message = messages.next() => message,
            _ = endpoint.wait_for(|state| !state.connected) => return Ok(()),
        };
        match message {
            None => return Ok(()),
            Some(Err(error)) => return Err(format!("reading from consumer `{name}` failed: {error}")),
            Some(Ok(message)) => {
                backoff.reset();
                // Only messages of a stream come here, and they all tell their place in it.
                let Ok(info) = message.info() else { continue };
                consume.route.books.set_lag(Some(info.pending));
                take(consume, held, (info.stream_sequence, info.published), &message.message, permit);
            }
        }
    }
}

fn take(
    consume: &Consume,
    held: &Arc<Held>,
    place: Place,
    message: &async_nats::Message,
    permit: OwnedSemaphorePermit,
) {
    let mut source = StreamAck { client: consume.mesh.client.clone(), waiting: None, _permit: permit };
    if let Some(reply) = message.reply.clone() {
        if consume.route.guarantee == Guarantee::AtMostOnce {
            source.answer(reply, AckKind::Ack);
        } else if held.add(place, reply) {
            source.waiting = Some((Arc::clone(held), place));
        } else {
            return; // Given again although it is still on its way.
        }
    }
    let receipt = Receipt::new(&consume.route.books, Box::new(source), consume.route.guarantee);
    consume.route.accept(message, receipt, consume.sink.as_ref(), &consume.targets, &consume.mesh);
}

/// Acknowledges to the stream by the message's reply subject.
struct StreamAck {
    client: Client,
    /// Absent when the stream waits for nothing.
    waiting: Option<(Arc<Held>, Place)>,
    _permit: OwnedSemaphorePermit,
}

impl StreamAck {
    fn end(&mut self, kind: AckKind) {
        let reply = self.waiting.take().and_then(|(held, place)| held.remove(place));
        if let Some(reply) = reply {
            self.answer(reply, kind);
        }
    }

    fn answer(&self, reply: Subject, kind: AckKind) {
        let client = self.client.clone();
        let payload: Bytes = kind.into();
        // Should it not get through, the stream gives the event again: at least once.
        let send = async move { client.publish(reply, payload).await };
        let mut send = Box::pin(send);
        if futures::FutureExt::now_or_never(send.as_mut()).is_none() {
            tokio::spawn(send);
        }
    }
}

impl Acknowledge for StreamAck {
    fn confirm(&mut self) {
        self.end(AckKind::Ack);
    }

    fn give_back(&mut self) {
        self.end(AckKind::Nak(Some(REST)));
    }
}
