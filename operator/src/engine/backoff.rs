//! Waiting times after failures: one count an object, exponential, with full jitter, reset by a success.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::error::Class;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_mins(2);
/// A conflict is over as soon as the watch has caught up.
const LONGEST_CONFLICT: Duration = Duration::from_secs(2);

/// Failures in a row, by namespace and name.
#[derive(Debug, Default)]
pub struct Backoffs(Mutex<BTreeMap<(String, String), u32>>);

impl Backoffs {
    /// Counts one more failure and returns how long to wait.
    pub fn next(&self, object: &(String, String), class: Class) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = counts.entry(object.clone()).or_insert(0);
        let delay = delay(*failures, class, rand::random());
        *failures = failures.saturating_add(1);
        delay
    }

    pub fn reset(&self, object: &(String, String)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

/// `random` is in 0..1. Never below a twentieth of the ceiling, so that an unlucky draw does not spin.
fn delay(failures: u32, class: Class, random: f64) -> Duration {
    let longest = if class == Class::Conflict { LONGEST_CONFLICT } else { LONGEST };
    let ceiling = FIRST.saturating_mul(1 << failures.min(20)).min(longest);
    ceiling.mul_f64(random.mul_add(0.95, 0.05))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_within_its_bounds(failures in 0u32..100, random in 0.0f64..1.0) {
            let delay = delay(failures, Class::Unavailable, random);
            prop_assert!(delay <= LONGEST && delay >= FIRST / 20);
        }
    }

    #[test]
    fn grows_with_failures_and_starts_again_after_a_success() {
        let backoffs = Backoffs::default();
        let object = ("a".to_owned(), "b".to_owned());
        for _ in 0..12 {
            backoffs.next(&object, Class::Internal);
        }
        assert!(backoffs.next(&object, Class::Internal) >= LONGEST / 20);
        backoffs.reset(&object);
        assert!(backoffs.next(&object, Class::Internal) <= FIRST);
    }

    #[test]
    fn a_conflict_is_tried_again_soon() {
        assert!(delay(50, Class::Conflict, 1.0) <= LONGEST_CONFLICT);
    }
}
