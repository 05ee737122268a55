//! Makes the volumes of the brokers larger. Events stay where they are and no broker restarts.
//!
//! A StatefulSet's claim templates cannot be changed. So the claims grow first, and when every volume has its new size, the
//! StatefulSet is deleted without its pods and applied anew with the new size; it takes the pods over as they are. Until
//! then everything is built with the size that the StatefulSet has: brokers never count on space that is not there.

mod execute;
mod observe;
mod plan;

use eventmesh_crds::conditions::{ConditionType, Reason, Verdict};

use super::validate::ValidMesh;
use crate::engine::{Context, Error};
use plan::Step;

/// How it stands with the volumes.
pub struct Volumes(Step);

/// Does what one pass can, and gives `mesh` the size to build with. `is_settled`: there are as many brokers as wanted.
pub async fn run(context: &Context, mesh: &mut ValidMesh, is_settled: bool) -> Result<Volumes, Error> {
    let observed = observe::run(context, mesh, is_settled).await?;
    let step = plan::run(&observed);
    let refused = execute::run(context, mesh, &step).await?;
    let step = refused.map_or(step, Step::Refused);
    if let Some(size) = observed.template.filter(|_| step != Step::Settled) {
        mesh.storage_size = size;
    }
    Ok(Volumes(step))
}

impl Volumes {
    /// What stands in the way, or is waited for; absent when there is nothing to tell.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let kind = ConditionType::Programmed;
        match &self.0 {
            Step::Settled | Step::Replace(_) => None,
            Step::Refused(why) => Some(Verdict::bad(kind, Reason::VolumesFixed, why)),
            Step::Ask(claims) => Some(growing(format!("asking for larger volumes: {}", claims.join(", ")))),
            Step::Later => Some(growing("waiting until there are as many brokers as wanted".to_owned())),
            Step::Wait(claims) => Some(growing(format!("waiting for the larger volumes of {}", claims.join(", ")))),
        }
    }

    /// Whether the StatefulSet is being deleted, to come anew.
    #[must_use]
    pub fn is_replacing(&self) -> bool {
        matches!(self.0, Step::Replace(_))
    }

    /// Whether there is more to do that no watch tells of.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        matches!(self.0, Step::Ask(_) | Step::Wait(_) | Step::Later)
    }
}

fn growing(message: String) -> Verdict {
    Verdict { kind: ConditionType::Programmed, status: None, reason: Reason::VolumesGrowing, message }
}
