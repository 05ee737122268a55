//! Tells a stream that events which wait long are still being worked on, so that it does not give them again.
//!
//! Each event that a route holds is in here until it is acknowledged, so the route's window bounds it. One that the stream
//! gives again all the same, because it was away for long, is recognised by its place in the stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::AckKind;
use async_nats::{Client, Subject};
use tokio::sync::Notify;

/// An event's number in its stream, and when it was stored, in nanoseconds since 1970: a stream that was made anew counts
/// from 1 again.
pub type Place = (u64, u64);

/// What the subject tells at which an event is acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub place: Place,
    /// How often the consumer has given it, this time included.
    pub deliveries: u64,
    /// The consumer's own number of this delivery.
    pub turn: u64,
    /// Events that the consumer has still to give.
    pub pending: u64,
}

impl Told {
    /// Reads `$JS.ACK.[domain.account.]stream.consumer.deliveries.number.consumer's number.time.pending[.more]` (ADR-15 of the
    /// NATS project).
    pub fn read(reply: &str) -> Option<Self> {
        let (mut tokens, mut count) = ([""; 9], 0);
        for token in reply.strip_prefix("$JS.ACK.")?.split('.') {
            if let Some(place) = tokens.get_mut(count) {
                *place = token;
            }
            count += 1;
        }
        let from = match count {
            7 => 0,
            9.. => 2,
            _ => return None,
        };
        let number = |index: usize| tokens[from + index].parse().ok();
        Some(Self { place: (number(3)?, number(5)?), deliveries: number(2)?, turn: number(4)?, pending: number(6)? })
    }
}

/// The events of one route that the stream waits for.
pub struct Held {
    inner: Mutex<Inner>,
    /// The wait changed.
    changed: Notify,
}

struct Inner {
    by_place: BTreeMap<Place, Waiting>,
    /// How long the consumer waits for an acknowledgement.
    ack_wait: Duration,
}

struct Waiting {
    /// Where to acknowledge the latest time it was given.
    reply: Subject,
    /// When the stream last heard of it.
    heard: Instant,
}

impl Held {
    /// Starts telling; it ends when nobody else has this and nothing is held.
    #[must_use]
    pub fn start(client: Client) -> Arc<Self> {
        let inner = Inner { by_place: BTreeMap::new(), ack_wait: Duration::from_secs(30) };
        let held = Arc::new(Self { inner: Mutex::new(inner), changed: Notify::new() });
        tokio::spawn(tell(Arc::clone(&held), client));
        held
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_ack_wait(&self, ack_wait: Duration) {
        if !ack_wait.is_zero() {
            self.lock().ack_wait = ack_wait;
            self.changed.notify_one();
        }
    }

    /// An event came in; `false` when it is being worked on already.
    pub fn add(&self, place: Place, reply: Subject) -> bool {
        self.lock().by_place.insert(place, Waiting { reply, heard: Instant::now() }).is_none()
    }

    /// The event's work has ended; gives where to acknowledge it.
    pub fn remove(&self, place: Place) -> Option<Subject> {
        self.lock().by_place.remove(&place).map(|waiting| waiting.reply)
    }

    /// The work of all that is left has ended; gives where to acknowledge each.
    pub fn take_all(&self) -> Vec<Subject> {
        std::mem::take(&mut self.lock().by_place).into_values().map(|waiting| waiting.reply).collect()
    }

    /// The events of which the stream must hear now: those that waited for half of what the consumer allows.
    fn due(&self, now: Instant) -> Vec<(Place, Subject)> {
        let mut inner = self.lock();
        let half = inner.ack_wait / 2;
        let mut due = Vec::new();
        for (place, waiting) in &mut inner.by_place {
            if now.duration_since(waiting.heard) >= half {
                waiting.heard = now;
                due.push((*place, waiting.reply.clone()));
            }
        }
        due
    }

    fn holds(&self, place: Place) -> bool {
        self.lock().by_place.contains_key(&place)
    }

    fn pause(&self) -> Duration {
        (self.lock().ack_wait / 8).clamp(Duration::from_millis(50), Duration::from_secs(5))
    }
}

async fn tell(held: Arc<Held>, client: Client) {
    while Arc::strong_count(&held) > 1 {
        tokio::select! {
            () = tokio::time::sleep(held.pause()) => {},
            () = held.changed.notified() => continue,
        }
        if client.connection_state() != State::Connected {
            continue;
        }
        for (place, reply) in held.due(Instant::now()) {
            // It may have been acknowledged since; nothing must follow an acknowledgement.
            if held.holds(place) && client.publish(reply, AckKind::Progress.into()).await.is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_in_both_formats() {
        let told = Told { place: (12, 1_700_000_000_000_000_000), deliveries: 1, turn: 9, pending: 5 };
        assert_eq!(Told::read("$JS.ACK.S.c.1.12.9.1700000000000000000.5").as_ref(), Some(&told));
        assert_eq!(Told::read("$JS.ACK.hub.ACC.S.c.1.12.9.1700000000000000000.5.x").as_ref(), Some(&told));
        assert_eq!(Told::read("$JS.ACK.S.c.1.12"), None);
        assert_eq!(Told::read("_INBOX.a.b"), None);
    }

    #[test]
    fn only_what_waited_for_half_the_time_is_due_and_only_while_it_is_held() {
        let inner = Inner { by_place: BTreeMap::new(), ack_wait: Duration::from_secs(200) };
        let held = Held { inner: Mutex::new(inner), changed: Notify::new() };
        let stored = 1;
        assert!(held.add((1, stored), "old".into()) && held.add((2, stored), "b".into()));
        assert!(!held.add((1, stored), "a".into()), "given again while it is held");
        let now = Instant::now();
        assert_eq!(held.due(now), []);
        held.remove((2, stored));
        let later = now + Duration::from_secs(110);
        assert_eq!(held.due(later), [((1, stored), Subject::from("a"))]);
        assert_eq!(held.due(later + Duration::from_secs(90)), [], "the stream has just heard of it");
        assert_eq!(held.due(later + Duration::from_secs(100)).len(), 1);
    }
}
