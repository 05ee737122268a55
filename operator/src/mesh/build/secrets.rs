//! The Secrets of a mesh: one for the brokers and the operator, one for applications.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::{
    super::{Credentials, validate::ValidMesh},
    config_file::{AUTH_FILE, CLIENT_PORT, CLUSTER_FILE},
    metadata, names,
};

/// All users, and the files that tell the brokers of them.
pub fn broker(mesh: &ValidMesh, credentials: &Credentials, auth: String, cluster: String) -> Secret {
    let mut data = credentials.entries();
    data.insert(AUTH_FILE.to_owned(), ByteString(auth.into_bytes()));
    data.insert(CLUSTER_FILE.to_owned(), ByteString(cluster.into_bytes()));
    Secret { metadata: metadata(mesh, names::brokers(&mesh.key.name)), data: Some(data), ..Secret::default() }
}

/// What an application needs, laid out as the Service Binding specification for Kubernetes says.
pub fn client(mesh: &ValidMesh, credentials: &Credentials) -> Secret {
    let host = names::client_host(&mesh.key);
    let user = &credentials.client;
    let entries = [
        ("type", "nats".to_owned()),
        ("provider", "eventmesh".to_owned()),
        ("uri", format!("nats://{}:{}@{host}:{CLIENT_PORT}", user.user, user.password)),
        ("host", host),
        ("port", CLIENT_PORT.to_string()),
        ("username", user.user.clone()),
        ("password", user.password.clone()),
    ];
    let data: BTreeMap<_, _> =
        entries.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect();
    Secret {
        metadata: metadata(mesh, names::client_secret(&mesh.key.name)),
        type_: Some("servicebinding.io/nats".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}
