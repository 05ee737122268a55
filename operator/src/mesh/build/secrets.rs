//! The Secrets of a mesh: what its brokers are told, their certificates, and what only the operator reads.

use std::collections::BTreeMap;

use eventmesh_crds::{EventMesh, mesh::WhenDeleted};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{
    super::{certificates::Files, validate::ValidMesh},
    config_file::{AUTH_FILE, CLUSTER_FILE},
    metadata, names,
};
use crate::{cache::namespaced, engine::apply::owner_reference, labels, pki::Authorities};

/// The files that tell the brokers whom to trust and where the others are.
pub fn broker(mesh: &ValidMesh, auth: String, cluster: String) -> Secret {
    let data = BTreeMap::from([
        (AUTH_FILE.to_owned(), ByteString(auth.into_bytes())),
        (CLUSTER_FILE.to_owned(), ByteString(cluster.into_bytes())),
    ]);
    Secret { metadata: metadata(mesh, names::brokers(&mesh.key.name)), data: Some(data), ..Secret::default() }
}

/// What the brokers need to dial other meshes; absent where they dial none.
pub fn links(mesh: &ValidMesh) -> Option<Secret> {
    (!mesh.remotes.is_empty()).then(|| Secret {
        metadata: metadata(mesh, names::links(&mesh.key.name)),
        data: Some(mesh.link_files.clone()),
        ..Secret::default()
    })
}

/// A Secret that only the operator reads. It outlives the EventMesh where the volumes do: what is on them belongs to
/// the keys in it.
#[must_use]
pub fn private(mesh: &EventMesh, name: String, data: BTreeMap<String, ByteString>) -> Secret {
    let (namespace, mesh_name) = namespaced(mesh);
    let storage = mesh.spec.brokers.storage.as_ref();
    let when_deleted = storage.and_then(|storage| storage.when_deleted).unwrap_or(WhenDeleted::Retain);
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            labels: Some(BTreeMap::from([
                (labels::INSTANCE.to_owned(), mesh_name.clone()),
                // By this its mesh is found when somebody touches it.
                (labels::COMPONENT.to_owned(), "keys".to_owned()),
                (labels::PART_OF.to_owned(), labels::PART_OF_VALUE.to_owned()),
                (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned()),
                (labels::MESH.to_owned(), mesh_name),
            ])),
            owner_references: (when_deleted == WhenDeleted::Delete).then(|| vec![owner_reference(mesh)]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..Secret::default()
    }
}

/// What brokers load, and what clients trust.
pub fn broker_tls(mesh: &ValidMesh, files: &Files) -> Secret {
    Secret {
        metadata: metadata(mesh, names::broker_tls(&mesh.key.name)),
        data: Some(files.entries()),
        ..Secret::default()
    }
}

/// The keys of the mesh's authority. They outlive the EventMesh where the volumes do, so that those outside who trust
/// the authority can go on when the same mesh is applied again.
pub fn authority(mesh: &ValidMesh, authorities: &Authorities) -> Secret {
    let mut metadata = metadata(mesh, names::authority(&mesh.key.name));
    if mesh.when_deleted == WhenDeleted::Retain {
        metadata.owner_references = None;
    }
    if let Some(labels) = &mut metadata.labels {
        labels.insert(labels::COMPONENT.to_owned(), "keys".to_owned());
    }
    Secret { metadata, data: Some(authorities.entries()), ..Secret::default() }
}
