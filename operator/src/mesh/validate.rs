//! From a spec that the API server took to one that neither Kubernetes nor the broker will refuse. Pure.

use eventmesh_crds::{
    EventMesh,
    common::std_duration,
    conditions::{ConditionType, Reason, Verdict},
    mesh::{BrokerSettings, Expose, PodTemplate, Sync, WhenDeleted},
    quantity::ByteQuantity,
};
use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::OwnerReference};
use serde_json::{Map, Value};

use crate::{broker::MeshKey, cache::namespaced, engine::apply::owner_reference};

/// Keys of the broker's configuration that the operator writes itself. The broker ignores case, and knows some by
/// several names.
const OWNED_KEYS: [&str; 30] = [
    "accounts",
    "addr",
    "auth_callout",
    "authorization",
    "cluster",
    "gateway",
    "host",
    "http",
    "http_port",
    "https",
    "https_port",
    "include",
    "jetstream",
    "jetstream_max_disk_store",
    "lame_duck_duration",
    "lame_duck_grace_period",
    "leaf",
    "leafnodes",
    "listen",
    "max_connections",
    "max_payload",
    "monitor_port",
    "mqtt",
    "name",
    "net",
    "no_auth_user",
    "pid_file",
    "port",
    "server_name",
    "system_account",
];

/// An EventMesh whose brokers can be built.
pub struct ValidMesh {
    pub key: MeshKey,
    pub owner: OwnerReference,
    pub replicas: i32,
    pub image: String,
    pub storage_size: ByteQuantity,
    pub storage_class: Option<String>,
    pub when_deleted: WhenDeleted,
    /// `always`, or an interval in the broker's notation.
    pub sync_interval: String,
    pub resources: Option<ResourceRequirements>,
    pub pod_template: PodTemplate,
    pub settings: BrokerSettings,
    pub extra_config: Map<String, Value>,
    pub expose: Expose,
}

pub fn run(mesh: &EventMesh, default_image: &str) -> Result<ValidMesh, Verdict> {
    let (namespace, name) = namespaced(mesh);
    let brokers = &mesh.spec.brokers;
    let storage = brokers.storage.clone().unwrap_or_default();
    let default_size = "10Gi".parse().map_err(|message: String| refuse(Reason::InvalidSpec, message))?;
    let extra_config = brokers.extra_config.clone().unwrap_or_default();
    if let Some(key) =
        extra_config.keys().find(|key| OWNED_KEYS.contains(&key.to_lowercase().as_str()) || key.starts_with('$'))
    {
        let message = format!("brokers.extraConfig sets `{key}`, which the operator owns; remove it");
        return Err(refuse(Reason::ReservedConfigKey, message));
    }
    Ok(ValidMesh {
        key: MeshKey { namespace, name },
        owner: owner_reference(mesh),
        replicas: brokers.count(),
        image: brokers.image.clone().unwrap_or_else(|| default_image.to_owned()),
        storage_size: storage.size.unwrap_or(default_size),
        storage_class: storage.class_name,
        when_deleted: storage.when_deleted.unwrap_or(WhenDeleted::Retain),
        sync_interval: sync_interval(brokers.sync()),
        resources: brokers.resources.clone(),
        pod_template: brokers.pod_template.clone().unwrap_or_default(),
        settings: brokers.settings.clone().unwrap_or_default(),
        extra_config,
        expose: mesh
            .spec
            .listeners
            .as_ref()
            .and_then(|listeners| listeners.nats.as_ref())
            .and_then(|nats| nats.expose)
            .unwrap_or(Expose::ClusterIP),
    })
}

/// In the broker's notation.
fn sync_interval(sync: Sync) -> String {
    match sync {
        Sync::Always => "always".to_owned(),
        Sync::Interval(interval) => format!("{}ms", std_duration(&interval).as_millis()),
    }
}

fn refuse(reason: Reason, message: String) -> Verdict {
    Verdict::bad(ConditionType::Accepted, reason, message)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn mesh(brokers: &Value) -> EventMesh {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
            "metadata": {"name": "retail", "namespace": "platform", "uid": "u-1"}, "spec": {"brokers": brokers},
        }))
        .expect("a mesh")
    }

    #[rstest]
    #[case(json!({"extraConfig": {"cluster": {}}}))]
    #[case(json!({"extraConfig": {"JetStream": {}}}))]
    #[case(json!({"extraConfig": {"server_name": "x"}}))]
    fn refuses_keys_that_the_operator_owns(#[case] brokers: Value) {
        let verdict = run(&mesh(&brokers), "broker:1").err().expect("refused");
        assert_eq!(verdict.reason, Reason::ReservedConfigKey);
    }

    #[rstest]
    #[case(json!({"replicas": 1}), "always")]
    #[case(json!({}), "10000ms")]
    #[case(json!({"storage": {"sync": "Always"}}), "always")]
    #[case(json!({"replicas": 1, "storage": {"sync": "2m"}}), "120000ms")]
    fn one_copy_syncs_always(#[case] brokers: Value, #[case] expected: &str) {
        let Ok(valid) = run(&mesh(&brokers), "broker:1") else { panic!("the spec is valid") };
        assert_eq!(valid.sync_interval, expected);
    }
}
