//! The Kubernetes objects of a Bridge. Pure and infallible; one file an object.

mod deployment;
mod network_policy;
pub mod service;

use std::collections::BTreeMap;

use eventmesh_wire::config_hash;
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::Deployment,
        core::v1::{Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::validate::ValidBridge;
use crate::labels;

/// Key of the configuration in the Secret, and name of the file in the pods.
pub const CONFIG_FILE: &str = "config.json";

/// Everything a Bridge consists of in Kubernetes.
pub struct Desired {
    pub service_account: ServiceAccount,
    pub secret: Secret,
    pub network_policy: NetworkPolicy,
    /// Only of one that listens.
    pub service: Option<Service>,
    pub deployment: Deployment,
    /// Fingerprint of the configuration; pods report the one they run with.
    pub config_hash: String,
}

/// Deployment, Secret, ServiceAccount, NetworkPolicy and Service of a Bridge.
#[must_use]
pub fn child_name(bridge: &str) -> String {
    format!("{bridge}-bridge")
}

pub fn run(bridge: &ValidBridge, image: &str) -> Desired {
    // A configuration made of plain data always has a JSON form.
    let file = serde_json::to_vec(&bridge.config).unwrap_or_default();
    let config_hash = config_hash(&file);
    let listens = service::listens(&bridge.config.endpoint);
    Desired {
        service_account: ServiceAccount {
            metadata: metadata(bridge),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        secret: Secret {
            metadata: metadata(bridge),
            data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), ByteString(file))])),
            ..Secret::default()
        },
        network_policy: network_policy::run(metadata(bridge), &bridge.name, listens),
        service: listens.map(|listens| service::run(bridge, listens)),
        deployment: deployment::run(bridge, listens, image),
        config_hash,
    }
}

/// Labels that select the pods of a Bridge; never changed, since a Deployment's selector cannot be.
#[must_use]
pub fn selector(bridge: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::INSTANCE.to_owned(), bridge.to_owned()),
        (labels::COMPONENT.to_owned(), "bridge".to_owned()),
    ])
}

fn all_labels(bridge: &ValidBridge) -> BTreeMap<String, String> {
    let mut all = selector(&bridge.name);
    all.extend([
        (labels::NAME.to_owned(), "eventmesh-bridge".to_owned()),
        (labels::PART_OF.to_owned(), labels::PART_OF_VALUE.to_owned()),
        (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned()),
        (labels::MESH.to_owned(), bridge.mesh.clone()),
    ]);
    all
}

fn metadata(bridge: &ValidBridge) -> ObjectMeta {
    ObjectMeta {
        name: Some(child_name(&bridge.name)),
        namespace: Some(bridge.namespace.clone()),
        labels: Some(all_labels(bridge)),
        owner_references: Some(vec![bridge.owner.clone()]),
        ..ObjectMeta::default()
    }
}
