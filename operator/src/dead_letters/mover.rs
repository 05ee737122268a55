//! Moves events that were given up in one mesh: reads the brokers' notes one by one, and acknowledges a note when what it
//! is about has been stored as a dead letter.
//!
//! One by one, so that after a crash at most the newest letter of a subject can be one whose note is read again.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{AckKind, Message};
use eventmesh_crds::Subscription;
use futures::StreamExt;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    advisory::{self, Cause, GivenUp},
    ledger::Key,
    letter,
    target::{self, Target},
};
use crate::{
    broker::{BrokerError, MeshBroker, given_up::StoredEvent},
    cache::mesh_key,
    engine::Context,
    status_values::whole_seconds,
};

/// Pause before the notes are asked for again when the brokers have not given them.
const RETRY: Duration = Duration::from_secs(1);

/// What became of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The event is stored as a dead letter.
    Moved,
    /// The event was no longer there.
    Gone,
    /// Nobody asks for it.
    Dropped,
    /// To be tried again.
    Wait(Duration),
}

pub struct Mover {
    pub context: Arc<Context>,
    pub broker: Arc<MeshBroker>,
}

impl Mover {
    /// Runs until the connection to the mesh is closed or replaced.
    pub async fn run(self) {
        let stop = self.broker.stop().clone();
        let mut begun = None;
        while !stop.is_cancelled() {
            if let Err(error) = self.follow(&mut begun).await {
                debug!(mesh = %self.broker.key(), %error, "reading the notes of given up events begins anew");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Reads notes until the brokers end it. `begun`: the newest note of before this task.
    async fn follow(&self, begun: &mut Option<u64>) -> Result<(), BrokerError> {
        let earlier = match *begun {
            Some(earlier) => earlier,
            None => *begun.insert(self.broker.begin_notes().await?),
        };
        let mut notes = self.broker.notes().await?;
        loop {
            // A note that is being worked on is finished before the end.
            let note = tokio::select! {
                () = self.broker.stop().cancelled() => return Ok(()),
                note = notes.next() => note,
            };
            match note {
                Some(Ok(note)) => self.take(&note, earlier).await,
                Some(Err(error)) => return Err(BrokerError::Unavailable(error.to_string())),
                None => return Ok(()),
            }
        }
    }

    async fn take(&self, note: &Message, earlier: u64) {
        let outcome = match advisory::read(&note.payload) {
            None => Outcome::Dropped,
            Some(given_up) => self.handle(&given_up, is_repeated(note, earlier)).await,
        };
        let answer = match outcome {
            Outcome::Wait(time) => note.ack_with(AckKind::Nak(Some(time))).await,
            _ => note.double_ack().await,
        };
        if let Err(error) = answer {
            // It comes again, and what was stored is known again.
            debug!(mesh = %self.broker.key(), %error, "could not acknowledge a note");
        }
    }

    async fn handle(&self, given_up: &GivenUp, repeated: bool) -> Outcome {
        let Some(subscription) = self.subscription(given_up) else { return Outcome::Dropped };
        let (ledger, metrics) = (&self.context.dead_letters, &self.context.metrics);
        let key = key(&subscription);
        let Some(dead) = target::topic(&subscription) else {
            ledger.forget(&key);
            return Outcome::Dropped;
        };
        if let Some(time) = ledger.waits(&key, Instant::now()) {
            return Outcome::Wait(time.mul_f64(rand::random::<f64>().mul_add(0.25, 1.0)));
        }
        let topic = self.context.cache.topic(&dead.0, &dead.1);
        let moved = match target::check(&subscription, &dead, topic.as_deref(), self.broker.key()) {
            Err(verdict) => Err(verdict.message),
            Ok(target) => {
                let moved = self.dead_letter(&subscription, given_up, &target, repeated).await;
                moved.map_err(|error| format!("cannot store in Topic {}/{}: {error}", target.topic.0, target.topic.1))
            }
        };
        match moved {
            Ok(outcome) => {
                metrics.dead_letter(if outcome == Outcome::Gone { "gone" } else { "moved" });
                outcome
            }
            Err(problem) => {
                metrics.dead_letter("failed");
                warn!(mesh = %self.broker.key(), stream = given_up.stream, sequence = given_up.sequence,
                    subscription = format_args!("{}/{}", key.0, key.1), problem, "an event that was given up waits");
                Outcome::Wait(ledger.failed(&key, problem, Instant::now()))
            }
        }
    }

    /// The Subscription that has given up the event, unless it has gone or reads another mesh now.
    fn subscription(&self, given_up: &GivenUp) -> Option<Arc<Subscription>> {
        let (namespace, name) = &given_up.subscription;
        let cache = &self.context.cache;
        let subscription = cache.subscriptions.get(&ObjectRef::new(name).within(namespace))?;
        let (of, topic) = target::source(&subscription);
        if eventmesh_wire::names::stream(&of, &topic) != given_up.stream {
            return None;
        }
        // Without its Topic, whose mesh is not known: the consumer is in this one.
        let elsewhere =
            cache.topic(&of, &topic).is_some_and(|topic| mesh_key(&topic.spec.mesh, &of) != *self.broker.key());
        (!elsewhere).then_some(subscription)
    }

    async fn dead_letter(
        &self,
        subscription: &Subscription,
        given_up: &GivenUp,
        target: &Target,
        repeated: bool,
    ) -> Result<Outcome, BrokerError> {
        let (ledger, key) = (&self.context.dead_letters, key(subscription));
        let known = ledger.standing(&key).count;
        // What did an earlier life store last?
        let newest =
            if repeated || known.is_none() { self.newest(subscription, given_up, target).await? } else { None };
        let last = newest.as_ref().map_or(0, |letter| letter.number);
        let count = known.unwrap_or_else(|| in_status(subscription)).max(last);
        let same = newest.filter(|letter| letter.same_event);
        let cause = given_up.to_string();
        if let Some(letter) = same.as_ref().filter(|letter| letter.parts.0 == letter.parts.1) {
            self.settle(given_up).await?;
            ledger.moved(&key, count, &letter.time, &cause);
            return Ok(Outcome::Moved);
        }
        let Some(event) = self.broker.event(&given_up.stream, given_up.sequence).await? else {
            ledger.gone(&key, &cause);
            return Ok(Outcome::Gone);
        };
        let (number, stored) = match &same {
            Some(letter) => (letter.number, letter.parts.0),
            None => (count + 1, 0),
        };
        let now = whole_seconds(&self.context.now().to_string());
        let letters = letter::letters(given_up, &event, number, &now, self.broker.max_payload());
        let mut known = false;
        for (headers, payload) in letters.into_iter().skip(stored) {
            known = self.broker.store(&target.stream, &target.subject, headers, payload).await?;
        }
        self.settle(given_up).await?;
        // A second note about one event, and the brokers still knew its letter: that has its number already.
        ledger.moved(&key, if known { count } else { number }, &now, &cause);
        debug!(mesh = %self.broker.key(), stream = given_up.stream, sequence = given_up.sequence, cause,
            to = target.subject, "stored a dead letter");
        Ok(Outcome::Moved)
    }

    /// The newest letter of this Subscription in the dead-letter Topic.
    async fn newest(
        &self,
        subscription: &Subscription,
        given_up: &GivenUp,
        target: &Target,
    ) -> Result<Option<letter::Found>, BrokerError> {
        let stored: Option<StoredEvent> = self.broker.newest(&target.stream, &target.subject).await?;
        let letter = stored.and_then(|stored| letter::read(&stored, given_up));
        // One that is older than the Subscription is of an earlier Subscription of the same name.
        let created = subscription.metadata.creation_timestamp.as_ref().map(|time| whole_seconds(&time.0.to_string()));
        Ok(letter.filter(|letter| created.is_none_or(|created| letter.time >= created)))
    }

    /// Takes the event from the shoulders of the consumer: a Topic that keeps only what has to be processed lets go of it.
    async fn settle(&self, given_up: &GivenUp) -> Result<(), BrokerError> {
        if let Cause::Terminated(_) = given_up.cause {
            // That was an acknowledgement for the stream.
            return Ok(());
        }
        if self.broker.view().consumer(&given_up.stream, &given_up.consumer).is_none() {
            // It went with its place, or is not known yet: ask.
            self.broker.reread_consumer(&given_up.stream, &given_up.consumer).await?;
            if self.broker.view().consumer(&given_up.stream, &given_up.consumer).is_none() {
                return Ok(());
            }
        }
        self.broker.acknowledge_for(&given_up.stream, &given_up.consumer, given_up.sequence).await
    }
}

/// Under which the ledger knows a Subscription.
#[must_use]
pub fn key(subscription: &Subscription) -> Key {
    (subscription.namespace().unwrap_or_default(), subscription.name_any(), subscription.uid().unwrap_or_default())
}

fn in_status(subscription: &Subscription) -> u64 {
    let count = subscription.status.as_ref().and_then(|status| status.dead_lettered);
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

/// Whether the note may have been handed out before.
fn is_repeated(note: &Message, earlier: u64) -> bool {
    note.info().map_or(true, |info| info.delivered > 1 || info.stream_sequence <= earlier)
}
