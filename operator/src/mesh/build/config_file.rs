//! The configuration files of the brokers: `nats.conf` in a ConfigMap, and what it includes in a Secret: `auth.conf`
//! with the users, and `cluster.conf` with the routes, whose URLs carry the brokers' own password.

use std::fmt::Write as _;

use eventmesh_crds::quantity::ByteQuantity;

use super::{
    super::{Credentials, validate::ValidMesh},
    names,
};

pub const BROKER_FILE: &str = "nats.conf";
pub const AUTH_FILE: &str = "auth.conf";
pub const CLUSTER_FILE: &str = "cluster.conf";
/// Where both files are mounted.
pub const CONFIG_DIRECTORY: &str = "/etc/nats";
/// Where the pid file is; the pre-stop hook signals through it.
pub const RUN_DIRECTORY: &str = "/var/run/nats";
pub const DATA_DIRECTORY: &str = "/data";

/// The account that holds all Topics of a mesh.
pub const ACCOUNT: &str = "MESH";

pub const CLIENT_PORT: i32 = 4222;
pub const CLUSTER_PORT: i32 = 6222;
pub const MONITOR_PORT: i32 = 8222;

const DEFAULT_MAX_PAYLOAD: i64 = 1 << 20;
const DEFAULT_MAX_CONNECTIONS: i32 = 65536;

/// Everything but the users.
pub fn broker(mesh: &ValidMesh) -> String {
    let max_payload = mesh.settings.max_payload.as_ref().map_or(DEFAULT_MAX_PAYLOAD, ByteQuantity::bytes);
    let max_connections = mesh.settings.max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS);
    // The rest of the volume is room for compaction, for the cluster's own state, and for what a full disk needs.
    let max_file_store = mesh.storage_size.bytes() / 10 * 9;
    let mut file = format!(
        "# Written by the Event Mesh Operator; edits are overwritten.\n\
         server_name: $POD_NAME\n\
         listen: \"0.0.0.0:{CLIENT_PORT}\"\n\
         http: \"0.0.0.0:{MONITOR_PORT}\"\n\
         pid_file: \"{RUN_DIRECTORY}/nats.pid\"\n\
         max_payload: {max_payload}\n\
         max_connections: {max_connections}\n\
         lame_duck_grace_period: \"5s\"\n\
         lame_duck_duration: \"30s\"\n\
         jetstream {{\n  store_dir: \"{DATA_DIRECTORY}\"\n  max_file_store: {max_file_store}\n  sync_interval: \"{}\"\n}}\n\
         include \"./{AUTH_FILE}\"\n",
        mesh.sync_interval
    );
    if mesh.replicas > 1 {
        let _ = writeln!(file, "include \"./{CLUSTER_FILE}\"");
    }
    for (key, value) in &mesh.extra_config {
        // The broker's configuration language takes JSON values.
        let _ = writeln!(file, "{key}: {value}");
    }
    file
}

/// How the brokers find each other and prove who they are.
pub fn cluster(mesh: &ValidMesh, credentials: &Credentials) -> String {
    let name = &mesh.key.name;
    let super::super::credentials::User { user, password } = &credentials.cluster;
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
         authorization {{ user: \"{user}\", password: \"{password}\" }}\n  routes: [\n{routes}  ]\n}}\n"
    )
}

/// The users, by account, and what each may do.
pub fn auth(credentials: &Credentials) -> String {
    let Credentials { operator, system, bridge, client, .. } = credentials;
    // Streams and durable consumers are the operator's; who is not the operator uses them.
    let managed = "\"$JS.API.STREAM.CREATE.>\", \"$JS.API.STREAM.UPDATE.>\", \"$JS.API.STREAM.DELETE.>\", \
                   \"$JS.API.STREAM.PURGE.>\", \"$JS.API.STREAM.RESTORE.>\", \"$JS.API.STREAM.SNAPSHOT.>\", \
                   \"$JS.API.STREAM.MSG.DELETE.>\", \"$JS.API.CONSUMER.DURABLE.CREATE.>\"";
    format!(
        "system_account: SYS\n\
         accounts {{\n  \
           SYS {{ users: [ {{ user: \"{}\", password: \"{}\" }} ] }}\n  \
           {ACCOUNT} {{\n    \
             jetstream: enabled\n    \
             users: [\n      \
               {{ user: \"{}\", password: \"{}\" }}\n      \
               {{ user: \"{}\", password: \"{}\", permissions: {{ publish: {{ deny: [{managed}, \"$JS.API.CONSUMER.CREATE.>\", \"$JS.API.CONSUMER.DELETE.>\"] }} }} }}\n      \
               {{ user: \"{}\", password: \"{}\", permissions: {{ publish: {{ deny: [{managed}, \"$EM.>\"] }}, subscribe: {{ deny: [\"$EM.>\"] }} }} }}\n    \
             ]\n  \
           }}\n\
         }}\n",
        system.user,
        system.password,
        operator.user,
        operator.password,
        bridge.user,
        bridge.password,
        client.user,
        client.password,
    )
}
