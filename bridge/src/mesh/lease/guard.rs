//! The clock by which a holder stops: asked directly before each event is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::term::At;

/// The time by a clock that goes on while the machine, or the process, is asleep.
#[must_use]
pub fn now() -> At {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Tells whether this process may carry events at this moment.
#[derive(Clone)]
pub struct Guard {
    until: Arc<AtomicU64>,
    clock: fn() -> At,
}

impl Default for Guard {
    /// One without a lease: it always may.
    fn default() -> Self {
        Self { until: Arc::new(AtomicU64::new(u64::MAX)), clock: now }
    }
}

impl Guard {
    pub(crate) fn unset(&self) {
        self.until.store(u64::MAX, SeqCst);
    }

    pub(crate) fn set(&self, until: At) {
        self.until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), SeqCst);
    }

    /// Whether the last renewal that the mesh has answered was sent recently enough.
    #[must_use]
    pub fn holds(&self) -> bool {
        let until = self.until.load(SeqCst);
        until == u64::MAX || u128::from(until) > (self.clock)().as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    static TIME: AtomicU64 = AtomicU64::new(0);

    fn clock() -> At {
        Duration::from_millis(TIME.load(SeqCst))
    }

    #[test]
    fn it_ends_by_itself() {
        let guard = Guard { clock, ..Guard::default() };
        assert!(guard.holds(), "without a lease");
        guard.set(Duration::ZERO);
        assert!(!guard.holds());
        guard.set(Duration::from_millis(1_500));
        TIME.store(1_499, SeqCst);
        assert!(guard.holds());
        // As after a SIGSTOP: nothing ran in between, and the first look already tells.
        TIME.store(60_000, SeqCst);
        assert!(!guard.holds());
    }

    #[test]
    fn the_clock_runs() {
        let before = now();
        assert!(before > Duration::ZERO && now() >= before);
    }
}
