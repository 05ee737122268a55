//! Consuming: the durable pull consumer of an outbound route, read ahead up to a window.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{Client, Message, Subject};
use eventmesh_wire::config::{Guarantee, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::endpoint::LinkState;
use crate::event::{Acknowledge, Receipt, Sink};
use crate::jetstream::{self, Held, Place, PullError, Pulls, Told, rewind, until_nobody_asks};
use crate::mesh::Mesh;
use crate::route::outbound::{Outbound, OutboundTargets};

/// What subjects of the mesh's `JetStream` API begin with.
const API: &str = "$JS.API";
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
    /// No other pod reads from the consumer.
    pub alone: bool,
}

/// How a route ends.
#[derive(Clone, Default)]
pub struct Stop {
    /// It asks for nothing more, and what it asked for goes its way.
    pub finish: CancellationToken,
    /// Another route takes its place: what it asked for goes back to the stream.
    pub give_way: CancellationToken,
}

impl Stop {
    pub(crate) fn is_wanted(&self) -> bool {
        self.finish.is_cancelled() || self.give_way.is_cancelled()
    }

    pub(crate) async fn wanted(&self) {
        tokio::select! {
            () = self.finish.cancelled() => {},
            () = self.give_way.cancelled() => {},
        }
    }
}

/// Reads until it is told to stop. It asks for events only while both sides stand.
pub async fn run(consume: Consume, stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
    let held = Held::start(consume.mesh.client.clone());
    let window = Arc::new(Semaphore::new(consume.window));
    // Where no other pod reads, what an earlier one left need not wait until the consumer gives it again.
    let mut begins = consume.route.ordering == Ordering::PerSource || consume.alone;
    let mut endpoint = consume.endpoint.clone();
    while !stop.is_wanted() {
        let ready = async {
            consume.mesh.until_open().await;
            endpoint.wait_for(|state| state.connected).await.is_ok()
        };
        tokio::select! {
            ready = ready => if !ready { return },
            () = stop.wanted() => return,
        }
        let reader = Reader { consume: &consume, stop: &stop, held: &held, window: &window };
        let run = async {
            if begins {
                let (stream, name) = (&consume.route.config.stream, &consume.route.config.consumer);
                if consume.route.ordering == Ordering::PerSource {
                    until_nobody_asks(&consume.mesh.client, API, stream, name).await?;
                }
                rewind(&consume.mesh.client, API, stream, name).await?;
                begins = false;
            }
            reader.run(&mut backoff).await
        };
        if let Err(error) = run.await {
            let (name, PullError { obstacle, message }) = (&consume.route.config.consumer, error);
            consume.route.books.obstructed(obstacle, format!("can not read from consumer `{name}`: {message}"));
            consume.route.books.retried(1);
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {},
                () = stop.wanted() => return,
            }
        }
    }
}

/// Reads from the consumer for as long as both sides stand.
struct Reader<'a> {
    consume: &'a Consume,
    stop: &'a Stop,
    held: &'a Arc<Held>,
    window: &'a Arc<Semaphore>,
}

impl Reader<'_> {
    /// Until a side is lost, the consumer is, or it is to stop; it then asks for nothing more, and waits for what it has
    /// asked for.
    async fn run(self, backoff: &mut Backoff) -> Result<(), PullError> {
        let (stream, name) = (&self.consume.route.config.stream, &self.consume.route.config.consumer);
        let client = &self.consume.mesh.client;
        let consumer: PullConsumer =
            async_nats::jetstream::new(client.clone()).get_consumer_from_stream(name, stream).await.map_err(
                |error| PullError::failed(format_args!("{error}; the operator makes it, for stream `{stream}`")),
            )?;
        self.consume.route.books.set_lag(Some(consumer.cached_info().num_pending));
        self.held.set_ack_wait(consumer.cached_info().config.ack_wait);
        self.consume.route.books.clear();
        let (mut mesh, mut endpoint) = (self.consume.mesh.watch(), self.consume.endpoint.clone());
        let _pass = self.consume.mesh.pass();
        let room = (Arc::clone(self.window), self.consume.window);
        let ordered = self.consume.route.ordering == Ordering::PerSource;
        let mut pulls = Pulls::new(client.clone(), API, (stream, name), room, ordered);
        loop {
            let ends = self.stop.is_wanted() || !self.consume.mesh.is_open() || !endpoint.borrow().connected;
            if !ends {
                pulls.top_up().await?;
            }
            if (ends && !pulls.are_open()) || !self.consume.mesh.is_connected() {
                return Ok(());
            }
            tokio::select! {
                biased;
                more = mesh.next() => if !more { return Ok(()) },
                changed = endpoint.changed() => if changed.is_err() { return Ok(()) },
                () = self.stop.wanted(), if !ends => {},
                next = pulls.next() => if let Some((message, permit)) = next? {
                    backoff.reset();
                    self.take(message, permit);
                },
            }
        }
    }

    fn take(&self, message: Message, permit: OwnedSemaphorePermit) {
        // Only messages of a stream come here, and they all tell their place in it.
        let Some(Told { place, pending, .. }) = message.reply.as_ref().and_then(|reply| Told::read(reply)) else {
            return;
        };
        if self.stop.give_way.is_cancelled() {
            StreamAck::new(self.consume, permit).answer(message.reply, AckKind::Nak(Some(REST)));
            return;
        }
        self.consume.route.books.set_lag(Some(pending));
        take(self.consume, self.held, place, &message, permit);
    }
}

fn take(consume: &Consume, held: &Arc<Held>, place: Place, message: &Message, permit: OwnedSemaphorePermit) {
    let mut source = StreamAck::new(consume, permit);
    if let Some(reply) = message.reply.clone() {
        if consume.route.guarantee == Guarantee::AtMostOnce {
            source.answer(Some(reply), AckKind::Ack);
        } else if held.add(place, reply) {
            source.waiting = Some((Arc::clone(held), place));
        } else {
            return; // Given again although it is still on its way.
        }
    }
    let receipt = Receipt::new(&consume.route.books, Box::new(source), consume.route.guarantee);
    consume.route.accept(message, place.0, receipt, consume.sink.as_ref(), &consume.targets, &consume.mesh);
}

/// Acknowledges to the stream by the message's reply subject.
struct StreamAck {
    client: Client,
    /// Absent when the stream waits for nothing.
    waiting: Option<(Arc<Held>, Place)>,
    _permit: OwnedSemaphorePermit,
}

impl StreamAck {
    fn new(consume: &Consume, permit: OwnedSemaphorePermit) -> Self {
        Self { client: consume.mesh.client.clone(), waiting: None, _permit: permit }
    }

    fn end(&mut self, kind: AckKind) {
        let reply = self.waiting.take().and_then(|(held, place)| held.remove(place));
        self.answer(reply, kind);
    }

    fn answer(&self, reply: Option<Subject>, kind: AckKind) {
        let Some(reply) = reply else { return };
        jetstream::answer(&self.client, reply, kind);
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
