//! How a pass over one object ended when nothing failed.

use std::time::Duration;

use kube::runtime::controller::Action;

/// Waiting and invalid specs are outcomes, not errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as the spec says.
    Settled,
    /// Everything is as the spec says, until this much time has passed.
    SettledFor(Duration),
    /// Something that is awaited is missing; its coming wakes the object.
    Waiting,
    /// Something slow is under way that no watch tells of; look again soon.
    Progressing,
    /// The spec cannot work; only a change helps.
    Rejected,
    /// The object is gone or is somebody else's.
    Done,
}

impl Outcome {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Settled | Self::SettledFor(_) => "settled",
            Self::Waiting => "waiting",
            Self::Progressing => "progressing",
            Self::Rejected => "rejected",
            Self::Done => "done",
        }
    }

    /// When to look again without being woken. The times differ by up to a half, so that many objects do not come at
    /// once.
    #[must_use]
    pub fn action(self) -> Action {
        let base = match self {
            Self::Settled | Self::Rejected => Duration::from_mins(10),
            Self::Waiting => Duration::from_mins(1),
            Self::Progressing => Duration::from_secs(5),
            Self::SettledFor(time) => {
                // At that time and not around it; the usual look comes in between.
                let usual = Duration::from_mins(10).mul_f64(jitter());
                return Action::requeue(time.min(usual));
            }
            Self::Done => return Action::await_change(),
        };
        Action::requeue(base.mul_f64(jitter()))
    }
}

fn jitter() -> f64 {
    rand::random::<f64>().mul_add(0.5, 0.75)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_named_is_not_jittered() {
        let soon = Duration::from_mins(1);
        assert_eq!(Outcome::SettledFor(soon).action(), Action::requeue(soon));
        assert_ne!(Outcome::SettledFor(Duration::from_hours(500)).action(), Action::requeue(Duration::from_hours(500)));
    }
}
