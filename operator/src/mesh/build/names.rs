//! Names of the children of an EventMesh. An EventMesh's name has at most 45 characters, so none needs to be cut.

use crate::broker::MeshKey;

/// StatefulSet, ConfigMap, Secret, ServiceAccount and PodDisruptionBudget of the brokers.
#[must_use]
pub fn brokers(mesh: &str) -> String {
    format!("{mesh}-broker")
}

/// The headless Service, by which brokers find each other.
#[must_use]
pub fn headless(mesh: &str) -> String {
    format!("{mesh}-brokers")
}

/// The Service for clients.
#[must_use]
pub fn client_service(mesh: &str) -> String {
    format!("{mesh}-nats")
}

/// The Secret for applications.
#[must_use]
pub fn client_secret(mesh: &str) -> String {
    format!("{mesh}-client")
}

/// Host name of the client Service inside the cluster.
#[must_use]
pub fn client_host(mesh: &MeshKey) -> String {
    format!("{}.{}.svc", client_service(&mesh.name), mesh.namespace)
}

/// Where clients inside the cluster connect.
#[must_use]
pub fn client_url(mesh: &MeshKey) -> String {
    format!("nats://{}:4222", client_host(mesh))
}

/// Fills in an address template of the operator's settings.
#[must_use]
pub fn address(template: &str, mesh: &MeshKey) -> String {
    template.replace("{mesh}", &mesh.name).replace("{namespace}", &mesh.namespace)
}
