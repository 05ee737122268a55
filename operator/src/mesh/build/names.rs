//! Names of the children of an EventMesh. An EventMesh's name has at most 45 characters, so none needs to be cut.

use std::{collections::BTreeSet, net::IpAddr};

use crate::broker::MeshKey;

/// StatefulSet, ConfigMap, Secret, ServiceAccount, PodDisruptionBudget and NetworkPolicy of the brokers.
#[must_use]
pub fn brokers(mesh: &str) -> String {
    format!("{mesh}-broker")
}

/// The pod of one broker, which is the broker's name as well.
#[must_use]
pub fn broker(mesh: &str, ordinal: i32) -> String {
    format!("{}-{ordinal}", brokers(mesh))
}

/// The claim of one broker's volume.
#[must_use]
pub fn claim(mesh: &str, ordinal: i32) -> String {
    format!("data-{}", broker(mesh, ordinal))
}

/// The headless Service, by which brokers find each other.
#[must_use]
pub fn headless(mesh: &str) -> String {
    format!("{mesh}-brokers")
}

/// The operator's own Secret with the keys of the mesh's authority; no pod mounts it.
#[must_use]
pub fn authority(mesh: &str) -> String {
    format!("{mesh}-ca")
}

/// The Secret with what brokers load and what clients trust.
#[must_use]
pub fn broker_tls(mesh: &str) -> String {
    format!("{mesh}-broker-tls")
}

/// The Secret that cert-manager fills.
#[must_use]
pub fn cert_manager_tls(mesh: &str) -> String {
    format!("{mesh}-cert-manager-tls")
}

/// Annotation of an EventMesh: another text asks for a new authority.
pub const RENEW_AUTHORITY: &str = "eventmesh.dev/renew-ca";

/// Annotation of an EventMesh: brokers that may be taken out when their volume is empty, whoever else is away.
pub const GIVE_UP: &str = "eventmesh.dev/give-up-volumes";

/// The Service for clients.
#[must_use]
pub fn client_service(mesh: &str) -> String {
    format!("{mesh}-nats")
}

/// The Secret with the keys that the mesh's events belong to; for the operator only.
#[must_use]
pub fn keys(mesh: &str) -> String {
    format!("{mesh}-keys")
}

/// The Secret with the operator's record of who has an identity; for the operator only.
#[must_use]
pub fn identities(mesh: &str) -> String {
    format!("{mesh}-identities")
}

/// The ConfigMap with the brokers that the others count on.
#[must_use]
pub fn members(mesh: &str) -> String {
    format!("{mesh}-members")
}

/// The Secret with what the brokers need to dial other meshes.
#[must_use]
pub fn links(mesh: &str) -> String {
    format!("{mesh}-links")
}

/// Host name of the client Service inside the cluster.
#[must_use]
pub fn client_host(mesh: &MeshKey) -> String {
    format!("{}.{}.svc", client_service(&mesh.name), mesh.namespace)
}

/// Where clients inside the cluster connect.
#[must_use]
pub fn client_url(mesh: &MeshKey, tls: bool) -> String {
    format!("{}://{}:4222", if tls { "tls" } else { "nats" }, client_host(mesh))
}

/// What certificates of the brokers are for: every Service by every name it has inside the cluster, every pod, and what
/// the spec and load balancers add.
#[must_use]
pub fn certificate_names(
    mesh: &MeshKey,
    services: impl IntoIterator<Item = String>,
    more: impl IntoIterator<Item = String>,
) -> BTreeSet<String> {
    let namespace = &mesh.namespace;
    let suffixes = [format!("{namespace}.svc"), format!("{namespace}.svc.cluster.local")];
    let service = |name: String| {
        let long = suffixes.clone().map(|suffix| format!("{name}.{suffix}"));
        long.into_iter().chain([format!("{name}.{namespace}"), name])
    };
    let pods = suffixes.clone().map(|suffix| format!("*.{}.{suffix}", headless(&mesh.name)));
    let own = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    // Addresses are compared as texts, and only one text of each may be there.
    let more = more.into_iter().map(|name| match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name,
    });
    services.into_iter().flat_map(service).chain(pods).chain(own).chain(more).collect()
}

/// Fills in an address template of the operator's settings.
#[must_use]
pub fn address(template: &str, mesh: &MeshKey) -> String {
    template.replace("{mesh}", &mesh.name).replace("{namespace}", &mesh.namespace)
}
