//! The far side of a link of the mesh.

use eventmesh_crds::{
    Bridge,
    bridge::LinkEndpoint,
    conditions::{Reason, Verdict},
};
use eventmesh_wire::config as wire;
use kube::ResourceExt;

use super::{super::resolve::Resolved, unresolved};

pub(super) fn run(bridge: &Bridge, link: &LinkEndpoint, resolved: &Resolved) -> Result<wire::LinkEndpoint, Verdict> {
    if let Ok(mesh) = &resolved.mesh {
        if bridge.namespace().as_ref() != Some(&mesh.key.namespace) {
            let message = format!(
                "what leaves over links is for the owner of EventMesh {} to decide: the Bridge has to be in namespace {}",
                mesh.key, mesh.key.namespace
            );
            return Err(unresolved(Reason::RefNotPermitted, message));
        }
        if !mesh.mesh.spec.links.iter().flatten().any(|one| one.name == link.name) {
            let message = format!("EventMesh {} has no link {} in spec.links", mesh.key, link.name);
            return Err(unresolved(Reason::LinkNotFound, message));
        }
    }
    Ok(wire::LinkEndpoint { name: link.name.clone() })
}
