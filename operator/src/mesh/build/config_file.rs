//! The configuration files of the brokers: `nats.conf` in a ConfigMap, and what it includes in a Secret: `auth.conf`
//! with the keys that they trust, and `cluster.conf` with the routes, whose URLs carry the brokers' own password.
//!
//! Certificates are files of their own, so that a new one is no new configuration and restarts nobody.

use std::fmt::Write as _;

use eventmesh_crds::quantity::ByteQuantity;

use super::{
    super::{
        certificates::files::{
            REVISION, REVISION_FILE, REVISION_VARIABLE, ROUTE_AUTHORITY, ROUTE_CERTIFICATE, ROUTE_KEY,
        },
        validate::ValidMesh,
    },
    hash, listeners, names,
};
use crate::identity::MeshKeys;

pub const BROKER_FILE: &str = "nats.conf";
pub const AUTH_FILE: &str = "auth.conf";
pub const CLUSTER_FILE: &str = "cluster.conf";
/// Where all files are mounted.
pub const CONFIG_DIRECTORY: &str = "/etc/nats";
/// Where the certificates are: below the configuration, so that the kubelet exchanges both at one moment.
pub const TLS_DIRECTORY: &str = "/etc/nats/tls";
/// Where the pid file is; the pre-stop hook signals through it.
pub const RUN_DIRECTORY: &str = "/var/run/nats";
pub const DATA_DIRECTORY: &str = "/data";

/// The name by which brokers log in at each other.
const CLUSTER_USER: &str = "cluster";

pub const CLIENT_PORT: i32 = 4222;
pub const CLUSTER_PORT: i32 = 6222;
pub const MONITOR_PORT: i32 = 8222;

/// Below this the brokers could not be told of accounts; what a party may publish is limited in its own account.
const LEAST_MAX_PAYLOAD: i64 = 1 << 20;
const DEFAULT_MAX_CONNECTIONS: i32 = 65536;

/// Keys of the brokers' metadata that tell which of the files below they have loaded.
pub const REVISIONS: [&str; 2] = ["configuration", "cluster"];
/// What the file of the cluster defines; the other one refers to it.
pub const CLUSTER_VARIABLE: &str = "cluster_revision";

/// What brokers tell that have loaded all of the configuration, in the order of [`REVISIONS`].
pub fn revisions(mesh: &ValidMesh, keys: &MeshKeys) -> Vec<String> {
    let cluster = is_cluster(mesh).then(|| hash(&[&cluster_block(mesh, keys)]));
    std::iter::once(hash(&[&settings(mesh)])).chain(cluster).collect()
}

/// Whether the brokers read the file of the cluster.
pub fn is_cluster(mesh: &ValidMesh) -> bool {
    mesh.replicas > 1
}

/// Everything but whom they trust. Each file tells its own revision, since the kubelet may exchange one before the other.
pub fn broker(mesh: &ValidMesh) -> String {
    let mut file = settings(mesh);
    let [configuration, cluster] = REVISIONS;
    let own = hash(&[&file]);
    let theirs = if is_cluster(mesh) { format!(", {cluster}: ${CLUSTER_VARIABLE}") } else { String::new() };
    let _ =
        writeln!(file, "server_metadata {{ {REVISION}: ${REVISION_VARIABLE}, {configuration}: \"{own}\"{theirs} }}");
    file
}

fn settings(mesh: &ValidMesh) -> String {
    let max_payload =
        mesh.settings.max_payload.as_ref().map_or(LEAST_MAX_PAYLOAD, ByteQuantity::bytes).max(LEAST_MAX_PAYLOAD);
    let max_connections = mesh.settings.max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS);
    // The rest of the volume is room for compaction, for the cluster's own state, and for what a full disk needs.
    let max_file_store = mesh.storage_size.bytes() / 10 * 9;
    let (monitor, tls) =
        if mesh.tls.has_tls() { ("https", format!("{}\n", listeners::tls_block())) } else { ("http", String::new()) };
    let mut file = format!(
        "# Written by the Event Mesh Operator; edits are overwritten.\n\
         server_name: $POD_NAME\n\
         listen: \"0.0.0.0:{CLIENT_PORT}\"\n\
         {monitor}: \"0.0.0.0:{MONITOR_PORT}\"\n{tls}\
         pid_file: \"{RUN_DIRECTORY}/nats.pid\"\n\
         max_payload: {max_payload}\n\
         max_connections: {max_connections}\n\
         lame_duck_grace_period: \"5s\"\n\
         lame_duck_duration: \"30s\"\n\
         jetstream {{\n  store_dir: \"{DATA_DIRECTORY}\"\n  max_file_store: {max_file_store}\n  sync_interval: \"{}\"\n}}\n\
         include \"./{AUTH_FILE}\"\n\
         include \"./tls/{REVISION_FILE}\"\n",
        mesh.sync_interval
    );
    file.push_str(&listeners::config(mesh));
    if is_cluster(mesh) {
        let _ = writeln!(file, "include \"./{CLUSTER_FILE}\"");
    } else {
        // By the name others tell it from other meshes: a broker that dials two without a name takes them for one, and passes nothing on
        // from one to the other. Without a port it is no cluster.
        let _ = writeln!(file, "cluster {{ name: \"{}\" }}", mesh.key.name);
    }
    for (key, value) in &mesh.extra_config {
        // The broker's configuration language takes JSON values.
        let _ = writeln!(file, "{key}: {value}");
    }
    file
}

/// How the brokers find each other and prove who they are: each shows a certificate of the mesh's own authority, which
/// signs for nobody else.
pub fn cluster(mesh: &ValidMesh, keys: &MeshKeys) -> String {
    let block = cluster_block(mesh, keys);
    format!("{CLUSTER_VARIABLE}: \"{}\"\n{block}", hash(&[&block]))
}

fn cluster_block(mesh: &ValidMesh, keys: &MeshKeys) -> String {
    let name = &mesh.key.name;
    let (user, password) = (CLUSTER_USER, &keys.cluster_password);
    let mut routes = String::new();
    for ordinal in 0..mesh.replicas {
        let _ = writeln!(
            routes,
            "    \"nats-route://{user}:{password}@{}-{ordinal}.{}.{}.svc:{CLUSTER_PORT}\"",
            names::brokers(name),
            names::headless(name),
            mesh.key.namespace
        );
    }
    format!(
        "cluster {{\n  name: \"{name}\"\n  listen: \"0.0.0.0:{CLUSTER_PORT}\"\n  no_advertise: true\n  \
         authorization {{ user: \"{user}\", password: \"{password}\" }}\n  \
         tls {{ cert_file: \"{TLS_DIRECTORY}/{ROUTE_CERTIFICATE}\", key_file: \"{TLS_DIRECTORY}/{ROUTE_KEY}\", \
         ca_file: \"{TLS_DIRECTORY}/{ROUTE_AUTHORITY}\", verify: true, timeout: 5 }}\n  routes: [\n{routes}  ]\n}}\n"
    )
}

/// Whom the brokers trust, and what nobody else should know: the operator's key, the accounts that it has signed, and where
/// the monitoring is. What comes later is told to them and
/// kept on their volumes, where each takes over what the others know.
pub fn auth(keys: &MeshKeys) -> String {
    let MeshKeys { operator_token, system_token, mesh_token, system, mesh, .. } = keys;
    let (system, mesh) = (system.public_key(), mesh.public_key());
    format!(
        "operator: \"{operator_token}\"\n\
         system_account: \"{system}\"\n\
         resolver {{\n  type: full\n  dir: \"{DATA_DIRECTORY}/accounts\"\n  allow_delete: false\n  interval: \"15s\"\n}}\n\
         http_base_path: \"{}\"\n\
         resolver_preload {{\n  {system}: \"{system_token}\"\n  {mesh}: \"{mesh_token}\"\n}}\n",
        keys.monitoring_path()
    )
}
