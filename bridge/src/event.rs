//! An event on its way through the bridge, and the receipt its source holds for it.

use std::sync::Arc;

use async_nats::Message;
use bytes::Bytes;
use eventmesh_wire::config::{Guarantee, OutboundRoute};

use crate::books::{Books, Outcome};

/// Headers in order; names are compared without regard to case.
pub type Headers = Vec<(String, String)>;

/// The value of a header.
#[must_use]
pub fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The headers of a message of the mesh, or of another NATS system.
#[must_use]
pub fn headers_of(message: &Message) -> Headers {
    let Some(map) = &message.headers else { return Vec::new() };
    map.iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())))
        .collect()
}

/// What the source does when the fate of an event is known.
pub trait Acknowledge: Send + Sync {
    /// The target has the event, or it needs no target: the source may forget it.
    fn confirm(&mut self);
    /// The event was not handled: the source gives it again later.
    fn give_back(&mut self);
    /// Whether the source still waits. One that answers within a time, and has answered that it could not, gives the event
    /// again; then it must not be tried once more, or it would be stored twice.
    fn is_wanted(&self) -> bool {
        true
    }
}

/// Proof that an event was received. It is settled exactly once; dropping it unsettled gives the event back;
/// with the guarantee `AtMostOnce` the source has nothing to give again, so there the event is dropped, and counted so.
pub struct Receipt {
    books: Arc<Books>,
    source: Option<Box<dyn Acknowledge>>,
    guarantee: Guarantee,
    held_up: bool,
}

impl Receipt {
    /// Counts the event as received.
    #[must_use]
    pub fn new(books: &Arc<Books>, source: Box<dyn Acknowledge>, guarantee: Guarantee) -> Self {
        books.receive();
        Self { books: Arc::clone(books), source: Some(source), guarantee, held_up: false }
    }

    /// The event met an obstacle; its route counts as blocked until it is settled or given back.
    pub fn held_up(&mut self, problem: &str) {
        if self.held_up {
            self.books.note(problem);
        } else {
            self.held_up = true;
            self.books.hold_up(problem);
        }
    }

    /// The books first, then the source: whoever sees the acknowledgement finds the event counted.
    pub fn settle(mut self, outcome: Outcome) {
        self.end(Some(outcome));
    }

    fn end(&mut self, outcome: Option<Outcome>) {
        let Some(mut source) = self.source.take() else { return };
        if self.held_up {
            self.books.let_go();
        }
        if let Some(outcome) = outcome {
            self.books.settle(outcome);
            source.confirm();
        } else {
            self.books.give_back();
            source.give_back();
        }
    }

    /// Whether another try makes sense; see [`Acknowledge::is_wanted`].
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is_wanted())
    }

    /// Whether the source has forgotten the event already.
    #[must_use]
    pub fn at_most_once(&self) -> bool {
        self.guarantee == Guarantee::AtMostOnce
    }

    pub fn books(&self) -> &Arc<Books> {
        &self.books
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let outcome = self.at_most_once().then_some(Outcome::Dropped);
        self.end(outcome);
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt").field("route", &self.books.name).finish_non_exhaustive()
    }
}

/// An event with everything that its target needs.
#[derive(Debug)]
pub struct Delivery {
    /// Where it came from, in the source's own words.
    pub origin: String,
    /// Where it goes, in the target's own words.
    pub target: String,
    pub headers: Headers,
    pub payload: Bytes,
    /// The route that sends it out, with what its endpoint needs to know; absent for events on their way into the mesh.
    pub route: Option<Arc<OutboundRoute>>,
    /// Its number in its stream; 0 for events on their way into the mesh.
    pub sequence: u64,
    /// Tries so far.
    pub tries: u32,
    pub receipt: Receipt,
}

/// Where deliveries go. The target settles each receipt when it has confirmed the event; the source bounds how many are
/// on their way, so a sink never refuses one.
pub trait Sink: Send + Sync {
    fn send(&self, delivery: Delivery);
}

#[cfg(test)]
mod tests {
    use eventmesh_wire::report::Direction;

    use super::*;
    use crate::books::Obstacle;

    struct Nothing;

    impl Acknowledge for Nothing {
        fn confirm(&mut self) {}
        fn give_back(&mut self) {}
    }

    fn receipt(books: &Arc<Books>, guarantee: Guarantee) -> Receipt {
        Receipt::new(books, Box::new(Nothing), guarantee)
    }

    #[test]
    fn an_obstacle_ends_with_the_last_event_that_met_it() {
        let books = Arc::new(Books::new("r", Direction::Inbound));
        let (mut first, mut second) =
            (receipt(&books, Guarantee::AtLeastOnce), receipt(&books, Guarantee::AtLeastOnce));
        let untroubled = receipt(&books, Guarantee::AtLeastOnce);
        first.held_up("full");
        first.held_up("still full");
        second.held_up("full");
        untroubled.settle(Outcome::Delivered);
        first.settle(Outcome::Delivered);
        assert_eq!(books.obstacle(), Some(Obstacle::Blocked));
        drop(second);
        assert_eq!(books.obstacle(), None);
        assert!(books.counters().balances());
    }

    #[test]
    fn only_at_most_once_drops() {
        let books = Arc::new(Books::new("r", Direction::Inbound));
        drop(receipt(&books, Guarantee::AtLeastOnce));
        assert_eq!((books.counters().received, books.counters().dropped), (0, 0));
        drop(receipt(&books, Guarantee::AtMostOnce));
        assert_eq!((books.counters().received, books.counters().dropped), (1, 1));
    }
}
