//! The PodDisruptionBudget of the brokers: one at a time, so that a majority of each stream's copies stays; none while a broker that
//! has lost its volume comes back, since its pod is ready before it has copies.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{super::validate::ValidMesh, metadata, names, selector};

pub fn run(mesh: &ValidMesh) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(mesh, names::brokers(&mesh.key.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(i32::from(!mesh.lacks_copies))),
            selector: Some(LabelSelector { match_labels: Some(selector(mesh)), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
