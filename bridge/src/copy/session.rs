//! One session of a copy: from the place where it stands, for as long as everything goes well.

use std::sync::Arc;

use async_nats::jetstream::AckKind;
use async_nats::{Client, Message, Subject};
use eventmesh_wire::config::Guarantee;
use eventmesh_wire::copy::Place;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::far::{self, Last};
use super::{API, Copy, lag};
use crate::backoff::Backoff;
use crate::books::Outcome;
use crate::event::{Acknowledge, Receipt};
use crate::jetstream::{PullError, Pulls, Told, answer, begun, rewind, until_nobody_asks};
use crate::mesh::consume::Stop;

type Flight = BoxFuture<'static, (Receipt, Result<u64, PullError>)>;

pub(super) struct Session<'a> {
    copy: &'a Copy,
    /// When the stream was made, as it tells itself.
    created: String,
    /// What the copy held when the session began.
    held: Option<Place>,
    /// The number that the copy must have reached for the next event; unknown until the first is stored in an empty one.
    reached: Option<u64>,
    /// The consumer's number of the next event. One that is left out was given to somebody else, or got lost.
    turn: Option<u64>,
    flying: FuturesOrdered<Flight>,
}

impl<'a> Session<'a> {
    /// Finds out where the copy stands. The consumer goes back to what is not acknowledged.
    pub(super) async fn begin(copy: &'a Copy) -> Result<Self, PullError> {
        let (client, stream, consumer) = (&copy.mesh.client, &copy.config.stream, &copy.config.consumer);
        let created = lag::created(client, stream).await?;
        copy.books.set_lag(Some(lag::of(client, stream, consumer).await?));
        let last = far::last(client, stream).await?;
        until_nobody_asks(client, API, stream, consumer).await?;
        rewind(client, API, stream, consumer).await?;
        let (reached, held) = last.map_or((None, None), |Last { number, place }| (Some(number), place));
        Ok(Self { copy, created, held, reached, turn: None, flying: FuturesOrdered::new() })
    }

    /// Until it is to end, or something goes wrong. What is on its way then is not acknowledged, and the next session finds out
    /// how much of it the copy has.
    pub(super) async fn run(mut self, stop: &Stop, backoff: &mut Backoff) -> Result<(), PullError> {
        let Copy { config, mesh, window, .. } = self.copy;
        let _pass = mesh.pass();
        let room = (Arc::new(Semaphore::new(*window)), *window);
        let mut pulls = Pulls::new(mesh.client.clone(), API, (&config.stream, &config.consumer), room, true);
        let mut changes = mesh.watch();
        loop {
            let ends = stop.finish.is_cancelled() || !mesh.is_open();
            if !ends {
                pulls.top_up().await?;
            }
            let done = ends && self.flying.is_empty() && !pulls.are_open();
            if done || stop.give_way.is_cancelled() || !mesh.is_connected() {
                return Ok(());
            }
            // The first event of an empty copy goes alone: its answer tells the number of the next.
            let may_send = self.reached.is_some() || self.flying.is_empty();
            tokio::select! {
                biased;
                more = changes.next() => if !more { return Ok(()) },
                Some((receipt, stored)) = self.flying.next() => {
                    let number = stored?;
                    self.reached.get_or_insert(number);
                    receipt.settle(Outcome::Delivered);
                    backoff.reset();
                }
                () = stop.wanted(), if !ends => {},
                next = pulls.next(), if may_send => if let Some((message, permit)) = next? {
                    self.take(&message, permit)?;
                },
            }
        }
    }

    fn take(&mut self, message: &Message, permit: OwnedSemaphorePermit) -> Result<(), PullError> {
        let (books, mesh) = (&self.copy.books, &self.copy.mesh);
        // Only messages of a stream come here, and they all tell their place in it.
        let Some((reply, told)) = message.reply.clone().and_then(|reply| Told::read(&reply).map(|told| (reply, told)))
        else {
            return Ok(());
        };
        if self.turn.replace(told.turn + 1).is_some_and(|turn| turn != told.turn) {
            return Err(PullError::blocked("an event of the consumer did not get here; it is given again"));
        }
        books.set_lag(Some(told.pending));
        let source = StreamAck { client: mesh.client.clone(), reply, _permit: permit };
        let receipt = Receipt::new(books, Box::new(source), Guarantee::AtLeastOnce);
        let stream = &self.copy.config.stream;
        let place = Place { stream: stream.clone(), created: self.created.clone(), number: told.place.0 };
        if place.is_in(self.held.as_ref()) {
            receipt.settle(Outcome::Delivered);
            return Ok(());
        }
        if !mesh.may_carry() {
            return Err(PullError::blocked("another pod may keep up the copy by now"));
        }
        let request = far::request(message, &place, self.reached, mesh.client.max_payload())?;
        self.reached = self.reached.map(|reached| reached + 1);
        let stored = begun(far::store(mesh.client.clone(), stream.clone(), message.subject.to_string(), request));
        self.flying.push_back(Box::pin(async move { (receipt, stored.await) }));
        Ok(())
    }
}

/// Acknowledges to the stream. What is not acknowledged is given again when the next session begins.
struct StreamAck {
    client: Client,
    reply: Subject,
    _permit: OwnedSemaphorePermit,
}

impl Acknowledge for StreamAck {
    fn confirm(&mut self) {
        answer(&self.client, self.reply.clone(), AckKind::Ack);
    }

    fn give_back(&mut self) {}
}
