//! How a pass over one object ended when nothing failed.

use std::time::Duration;

use kube::runtime::controller::Action;

/// Waiting and invalid specs are outcomes, not errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as the spec says.
    Settled,
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
            Self::Settled => "settled",
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
            Self::Done => return Action::await_change(),
        };
        Action::requeue(base.mul_f64(rand::random::<f64>().mul_add(0.5, 0.75)))
    }
}
