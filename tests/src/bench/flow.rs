//! The events of a measurement: all at once or at a rate, and when they came.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Mutex, Notify};

/// Addresses among which events are spread.
pub const LANES: u64 = 16;
/// Bytes of an event.
pub const SIZE: usize = 256;
/// Digits at the beginning of an event: nanoseconds, and 0 where nobody looks at them.
const STAMP: usize = 20;
/// How long latency is measured.
const MEASURED: Duration = Duration::from_secs(5);
/// How long it may take until the first event has come all the way, and the last.
const LIMIT: Duration = Duration::from_secs(30);
/// Events that are due within it are sent together: timers are not finer.
const TICK: Duration = Duration::from_millis(1);

/// A number of its own for each event: what has been sent before may be taken for a copy.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// An event to be sent.
pub struct Event {
    /// None other in this process has it.
    pub number: u64,
    pub lane: u64,
    pub payload: Bytes,
}

/// Where senders take their events from; several may, at the same time.
pub struct Feed<'a> {
    /// Since it was first asked.
    begun: Cell<Option<Instant>>,
    taken: Cell<u32>,
    pace: Pace<'a>,
}

enum Pace<'a> {
    /// So many, as fast as they are taken.
    All { events: u32, payload: Bytes },
    /// Until the clock says that it is enough.
    Rate { every: Duration, clock: &'a Clock, tick: Mutex<Tick> },
}

/// Events that became due together.
struct Tick {
    left: u32,
    due: Instant,
    stamp: Duration,
    /// Events per tick come to no whole number; what is left over.
    rest: f64,
}

impl<'a> Feed<'a> {
    #[must_use]
    pub fn all(events: u32) -> Self {
        let pace = Pace::All { events, payload: filled(Duration::ZERO) };
        Self { begun: Cell::new(None), taken: Cell::new(0), pace }
    }

    /// So many a second, for as long as the clock measures.
    #[must_use]
    pub fn paced(rate: f64, clock: &'a Clock) -> Self {
        let tick = Tick { left: 0, due: Instant::now(), stamp: Duration::ZERO, rest: 0.0 };
        let every = Duration::from_secs_f64(1.0 / rate.max(1.0));
        Self { begun: Cell::new(None), taken: Cell::new(0), pace: Pace::Rate { every, clock, tick: Mutex::new(tick) } }
    }

    /// The next event, when it is due.
    pub async fn next(&self) -> Option<Event> {
        if self.begun.get().is_none() {
            self.begun.set(Some(Instant::now()));
        }
        let payload = match &self.pace {
            Pace::All { events, .. } if self.taken.get() >= *events => return None,
            Pace::All { payload, .. } => payload.clone(),
            Pace::Rate { every, clock, tick } => {
                let mut tick = tick.lock().await;
                while tick.left == 0 {
                    if clock.is_over() {
                        return None;
                    }
                    tick.wait(*every, clock).await;
                }
                tick.left -= 1;
                clock.sent(tick.stamp);
                filled(tick.stamp)
            }
        };
        self.taken.set(self.taken.get() + 1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Some(Event { number, lane: number % LANES, payload })
    }

    /// Events a second, of those that were taken until now.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.begun.get().map_or(0.0, |begun| f64::from(self.taken.get()) / begun.elapsed().as_secs_f64())
    }
}

/// Sends what there is, a window of it on its way: `begin` gives what waits for the confirmation.
pub async fn send_window<C: Future<Output = Result<()>>>(
    feed: &Feed<'_>,
    window: usize,
    mut begin: impl AsyncFnMut(Event) -> Result<C>,
) -> Result<()> {
    let mut unconfirmed = FuturesUnordered::new();
    loop {
        tokio::select! {
            event = feed.next(), if unconfirmed.len() < window => match event {
                Some(event) => unconfirmed.push(begin(event).await?),
                None => break,
            },
            Some(confirmed) = unconfirmed.next() => confirmed?,
        }
    }
    while let Some(confirmed) = unconfirmed.next().await {
        confirmed?;
    }
    Ok(())
}

impl Tick {
    /// A sender that is late does not make the others' events younger: these are stamped with the time at which they were due.
    async fn wait(&mut self, every: Duration, clock: &Clock) {
        let due = self.due + TICK.max(every);
        // Who waits may give up meanwhile: nothing is changed before.
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
            self.stamp = clock.now();
        } else {
            self.stamp = due.saturating_duration_since(clock.epoch);
        }
        self.due = due;
        let events = TICK.max(every).as_secs_f64() / every.as_secs_f64() + self.rest;
        self.left = whole(events);
        self.rest = events - f64::from(self.left);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "events of a millisecond")]
fn whole(events: f64) -> u32 {
    events as u32
}

fn filled(stamp: Duration) -> Bytes {
    let stamp = stamp.as_nanos();
    Bytes::from(format!("{stamp:0STAMP$}{:x<1$}", "", SIZE - STAMP))
}

/// What was measured of events that went all the way at a rate that leaves room.
pub struct Clock {
    epoch: Instant,
    /// When the first event came; those that were sent before it do not count, so that nothing that must first come about does.
    flowing: Cell<Option<Duration>>,
    sent: Cell<usize>,
    took: RefCell<Vec<Duration>>,
    arrived: Notify,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            flowing: Cell::new(None),
            sent: Cell::new(0),
            took: RefCell::new(Vec::new()),
            arrived: Notify::new(),
        }
    }
}

impl Clock {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn is_over(&self) -> bool {
        self.flowing.get().map_or(LIMIT, |flowing| flowing + MEASURED) < self.now()
    }

    fn counts(&self, stamp: Duration) -> bool {
        self.flowing.get().is_some_and(|flowing| stamp > flowing)
    }

    fn sent(&self, stamp: Duration) {
        if self.counts(stamp) {
            self.sent.set(self.sent.get() + 1);
        }
    }

    fn arrived(&self, payload: &[u8]) {
        let digits = payload.get(..STAMP).and_then(|digits| std::str::from_utf8(digits).ok());
        let stamp = Duration::from_nanos(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0));
        if stamp.is_zero() {
            return;
        }
        if self.flowing.get().is_none() {
            self.flowing.set(Some(self.now()));
        }
        if self.counts(stamp) {
            self.took.borrow_mut().push(self.now().saturating_sub(stamp));
            self.arrived.notify_one();
        }
    }

    /// Waits until all that was sent has come.
    pub async fn complete(&self) -> Result<()> {
        let all = async {
            while self.took.borrow().len() < self.sent.get() {
                self.arrived.notified().await;
            }
        };
        let complete = tokio::time::timeout(LIMIT, all).await.is_ok();
        let (came, sent) = (self.took.borrow().len(), self.sent.get());
        ensure!(complete, "of {sent} events at half load only {came} came");
        ensure!(sent > 0, "not one event came at half load within {} s", LIMIT.as_secs());
        Ok(())
    }

    /// The time within which this share of events came.
    #[must_use]
    pub fn within(&self, share: f64) -> Duration {
        let mut took = self.took.borrow_mut();
        took.sort_unstable();
        percentile(&took, share)
    }
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or_default()
}

/// Where receivers put what came.
pub struct Arrivals<'a> {
    wanted: Option<u32>,
    clock: Option<&'a Clock>,
    begun: Option<Instant>,
    count: u32,
}

impl<'a> Arrivals<'a> {
    /// So many.
    #[must_use]
    pub fn all(events: u32) -> Self {
        Self { wanted: Some(events), clock: None, begun: None, count: 0 }
    }

    /// Whatever comes, for ever.
    #[must_use]
    pub fn timed(clock: &'a Clock) -> Self {
        Self { wanted: None, clock: Some(clock), begun: None, count: 0 }
    }

    /// Takes note of an event; true when it is the last that is wanted.
    pub fn arrived(&mut self, payload: &[u8]) -> bool {
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
        self.count += 1;
        if let Some(clock) = self.clock {
            clock.arrived(payload);
        }
        self.wanted == Some(self.count)
    }

    /// How many are still wanted.
    #[must_use]
    pub fn left(&self) -> Option<u32> {
        self.wanted.map(|wanted| wanted.saturating_sub(self.count))
    }

    /// Events a second from the first one until now.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.begun.map_or(0.0, |begun| f64::from(self.count) / begun.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_an_event_that_came() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(50));
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&times[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
    }

    #[test]
    fn every_event_has_its_size() {
        assert_eq!(filled(Duration::ZERO).len(), SIZE);
        assert_eq!(filled(Duration::from_hours(99)).len(), SIZE);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_sent_after_the_first_arrival_counts() {
        let clock = Clock::default();
        let early = clock.now() + Duration::from_nanos(1);
        clock.sent(early);
        clock.arrived(&filled(early));
        clock.arrived(&filled(Duration::ZERO));
        assert!(clock.complete().await.is_err(), "nothing was sent that counts");
        let later = clock.now();
        clock.sent(later);
        assert!(clock.complete().await.unwrap_err().to_string().contains("of 1 events at half load only 0 came"));
        clock.arrived(&filled(later));
        clock.complete().await.unwrap();
        assert_eq!(clock.took.borrow().len(), 1);
    }

    #[tokio::test]
    async fn what_a_late_sender_takes_is_as_old_as_it_was_due() {
        let clock = Clock { epoch: Instant::now().checked_sub(Duration::from_secs(1)).unwrap(), ..Clock::default() };
        let mut tick = Tick { left: 0, due: clock.epoch, stamp: Duration::ZERO, rest: 0.0 };
        for (millisecond, events) in [(1, 2), (2, 3), (3, 2)] {
            tick.wait(Duration::from_micros(400), &clock).await;
            assert_eq!((tick.stamp, tick.left), (Duration::from_millis(millisecond), events));
        }
    }

    #[tokio::test]
    async fn no_more_than_the_window_is_on_its_way_and_all_is_waited_for() {
        let (flying, most) = (Cell::new(0), Cell::new(0));
        let feed = Feed::all(50);
        let sending = send_window(&feed, 4, async |_| {
            flying.set(flying.get() + 1);
            most.set(most.get().max(flying.get()));
            Ok(async {
                tokio::task::yield_now().await;
                flying.set(flying.get() - 1);
                Ok(())
            })
        });
        sending.await.unwrap();
        assert_eq!((flying.get(), most.get(), feed.taken.get()), (0, 4, 50));
    }
}
