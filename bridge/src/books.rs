//! The books of a route: what came in, what became of it, and what is in its way.
//!
//! They balance at every instant: `received` is not counted but is the sum of all outcomes and of what is in flight.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use eventmesh_wire::report::{Counters, Direction, LastError, whole_seconds};
use jiff::Timestamp;
use tokio::sync::Notify;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Filtered,
    DeadLettered,
    /// Only with the guarantee `AtMostOnce`.
    Dropped,
}

/// What keeps a route from running although both sides are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// An event can not be delivered now; it is tried again.
    Blocked,
    /// The route can not work as configured.
    Failed,
}

/// The books of one route; they outlive its restarts.
#[derive(Debug)]
pub struct Books {
    pub name: String,
    pub direction: Direction,
    delivered: AtomicU64,
    filtered: AtomicU64,
    dead_lettered: AtomicU64,
    dropped: AtomicU64,
    in_flight: AtomicU64,
    /// The last event in flight is settled.
    settled: Notify,
    /// Events in flight that met an obstacle and are not past it yet.
    held_up: AtomicU64,
    retries: AtomicU64,
    restarts: AtomicU64,
    /// One more than the lag, 0 while it is unknown.
    lag: AtomicU64,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default, Clone)]
struct Trouble {
    obstacle: Option<Obstacle>,
    last_error: Option<LastError>,
}

impl Books {
    #[must_use]
    pub fn new(name: &str, direction: Direction) -> Self {
        Self {
            name: name.to_owned(),
            direction,
            delivered: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            settled: Notify::new(),
            held_up: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            trouble: Mutex::new(Trouble::default()),
        }
    }

    pub fn receive(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub fn settle(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Delivered => &self.delivered,
            Outcome::Filtered => &self.filtered,
            Outcome::DeadLettered => &self.dead_lettered,
            Outcome::Dropped => &self.dropped,
        };
        counter.fetch_add(1, Relaxed);
        self.leave();
    }

    fn leave(&self) {
        if self.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.settled.notify_waiters();
        }
    }

    /// Waits until no event is in flight.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.in_flight.load(Relaxed) == 0 {
                return;
            }
            settled.await;
        }
    }

    /// The event stays with its source, which gives it again later: it was not received after all.
    pub fn give_back(&self) {
        self.leave();
    }

    /// An event in flight met an obstacle; see [`crate::event::Receipt::held_up`].
    pub(crate) fn hold_up(&self, problem: &str) {
        self.note(problem);
        self.held_up.fetch_add(1, Relaxed);
    }

    /// An event that met an obstacle is past it, or is no longer here.
    pub(crate) fn let_go(&self) {
        self.held_up.fetch_sub(1, Relaxed);
    }

    pub fn retried(&self, events: u64) {
        self.retries.fetch_add(events, Relaxed);
    }

    pub fn restarted(&self) {
        self.restarts.fetch_add(1, Relaxed);
    }

    pub fn set_lag(&self, lag: Option<u64>) {
        self.lag.store(lag.map_or(0, |lag| lag.saturating_add(1)), Relaxed);
    }

    /// Something is in the way of the route as such, and this is what. It lasts until [`Books::clear`].
    pub fn obstructed(&self, obstacle: Obstacle, message: impl Into<String>) {
        self.note(message);
        self.with_trouble(|trouble| trouble.obstacle = Some(obstacle));
    }

    /// Nothing is in the way; the last error stays as history.
    pub fn clear(&self) {
        self.with_trouble(|trouble| trouble.obstacle = None);
    }

    /// Something went wrong that does not stop the route.
    pub fn note(&self, message: impl Into<String>) {
        let message = message.into();
        self.with_trouble(|trouble| {
            trouble.last_error = Some(LastError { message, at: whole_seconds(Timestamp::now()) });
        });
    }

    fn with_trouble<T>(&self, change: impl FnOnce(&mut Trouble) -> T) -> T {
        change(&mut self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// What the route as such met, or else what its events in flight meet: that ends with the last of them.
    #[must_use]
    pub fn obstacle(&self) -> Option<Obstacle> {
        let held_up = self.held_up.load(Relaxed) > 0;
        self.with_trouble(|trouble| trouble.obstacle).or(held_up.then_some(Obstacle::Blocked))
    }

    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.with_trouble(|trouble| trouble.last_error.clone())
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        let delivered = self.delivered.load(Relaxed);
        let filtered = self.filtered.load(Relaxed);
        let dead_lettered = self.dead_lettered.load(Relaxed);
        let dropped = self.dropped.load(Relaxed);
        let in_flight = self.in_flight.load(Relaxed);
        let received = delivered + filtered + dead_lettered + dropped + in_flight;
        Counters { received, delivered, filtered, dead_lettered, dropped, in_flight }
    }

    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Relaxed)
    }

    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.lag.load(Relaxed).checked_sub(1)
    }
}
