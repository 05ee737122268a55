//! The Kubernetes objects of an EventMesh. Pure and infallible; one file an object.

mod access;
mod budget;
pub mod certificate;
pub mod config_file;
pub mod fingerprint;
pub mod listeners;
pub mod names;
mod network_policy;
pub mod secrets;
mod services;
#[cfg(test)]
mod snapshots;
pub mod stateful_set;
pub mod volume_check;

use std::collections::{BTreeMap, BTreeSet};

use eventmesh_crds::EventMesh;
use eventmesh_wire::volume;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use sha2::{Digest, Sha256};

use super::{certificates::Files, validate::ValidMesh};
use crate::{identity::MeshKeys, labels};

/// Everything a mesh consists of, in the order in which it is applied: what is mounted comes before the pods.
pub struct Desired {
    pub service_account: ServiceAccount,
    /// Read by the operator only.
    pub keys_secret: Secret,
    pub config_map: ConfigMap,
    pub broker_secret: Secret,
    pub tls_secret: Secret,
    pub links_secret: Option<Secret>,
    pub budget: PodDisruptionBudget,
    pub network_policy: NetworkPolicy,
    pub stateful_set: StatefulSet,
}

/// The brokers that the others count on.
pub fn members(mesh: &ValidMesh, members: &BTreeSet<String>) -> ConfigMap {
    ConfigMap {
        metadata: metadata(mesh, names::members(&mesh.key.name)),
        data: Some(BTreeMap::from([(volume::MEMBERS_FILE.to_owned(), volume::render(members))])),
        ..ConfigMap::default()
    }
}

pub use secrets::authority;

/// The Services, which come before everything else.
pub fn services(mesh: &ValidMesh) -> Vec<Service> {
    services::run(mesh)
}

pub fn run(object: &EventMesh, mesh: &ValidMesh, keys: &MeshKeys, files: &Files) -> Desired {
    let config = config_file::broker(mesh);
    let auth = config_file::auth(keys);
    let cluster = config_file::cluster(mesh, keys);
    let cluster_file = config_file::is_cluster(mesh).then_some(cluster.as_str());
    let files_of_brokers: Vec<&str> = [config.as_str(), auth.as_str()].into_iter().chain(cluster_file).collect();
    let fingerprint = fingerprint::restarting(&files_of_brokers);
    Desired {
        service_account: access::service_account(mesh),
        config_map: ConfigMap {
            metadata: metadata(mesh, names::brokers(&mesh.key.name)),
            data: Some(BTreeMap::from([(config_file::BROKER_FILE.to_owned(), config)])),
            ..ConfigMap::default()
        },
        keys_secret: secrets::private(object, names::keys(&mesh.key.name), keys.entries().clone()),
        broker_secret: secrets::broker(mesh, auth, cluster),
        tls_secret: secrets::broker_tls(mesh, files),
        links_secret: secrets::links(mesh),
        budget: budget::run(mesh),
        network_policy: network_policy::run(mesh),
        stateful_set: stateful_set::run(mesh, &fingerprint, &keys.monitoring_path()),
    }
}

/// Labels that select the brokers of a mesh; never changed, since a StatefulSet's selector cannot be.
fn selector(mesh: &ValidMesh) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::INSTANCE.to_owned(), mesh.key.name.clone()),
        (labels::COMPONENT.to_owned(), "broker".to_owned()),
    ])
}

fn all_labels(mesh: &ValidMesh) -> BTreeMap<String, String> {
    let mut all = selector(mesh);
    all.extend([
        (labels::NAME.to_owned(), "nats".to_owned()),
        (labels::PART_OF.to_owned(), labels::PART_OF_VALUE.to_owned()),
        (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned()),
        (labels::MESH.to_owned(), mesh.key.name.clone()),
    ]);
    all
}

fn metadata(mesh: &ValidMesh, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(mesh.key.namespace.clone()),
        labels: Some(all_labels(mesh)),
        owner_references: Some(vec![mesh.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// Short fingerprint of texts: pods with another one run with another configuration.
pub fn hash(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.len().to_le_bytes());
        hasher.update(text);
    }
    format!("{:x}", hasher.finalize())[..16].to_owned()
}
