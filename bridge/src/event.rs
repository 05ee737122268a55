//! An event on its way through the bridge, and the receipt its source holds for it.

use std::sync::Arc;

use bytes::Bytes;

use crate::books::{Books, Outcome};

/// Headers in order; names are compared without regard to case.
pub type Headers = Vec<(String, String)>;

/// The value of a header.
#[must_use]
pub fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What the source does when the fate of an event is known.
pub trait Acknowledge: Send + Sync {
    /// The target has the event, or it needs no target: the source may forget it.
    fn confirm(&mut self);
    /// The event was not handled: the source gives it again later.
    fn give_back(&mut self);
}

/// Proof that an event was received. It is settled exactly once; dropping it unsettled gives the event back.
pub struct Receipt {
    books: Arc<Books>,
    source: Option<Box<dyn Acknowledge>>,
}

impl Receipt {
    /// Counts the event as received.
    #[must_use]
    pub fn new(books: &Arc<Books>, source: Box<dyn Acknowledge>) -> Self {
        books.receive();
        Self { books: Arc::clone(books), source: Some(source) }
    }

    /// The books first, then the source: whoever sees the acknowledgement finds the event counted.
    pub fn settle(mut self, outcome: Outcome) {
        if let Some(mut source) = self.source.take() {
            self.books.settle(outcome);
            source.confirm();
        }
    }

    pub fn books(&self) -> &Arc<Books> {
        &self.books
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(mut source) = self.source.take() {
            self.books.give_back();
            source.give_back();
        }
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
    pub retain: bool,
    /// Tries so far.
    pub tries: u32,
    pub receipt: Receipt,
}

/// Where deliveries go. The target settles each receipt when it has confirmed the event; the source bounds how many are
/// on their way, so a sink never refuses one.
pub trait Sink: Send + Sync {
    fn send(&self, delivery: Delivery);
}
