//! Taking events from the other system: a task a route, over one connection.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::{Client, Message};
use eventmesh_wire::config::{Guarantee, NatsJetStream, Ordering};
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::consumer::{self, Consumer, Mark};
use super::{Routes, Shared};
use crate::backoff::Backoff;
use crate::books::Obstacle;
use crate::cloudevents;
use crate::event::{Acknowledge, Receipt, headers_of};
use crate::jetstream::{Held, Place, PullError, Pulls, Told, answer, rewind, until_nobody_asks};
use crate::route::inbound::{Inbound, Incoming};

/// How long an event that was given back rests in the stream.
const REST: Duration = Duration::from_secs(1);

/// The readers of one connection; they end when this is dropped.
pub(super) struct Readers {
    shared: Arc<Shared>,
    client: Client,
    running: Vec<(Arc<Inbound>, CancellationToken)>,
    tasks: JoinSet<()>,
}

impl Readers {
    pub(super) fn new(shared: Arc<Shared>, client: Client) -> Self {
        Self { shared, client, running: Vec::new(), tasks: JoinSet::new() }
    }

    /// Ends those whose routes are gone, and starts those that are new.
    pub(super) fn become_those_of(&mut self, routes: &Routes) {
        self.running.retain(|(route, stop)| {
            let stays = routes.iter().any(|wanted| Arc::ptr_eq(wanted, route));
            if !stays {
                stop.cancel();
            }
            stays
        });
        for route in routes.iter() {
            if self.running.iter().any(|(running, _)| Arc::ptr_eq(running, route)) {
                continue;
            }
            let stop = CancellationToken::new();
            let reader = Reader {
                shared: Arc::clone(&self.shared),
                client: self.client.clone(),
                route: Arc::clone(route),
                stop: stop.clone(),
            };
            match self.shared.endpoint.jetstream.clone() {
                Some(jetstream) => drop(self.tasks.spawn(reader.consume(jetstream))),
                None => drop(self.tasks.spawn(reader.listen())),
            }
            self.running.push((Arc::clone(route), stop));
        }
    }

    pub(super) fn stop(&mut self) {
        self.running.iter().for_each(|(_, stop)| stop.cancel());
    }
}

struct Reader {
    shared: Arc<Shared>,
    client: Client,
    route: Arc<Inbound>,
    stop: CancellationToken,
}

impl Reader {
    fn ends(&self) -> bool {
        self.stop.is_cancelled() || self.shared.drain.is_cancelled()
    }

    async fn end(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {},
            () = self.shared.drain.cancelled() => {},
        }
    }

    /// Pods of one bridge share the subscription, so each event comes to one of them.
    async fn listen(self) {
        let bridge = &self.shared.config.bridge;
        let group = consumer::name(&bridge.namespace, &bridge.name, &self.route.config.name);
        let from = self.route.map.from().as_str().to_owned();
        let mut events = match self.client.queue_subscribe(from, group).await {
            Ok(events) => events,
            Err(error) => return self.route.books.obstructed(Obstacle::Failed, format!("can not subscribe: {error}")),
        };
        self.route.books.clear();
        let window = Arc::new(Semaphore::new(self.shared.config.delivery.max_in_flight as usize));
        while !self.ends() {
            let Ok(permit) = Arc::clone(&window).acquire_owned().await else { return };
            let event = tokio::select! {
                event = events.next() => event,
                () = self.end() => return drop(events.unsubscribe().now_or_never()),
            };
            let Some(event) = event else { return };
            self.hand_over(&event, None, Box::new(Nobody { _permit: permit }));
        }
    }

    fn hand_over(&self, message: &Message, identity: Option<String>, source: Box<dyn Acknowledge>) {
        let guarantee = self.shared.config.delivery.guarantee;
        let receipt = Receipt::new(&self.route.books, source, guarantee);
        let event = Incoming {
            address: message.subject.as_str(),
            headers: cloudevents::NATS.to_mesh(headers_of(message)),
            payload: message.payload.clone(),
            identity,
        };
        self.route.accept(event, receipt, &self.shared.mesh);
    }

    async fn consume(self, jetstream: NatsJetStream) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        let window = Arc::new(Semaphore::new(self.shared.config.delivery.max_in_flight as usize));
        let held = Held::start(self.client.clone());
        let progress = self.shared.progress(&self.route.config.name);
        let mut begins = self.shared.config.delivery.ordering == Ordering::PerSource;
        while !self.ends() {
            let source = Stream { reader: &self, jetstream: &jetstream, held: &held, progress: &progress };
            let Err(PullError { obstacle, message }) = source.read(&window, &mut backoff, &mut begins).await else {
                continue;
            };
            self.route.books.obstructed(obstacle, format!("can not read from the other system: {message}"));
            self.route.books.retried(1);
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {},
                () = self.end() => return,
            }
        }
    }
}

/// A stream of the other system, as one route reads it.
struct Stream<'a> {
    reader: &'a Reader,
    jetstream: &'a NatsJetStream,
    held: &'a Arc<Held>,
    progress: &'a Arc<Progress>,
}

impl Stream<'_> {
    /// Until it is to end, or the consumer can not be read.
    async fn read(&self, window: &Arc<Semaphore>, backoff: &mut Backoff, begins: &mut bool) -> Result<(), PullError> {
        let reader = self.reader;
        let mark = self.progress.mark();
        let consumer = consumer::ensure(&reader.client, &reader.shared, &reader.route, mark.as_ref()).await?;
        if *begins {
            let api = self.jetstream.api();
            if reader.shared.config.delivery.ordering == Ordering::PerSource {
                until_nobody_asks(&reader.client, &api, &consumer.stream, &consumer.name).await?;
            }
            rewind(&reader.client, &api, &consumer.stream, &consumer.name).await?;
            *begins = false;
        }
        self.progress.of(&consumer.created);
        reader.route.books.set_lag(Some(consumer.pending));
        self.held.set_ack_wait(consumer.ack_wait);
        reader.route.books.clear();
        let delivery = &reader.shared.config.delivery;
        let room = (Arc::clone(window), delivery.max_in_flight as usize);
        let (api, client) = (self.jetstream.api(), reader.client.clone());
        let ordered = delivery.ordering == Ordering::PerSource;
        let mut pulls = Pulls::new(client, &api, (&consumer.stream, &consumer.name), room, ordered);
        loop {
            let ends = reader.ends();
            if !ends {
                pulls.top_up().await?;
            }
            if ends && !pulls.are_open() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = reader.end(), if !ends => {},
                () = reader.stop.cancelled() => return Ok(()),
                next = pulls.next() => if let Some((message, permit)) = next? {
                    backoff.reset();
                    self.take(&message, permit, &consumer);
                },
            }
        }
    }

    fn take(&self, message: &Message, permit: OwnedSemaphorePermit, consumer: &Consumer) {
        // Only messages of a stream come here, and they all tell their place in it.
        let Some(reply) = message.reply.clone() else { return };
        let Some(Told { place, pending, .. }) = Told::read(&reply) else { return };
        self.reader.route.books.set_lag(Some(pending));
        let mut source = StreamAck {
            client: self.reader.client.clone(),
            waiting: None,
            progress: Arc::clone(self.progress),
            _permit: permit,
        };
        if self.reader.shared.config.delivery.guarantee == Guarantee::AtMostOnce {
            answer(&source.client, reply, AckKind::Ack);
        } else if self.held.add(place, reply) {
            self.progress.begin(place.0);
            source.waiting = Some((Arc::clone(self.held), place));
        } else {
            return; // Given again although it is still on its way.
        }
        let identity = format!("{}/{}/{}", consumer.stream, consumer.created, place.0);
        self.reader.hand_over(message, Some(identity), Box::new(source));
    }
}

/// Which events of a stream were handled: where a consumer begins that has to be made again.
#[derive(Default)]
pub(super) struct Progress(Mutex<Places>);

#[derive(Default)]
struct Places {
    created: String,
    open: BTreeSet<u64>,
    highest: u64,
}

impl Progress {
    fn with<T>(&self, change: impl FnOnce(&mut Places) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Of which stream is spoken.
    fn of(&self, created: &str) {
        self.with(|places| {
            if places.created != created {
                *places = Places { created: created.to_owned(), ..Places::default() };
            }
        });
    }

    fn begin(&self, sequence: u64) {
        self.with(|places| {
            places.open.insert(sequence);
            places.highest = places.highest.max(sequence);
        });
    }

    fn done(&self, sequence: u64) {
        self.with(|places| places.open.remove(&sequence));
    }

    fn mark(&self) -> Option<Mark> {
        self.with(|places| {
            let next = places.open.first().copied().unwrap_or(places.highest + 1);
            (places.highest > 0).then(|| Mark { created: places.created.clone(), next })
        })
    }
}

/// Acknowledges to the stream by the message's reply subject.
struct StreamAck {
    client: Client,
    /// Absent when the stream waits for nothing.
    waiting: Option<(Arc<Held>, Place)>,
    progress: Arc<Progress>,
    _permit: OwnedSemaphorePermit,
}

impl StreamAck {
    fn end(&mut self, kind: AckKind) {
        let Some((held, place)) = self.waiting.take() else { return };
        if matches!(kind, AckKind::Ack) {
            self.progress.done(place.0);
        }
        if let Some(reply) = held.remove(place) {
            answer(&self.client, reply, kind);
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

/// A source that waits for nothing.
struct Nobody {
    _permit: OwnedSemaphorePermit,
}

impl Acknowledge for Nobody {
    fn confirm(&mut self) {}
    fn give_back(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_first_event_that_may_not_have_been_handled() {
        let progress = Progress::default();
        progress.of("t");
        assert_eq!(progress.mark(), None, "nothing was read");
        for sequence in 1..=5 {
            progress.begin(sequence);
        }
        for sequence in [1, 2, 4] {
            progress.done(sequence);
        }
        assert_eq!(progress.mark().unwrap().next, 3);
        for sequence in [3, 5] {
            progress.done(sequence);
        }
        assert_eq!(progress.mark().unwrap(), Mark { created: "t".to_owned(), next: 6 });
        progress.of("u");
        assert_eq!(progress.mark(), None, "another stream");
    }
}
