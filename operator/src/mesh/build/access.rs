//! The ServiceAccount of the brokers. It has no rights, and its token is not mounted.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{super::validate::ValidMesh, metadata, names};

pub fn service_account(mesh: &ValidMesh) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(mesh, names::brokers(&mesh.key.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
