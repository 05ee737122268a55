//! How fast the application is sent events, when it says that it is too fast. Pure.
//!
//! Additive increase, multiplicative decrease: 429 and 503 halve how many events may be with it at once, and each event that
//! it takes afterwards adds its share of one more. In between nothing is sent for the time that it asks for.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// How long nothing is sent when it does not say how long: the first time, and at most.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// An application that asks for no time at all gets this much.
const SHORTEST_REST: Duration = Duration::from_millis(50);

/// The pace of one subscription.
pub struct Pace {
    most: usize,
    /// Between 1 and `most`.
    limit: f64,
    rest_until: Option<Instant>,
    /// When it was last slowed down: what was sent before says nothing about the new pace.
    slowed: Option<Instant>,
    backoff: Backoff,
}

impl Pace {
    #[must_use]
    pub fn new(most: usize) -> Self {
        let backoff = Backoff::new(FIRST_REST, LONGEST_REST);
        let mut pace = Self { most: 1, limit: 1.0, rest_until: None, slowed: None, backoff };
        pace.set_most(most);
        pace.limit = float(pace.most);
        pace
    }

    /// Another `maxInFlight`.
    pub fn set_most(&mut self, most: usize) {
        let was_full = self.limit() >= self.most;
        self.most = most.max(1);
        self.limit = if was_full { float(self.most) } else { self.limit.min(float(self.most)) };
    }

    /// How many events may be with the application at once.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a number of events")]
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// It took an event that was sent at this time.
    pub fn taken(&mut self, sent: Instant) {
        if self.slowed.is_none_or(|slowed| sent >= slowed) {
            self.backoff.reset();
            self.limit = (self.limit + 1.0 / self.limit).min(float(self.most));
        }
    }

    /// It asks for a slower pace, by its answer to an event that was sent at this time.
    pub fn slow_down(&mut self, sent: Instant, asked_for: Option<Duration>, now: Instant) {
        // Many are on their way at once, and one too many makes them all come back: that is one reason, and not many.
        let again = self.slowed.is_none_or(|slowed| sent >= slowed);
        if again {
            self.slowed = Some(now);
            self.limit = (self.limit / 2.0).max(1.0);
        }
        let rest = match asked_for {
            Some(asked_for) => asked_for.max(SHORTEST_REST),
            None if again => self.backoff.next_wait(),
            None => return,
        };
        let until = now + rest;
        self.rest_until = Some(self.rest_until.map_or(until, |known| known.max(until)));
    }

    /// Until when nothing is to be sent.
    #[must_use]
    pub fn rests(&self, now: Instant) -> Option<Instant> {
        self.rest_until.filter(|until| *until > now)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number of events")]
fn float(events: usize) -> f64 {
    events as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_halves_once_for_all_that_were_on_their_way_and_grows_one_at_a_time() {
        let (mut pace, sent) = (Pace::new(100), Instant::now());
        let now = sent + Duration::from_millis(5);
        for _ in 0..100 {
            pace.slow_down(sent, None, now);
        }
        assert_eq!(pace.limit(), 50);
        pace.taken(sent);
        assert_eq!(pace.limit(), 50, "it was sent before");
        for _ in 0..52 {
            pace.taken(now);
        }
        assert_eq!(pace.limit(), 51);
        for _ in 0..10_000 {
            pace.taken(now);
        }
        assert_eq!(pace.limit(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn one_event_at_a_time_is_the_slowest() {
        let mut pace = Pace::new(100);
        for second in 0..20 {
            let now = Instant::now() + Duration::from_secs(second);
            pace.slow_down(now, None, now);
        }
        assert_eq!(pace.limit(), 1);
        pace.taken(Instant::now() + Duration::from_mins(1));
        assert_eq!(pace.limit(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_as_long_as_it_was_asked_for() {
        let (mut pace, now) = (Pace::new(10), Instant::now());
        assert_eq!(pace.rests(now), None);
        pace.slow_down(now, Some(Duration::from_secs(7)), now);
        pace.slow_down(now, Some(Duration::from_secs(3)), now);
        pace.slow_down(now, None, now);
        assert_eq!(pace.rests(now), Some(now + Duration::from_secs(7)));
        assert_eq!(pace.rests(now + Duration::from_secs(7)), None);
        let later = now + Duration::from_secs(8);
        pace.slow_down(later, Some(Duration::ZERO), later);
        assert_eq!(pace.rests(later), Some(later + SHORTEST_REST));
    }

    #[test]
    fn another_maximum_is_taken_up() {
        let mut pace = Pace::new(10);
        pace.set_most(20);
        assert_eq!(pace.limit(), 20, "it was not slowed down");
        pace.set_most(0);
        assert_eq!(pace.limit(), 1);
    }
}
