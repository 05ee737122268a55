//! From a spec that the API server took to one that neither Kubernetes nor the broker will refuse. Pure.

use std::collections::BTreeMap;

use eventmesh_crds::{
    EventMesh,
    common::std_duration,
    conditions::{ConditionType, Reason, Verdict},
    mesh::{self, BrokerSettings, Expose, PodTemplate, ServiceMesh, Sync, WhenDeleted},
    quantity::ByteQuantity,
    tls::{CertManagerIssuer, TlsIssuer},
};
use k8s_openapi::{
    ByteString, api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp,
};
use kube::ResourceExt;
use serde_json::{Map, Value};

use super::{
    build::{listeners::Listener, names},
    certificates::plan::NoOutside,
    resolve::{Resolved, outside_secret},
};
use crate::{
    broker::{MeshKey, version::Version},
    cache::namespaced,
    engine::apply::owner_reference,
    link::remote::Remote,
    pki::{self, Outside, Policy, outside::Unusable},
    settings::Images,
};

/// Keys of the broker's configuration that the operator writes itself. The broker ignores case, and knows some by
/// several names.
const OWNED_KEYS: [&str; 36] = [
    "accounts",
    "addr",
    "allow_non_tls",
    "auth_callout",
    "authorization",
    "cluster",
    "gateway",
    "host",
    "http",
    "http_base_path",
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
    "server_metadata",
    "server_name",
    "system_account",
    "tls",
    "websocket",
    "ws",
];

/// An EventMesh whose brokers can be built.
pub struct ValidMesh {
    pub key: MeshKey,
    pub owner: OwnerReference,
    pub replicas: i32,
    pub image: String,
    /// Image of the program that looks at a volume before its broker starts.
    pub check_image: String,
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
    /// The listeners that are on besides the NATS protocol.
    pub listeners: Vec<(Listener, Expose)>,
    pub tls: ValidTls,
    pub service_mesh: ServiceMesh,
    /// Whether all pods may be ready and copies are missing nevertheless: as it is found.
    pub lacks_copies: bool,
    /// Links that these brokers dial, and the files that they need for it: as they are found.
    pub remotes: Vec<Remote>,
    pub link_files: BTreeMap<String, ByteString>,
}

/// Where certificates come from.
pub struct ValidTls {
    pub issuer: TlsIssuer,
    pub issuer_ref: Option<CertManagerIssuer>,
    pub server_names: Vec<String>,
    pub policy: Policy,
    /// A text whose change asks for a new authority.
    pub request: String,
}

impl ValidTls {
    /// Whether clients speak TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.issuer != TlsIssuer::Disabled
    }
}

pub fn run(mesh: &EventMesh, images: &Images) -> Result<ValidMesh, Verdict> {
    let (namespace, name) = namespaced(mesh);
    let brokers = &mesh.spec.brokers;
    let storage = brokers.storage.clone().unwrap_or_default();
    let default_size = "10Gi".parse().map_err(|message: String| refuse(Reason::InvalidSpec, message))?;
    let listeners = mesh.spec.listeners.clone().unwrap_or_default();
    let extra_config = brokers.extra_config.clone().unwrap_or_default();
    if let Some(key) =
        extra_config.keys().find(|key| OWNED_KEYS.contains(&key.to_lowercase().as_str()) || key.starts_with('$'))
    {
        let message = format!("brokers.extraConfig sets `{key}`, which the operator owns; remove it");
        return Err(refuse(Reason::ReservedConfigKey, message));
    }
    let image = brokers.image.clone().unwrap_or_else(|| images.broker.clone());
    if let Some(refusal) = Version::of_image(&image).and_then(Version::refusal) {
        let message = format!("brokers.image is {image}, but {refusal}; use an image of one of these");
        return Err(refuse(Reason::UnsupportedVersion, message));
    }
    Ok(ValidMesh {
        key: MeshKey { namespace, name },
        owner: owner_reference(mesh),
        replicas: brokers.count(),
        image,
        check_image: images.bridge.clone(),
        storage_size: storage.size.unwrap_or(default_size),
        storage_class: storage.class_name,
        when_deleted: storage.when_deleted.unwrap_or(WhenDeleted::Retain),
        sync_interval: sync_interval(brokers.sync()),
        resources: brokers.resources.clone(),
        pod_template: brokers.pod_template.clone().unwrap_or_default(),
        settings: brokers.settings.clone().unwrap_or_default(),
        extra_config,
        expose: listeners.nats.as_ref().map_or(Expose::ClusterIP, expose),
        listeners: [
            (Listener::Mqtt, &listeners.mqtt),
            (Listener::Websocket, &listeners.websocket),
            (Listener::Leaf, &listeners.leaf),
        ]
        .into_iter()
        .filter_map(|(listener, asked)| Some((listener, expose(asked.as_ref()?))))
        .collect(),
        tls: tls(mesh),
        service_mesh: mesh.spec.service_mesh(),
        lacks_copies: false,
        remotes: Vec::new(),
        link_files: BTreeMap::new(),
    })
}

/// What is to be had of a certificate from outside; absent where none is asked for. `answer` is cert-manager's.
pub fn outside(
    mesh: &EventMesh,
    valid: &ValidMesh,
    resolved: &Resolved,
    answer: Option<String>,
    now: Timestamp,
) -> Option<Result<Outside, NoOutside>> {
    let secret = outside_secret(mesh)?;
    Some(match (&resolved.outside, answer) {
        (Some(data), _) => pki::outside::check(data, &names::client_host(&valid.key), now).map_err(|unusable| {
            NoOutside::Invalid(Unusable { message: format!("Secret {secret}: {}", unusable.message), ..unusable })
        }),
        (None, Some(answer)) => Err(NoOutside::Pending(Reason::CertificatePending, answer)),
        (None, None) => {
            Err(NoOutside::Pending(Reason::SecretNotFound, format!("Secret {secret} does not exist; waiting for it")))
        }
    })
}

fn expose(listener: &mesh::Listener) -> Expose {
    listener.expose.unwrap_or(Expose::ClusterIP)
}

fn tls(mesh: &EventMesh) -> ValidTls {
    let tls = mesh.spec.tls.clone().unwrap_or_default();
    ValidTls {
        issuer: tls.issuer(),
        policy: Policy { leaf: tls.certificate_lifetime(), authority: tls.ca_lifetime(), overlap: tls.ca_overlap() },
        issuer_ref: tls.issuer_ref,
        server_names: tls.server_names.unwrap_or_default(),
        request: mesh.annotations().get(names::RENEW_AUTHORITY).cloned().unwrap_or_default(),
    }
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
    #[case(json!({"extraConfig": {"TLS": {}}}))]
    #[case(json!({"extraConfig": {"ws": {}}}))]
    #[case(json!({"extraConfig": {"server_metadata": {}}}))]
    fn refuses_keys_that_the_operator_owns(#[case] brokers: Value) {
        let verdict = run(&mesh(&brokers), &Images::fixed()).err().expect("refused");
        assert_eq!(verdict.reason, Reason::ReservedConfigKey);
    }

    #[rstest]
    #[case(json!({"image": "nats:2.16.0"}), false)]
    #[case(json!({"image": "nats:2.14.6-alpine"}), false)]
    #[case(json!({"image": "nats:2.14.7-alpine"}), true)]
    #[case(json!({"image": "nats:latest"}), true)]
    fn an_image_of_a_version_that_is_not_known_is_refused(#[case] brokers: Value, #[case] valid: bool) {
        let verdict = run(&mesh(&brokers), &Images::fixed()).err();
        assert_eq!(verdict.as_ref().map(|verdict| verdict.reason), (!valid).then_some(Reason::UnsupportedVersion));
    }

    #[rstest]
    #[case(json!({"replicas": 1}), "always")]
    #[case(json!({}), "10000ms")]
    #[case(json!({"storage": {"sync": "Always"}}), "always")]
    #[case(json!({"replicas": 1, "storage": {"sync": "2m"}}), "120000ms")]
    fn one_copy_syncs_always(#[case] brokers: Value, #[case] expected: &str) {
        let Ok(valid) = run(&mesh(&brokers), &Images::fixed()) else { panic!("the spec is valid") };
        assert_eq!(valid.sync_interval, expected);
    }
}
