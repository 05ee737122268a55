//! Where a pass over a Topic, a Subscription or a Bridge came to an end, and the verdicts that follow from it.
//!
//! The three conditions Accepted, ResolvedRefs and Programmed are decided in this order; each constructor says how far
//! the pass came, so that no controller can forget one of them.

use eventmesh_crds::conditions::{ConditionType, Reason, Verdict};

use super::Outcome;

/// The verdicts of a pass, and what it means for the queue.
#[derive(Debug)]
pub struct Stopped {
    pub verdicts: Vec<Verdict>,
    pub outcome: Outcome,
}

impl Stopped {
    /// A reference leads nowhere, or may not be used: a verdict on ResolvedRefs.
    #[must_use]
    pub fn unresolved(resolved_refs: Verdict) -> Self {
        let pending = Verdict::pending;
        let verdicts = vec![pending(ConditionType::Accepted), resolved_refs, pending(ConditionType::Programmed)];
        Self { verdicts, outcome: Outcome::Waiting }
    }

    /// The spec cannot work.
    #[must_use]
    pub fn rejected(reason: Reason, message: impl Into<String>) -> Self {
        let accepted = Verdict::bad(ConditionType::Accepted, reason, message);
        let verdicts = vec![accepted, resolved_refs(), Verdict::pending(ConditionType::Programmed)];
        Self { verdicts, outcome: Outcome::Rejected }
    }

    /// The spec is fine, and something is awaited before it can be programmed.
    #[must_use]
    pub fn waiting(reason: Reason, message: impl Into<String>) -> Self {
        let programmed = Verdict { kind: ConditionType::Programmed, status: None, reason, message: message.into() };
        Self { verdicts: vec![accepted(), resolved_refs(), programmed], outcome: Outcome::Waiting }
    }

    /// The spec is fine, and the broker does not take it or holds something else in its place. Not final: what stands
    /// in the way may be removed there.
    #[must_use]
    pub fn not_programmed(reason: Reason, message: impl Into<String>) -> Self {
        let programmed = Verdict::bad(ConditionType::Programmed, reason, message);
        Self { verdicts: vec![accepted(), resolved_refs(), programmed], outcome: Outcome::Waiting }
    }

    /// Everything is as the spec says.
    #[must_use]
    pub fn programmed(reason: Reason, message: impl Into<String>) -> Self {
        let programmed = Verdict::good(ConditionType::Programmed, reason, message);
        Self { verdicts: vec![accepted(), resolved_refs(), programmed], outcome: Outcome::Settled }
    }

    /// Everything is set up, and something that works on it does not get on. It goes on by itself.
    #[must_use]
    pub fn settled(programmed: Verdict) -> Self {
        Self { verdicts: vec![accepted(), resolved_refs(), programmed], outcome: Outcome::Settled }
    }

    /// Says what an accepted spec gives up.
    #[must_use]
    pub fn with_warnings(mut self, warnings: &[String]) -> Self {
        if let Some(accepted) = self.verdicts.iter_mut().find(|v| v.kind == ConditionType::Accepted)
            && !warnings.is_empty()
        {
            *accepted = Verdict::good(ConditionType::Accepted, Reason::AcceptedWithWarning, warnings.join("; "));
        }
        self
    }
}

fn accepted() -> Verdict {
    Verdict::good(ConditionType::Accepted, Reason::Accepted, "")
}

fn resolved_refs() -> Verdict {
    Verdict::good(ConditionType::ResolvedRefs, Reason::ResolvedRefs, "")
}
