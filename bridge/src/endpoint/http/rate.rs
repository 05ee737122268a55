//! A limit of events: a bucket that fills with time and is taken from.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use eventmesh_wire::config::http::RateLimit;
use tokio::time::Instant;

/// No wait that follows from a limit is longer.
const LONGEST: Duration = Duration::from_hours(1);

pub struct Bucket {
    pub limit: RateLimit,
    level: Mutex<Level>,
}

struct Level {
    /// Below zero: what was taken in advance.
    events: f64,
    at: Instant,
}

impl Bucket {
    #[must_use]
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, level: Mutex::new(Level { events: f64::from(limit.burst), at: now }) }
    }

    /// Takes `count` events, or tells after how long they may be asked for again. More events than the bucket can hold are
    /// given when it is full, and those that come next wait for them.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take(&self, count: usize, now: Instant) -> Result<(), Duration> {
        let mut level = self.filled(now);
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let missing = count.min(f64::from(self.limit.burst)) - level.events;
        if missing > 0.0 {
            return Err(self.time_of(missing));
        }
        level.events -= count;
        Ok(())
    }

    /// Takes one event in any case, and tells how long to wait before it goes.
    pub fn reserve(&self, now: Instant) -> Duration {
        let mut level = self.filled(now);
        level.events -= 1.0;
        if level.events >= 0.0 { Duration::ZERO } else { self.time_of(-level.events) }
    }

    fn filled(&self, now: Instant) -> std::sync::MutexGuard<'_, Level> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(level.at).as_secs_f64();
        level.events = passed.mul_add(f64::from(self.limit.per_second), level.events).min(f64::from(self.limit.burst));
        level.at = now;
        level
    }

    fn time_of(&self, events: f64) -> Duration {
        Duration::try_from_secs_f64(events / f64::from(self.limit.per_second.max(1)))
            .map_or(LONGEST, |time| time.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_what_time_brings() {
        let begun = Instant::now();
        let bucket = Bucket::new(RateLimit { per_second: 10, burst: 2 }, begun);
        assert_eq!((bucket.take(1, begun), bucket.take(1, begun)), (Ok(()), Ok(())));
        let wait = bucket.take(1, begun).unwrap_err();
        assert!(wait > Duration::from_millis(99) && wait < Duration::from_millis(101), "{wait:?}");
        assert_eq!(bucket.take(1, begun + wait), Ok(()));
        assert_eq!(bucket.take(3, begun + Duration::from_mins(1)), Ok(()), "as much as there can be is given");
        let wait = bucket.take(1, begun + Duration::from_mins(1)).unwrap_err();
        assert!(wait > Duration::from_millis(199), "what was given in advance is waited for: {wait:?}");
    }

    #[test]
    fn what_is_reserved_goes_one_after_the_other() {
        let now = Instant::now();
        let bucket = Bucket::new(RateLimit { per_second: 2, burst: 1 }, now);
        let waits: Vec<u128> = (0..3).map(|_| bucket.reserve(now).as_millis()).collect();
        assert_eq!(waits, [0, 500, 1000]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit(
            per_second in 1_u32..1_000, burst in 1_u32..1_000, steps in proptest::collection::vec((1_usize..50, 0_u64..500), 1..100),
        ) {
            let begun = Instant::now();
            let bucket = Bucket::new(RateLimit { per_second, burst }, begun);
            let (mut now, mut taken) = (begun, 0_usize);
            for (count, pause) in steps {
                now += Duration::from_millis(pause);
                if bucket.take(count, now).is_ok() {
                    taken += count;
                    let allowed = f64::from(burst) + (now - begun).as_secs_f64() * f64::from(per_second);
                    // The last taken may be more than the bucket holds.
                    prop_assert!(f64::from(u32::try_from(taken).unwrap()) <= allowed + 50.0 + 1e-6);
                }
            }
        }
    }
}
