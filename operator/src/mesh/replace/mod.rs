//! Takes back a broker that has lost its volume for good.
//!
//! A broker that came up with an empty volume as who it was would vote with what it no longer has. So the check in its pod keeps it
//! from starting for as long as it is listed as one that the others count on (`mesh/members.rs`). It leaves the metadata, every
//! group goes on without it, and only then its name leaves the list and its pod is asked anew: it joins as somebody new.
//! Each pass observes and takes one step; nothing is remembered but that it was told, in the mesh's own condition.

mod execute;
mod observe;
mod plan;

use std::collections::BTreeSet;

use eventmesh_crds::{
    EventMesh,
    conditions::{ConditionType, Reason, Verdict},
};

use super::{members, validate::ValidMesh};
use crate::engine::{Context, Error, Outcome};
use plan::Step;

pub use observe::lacks_copies;

/// How it stands with brokers that have lost their volumes.
pub struct Replace {
    step: Step,
    /// Whether there is a broker that may soon be counted on, or all is well again since this pass.
    changes: bool,
}

/// Observes, keeps the list of those who are counted on, and does one step. `listed`: as it was read.
pub async fn run(
    context: &Context,
    object: &EventMesh,
    mesh: &ValidMesh,
    listed: BTreeSet<String>,
) -> Result<Replace, Error> {
    let seen = observe::run(context, object, mesh, listed).await;
    let counted_on = plan::counted_on(&seen);
    if counted_on != seen.listed {
        members::write(context, mesh, &counted_on).await?;
    }
    let step = plan::run(&seen);
    execute::run(context, object, mesh, &seen, &step).await?;
    let is_new = seen.answering.iter().any(|name| !counted_on.contains(name));
    Ok(Replace { changes: is_new || seen.was_replacing, step })
}

impl Replace {
    /// What is under way, or stands in the way; absent when there is nothing to tell.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let kind = ConditionType::Programmed;
        match &self.step {
            Step::Settled => None,
            Step::Lost(_) => Some(Verdict::bad(kind, Reason::VolumesLost, self.step.to_string())),
            step => Some(Verdict { kind, status: None, reason: Reason::ReplacingBroker, message: step.to_string() }),
        }
    }

    /// When to look again; absent where nothing is left to do.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        (self.changes || self.step != Step::Settled).then_some(Outcome::Progressing)
    }
}
