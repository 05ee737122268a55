//! Gives a mesh more brokers, or fewer: one broker at a time, and only while every copy is up to date.
//!
//! A broker that is to go is emptied first: each of its copies moves to another broker, and is complete there before the old
//! one goes. Then it is taken out of the metadata, and only then its pod goes. Each pass observes and takes one step;
//! nothing is remembered but that the mesh was told to be scaling, in its own condition.

mod execute;
mod observe;
mod plan;
mod spread;

use eventmesh_crds::{
    EventMesh,
    conditions::{ConditionType, Reason, Verdict},
};

use super::{
    roll::{Progress, Roll},
    validate::ValidMesh,
};
use crate::engine::{Context, Error, Outcome};
use observe::Observed;
use plan::Step;

/// How it stands with the number of brokers.
pub struct Scale {
    observed: Observed,
    step: Step,
}

/// Observes and plans, and gives `mesh` the number of brokers to build with.
pub async fn run(context: &Context, object: &EventMesh, mesh: &mut ValidMesh) -> Result<Scale, Error> {
    let observed = observe::run(context, object, mesh).await;
    let step = plan::run(&observed);
    mesh.replicas = observed.replicas_after(&step);
    Ok(Scale { observed, step })
}

impl Scale {
    /// Does the step, unless brokers are being restarted.
    pub async fn act(mut self, context: &Context, mesh: &ValidMesh, roll: &Roll) -> Result<Self, Error> {
        if self.step.moves() {
            if roll.progress() == Progress::Settled {
                self.step = execute::run(context, mesh, &self.observed, self.step).await?;
            } else {
                self.step = Step::Wait("brokers are being restarted".to_owned());
            }
        }
        Ok(self)
    }

    /// Whether there are as many brokers as wanted.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.step == Step::Settled
    }

    /// What stands in the way, or is waited for; absent when there is nothing to tell.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let kind = ConditionType::Programmed;
        let Observed { current, wanted, .. } = &self.observed;
        let way = match current {
            Some(current) if current != wanted => format!("on the way from {current} to {wanted} brokers"),
            _ => format!("spreading copies over {wanted} brokers"),
        };
        let told = match &self.step {
            Step::Settled => return None,
            Step::Blocked(what) => {
                let message = format!("{way}: {}; nothing is moved until then", what.join("; "));
                return Some(Verdict::bad(kind, Reason::ScaleBlocked, message));
            }
            step => step.to_string(),
        };
        let message = format!("{way}: {told}");
        Some(Verdict { kind, status: None, reason: Reason::Scaling, message })
    }

    /// When to look again; absent where nothing is left to do.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.step {
            Step::Settled => None,
            _ => Some(Outcome::Progressing),
        }
    }
}
