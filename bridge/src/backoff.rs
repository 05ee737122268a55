//! How long to wait before the next try: exponential, capped, full jitter.

use std::time::Duration;

use eventmesh_wire::config::RetryConfig;

/// The waits of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, failures: 0 }
    }

    /// As it is after so many failures.
    #[must_use]
    pub fn after(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Back to the shortest wait, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The longest that the next wait can be.
    fn ceiling(&self) -> Duration {
        let doubled = self.initial.saturating_mul(2_u32.saturating_pow(self.failures.min(31)));
        doubled.min(self.max)
    }

    /// The next wait, somewhere between half of its ceiling and the ceiling, and counts the failure.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rand::random::<f64>().mul_add(0.5, 0.5))
    }
}

impl From<RetryConfig> for Backoff {
    fn from(retry: RetryConfig) -> Self {
        Self::new(Duration::from_millis(retry.initial_ms), Duration::from_millis(retry.max_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_to_the_maximum_and_never_beyond(initial in 1_u64..5_000, factor in 1_u64..1_000, tries in 1_usize..80) {
            let max = Duration::from_millis(initial * factor);
            let mut backoff = Backoff::new(Duration::from_millis(initial), max);
            for _ in 0..tries {
                let ceiling = backoff.ceiling();
                let wait = backoff.next_wait();
                prop_assert!(wait <= ceiling && ceiling <= max);
                prop_assert!(wait >= ceiling.mul_f64(0.49));
                prop_assert!(backoff.ceiling() >= ceiling);
            }
            backoff.reset();
            prop_assert_eq!(backoff.ceiling(), Duration::from_millis(initial).min(max));
        }
    }
}
