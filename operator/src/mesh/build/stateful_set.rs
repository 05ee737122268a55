//! The StatefulSet of the brokers.
//!
//! Probes as the NATS documentation advises: startup waits until the broker has caught up with the cluster, readiness
//! asks only whether the server runs (a broker that catches up must stay reachable for its peers), liveness only whether
//! JetStream is enabled (a broker that catches up must never be killed for it). Pods start in parallel, since a broker
//! without its peers never becomes ready.

use std::collections::BTreeMap;

use eventmesh_crds::mesh::WhenDeleted;
use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            ConfigMapProjection, Container, ContainerPort, EmptyDirVolumeSource, ExecAction, HTTPGetAction, KeyToPath,
            Lifecycle, LifecycleHandler, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec,
            Probe, ProjectedVolumeSource, ResourceRequirements, SecretProjection, TopologySpreadConstraint, Volume,
            VolumeMount, VolumeProjection, VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    super::{
        certificates::files::{CERTIFICATE, KEY, REVISION_FILE, ROUTE_AUTHORITY, ROUTE_CERTIFICATE, ROUTE_KEY},
        validate::ValidMesh,
    },
    all_labels,
    config_file::{
        AUTH_FILE, BROKER_FILE, CLIENT_PORT, CLUSTER_FILE, CLUSTER_PORT, CONFIG_DIRECTORY, DATA_DIRECTORY,
        MONITOR_PORT, RUN_DIRECTORY,
    },
    metadata, names, selector, volume_check,
};
use crate::pods;

/// Name of the brokers' container.
pub const BROKER: &str = "broker";
/// Annotation that changes with that part of the brokers' configuration which needs a restart.
pub const CONFIG_HASH: &str = "eventmesh.dev/config-hash";
/// Longer than the lame-duck time of the configuration file (5 s and 30 s).
const TERMINATION_GRACE: i64 = 60;

pub fn run(mesh: &ValidMesh, config_hash: &str, monitoring: &str) -> StatefulSet {
    let name = names::brokers(&mesh.key.name);
    let when_deleted = match mesh.when_deleted {
        WhenDeleted::Retain => "Retain",
        WhenDeleted::Delete => "Delete",
    };
    StatefulSet {
        metadata: metadata(mesh, name),
        spec: Some(StatefulSetSpec {
            replicas: Some(mesh.replicas),
            service_name: Some(names::headless(&mesh.key.name)),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                // The operator ends the pods, one at a time and when it hurts nobody.
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            revision_history_limit: Some(5),
            selector: LabelSelector { match_labels: Some(selector(mesh)), ..LabelSelector::default() },
            template: template(mesh, config_hash, monitoring),
            volume_claim_templates: Some(vec![volume_claim(mesh)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// The fingerprint of the configuration that its pods are started with.
pub fn started_with(set: &StatefulSet) -> Option<&str> {
    let annotations = set.spec.as_ref()?.template.metadata.as_ref()?.annotations.as_ref()?;
    annotations.get(CONFIG_HASH).map(String::as_str)
}

fn template(mesh: &ValidMesh, config_hash: &str, monitoring: &str) -> PodTemplateSpec {
    let user = &mesh.pod_template;
    let mut annotations: BTreeMap<String, String> = user.annotations.clone().unwrap_or_default();
    annotations.insert(CONFIG_HASH.to_owned(), config_hash.to_owned());
    let mut pod_labels = user.labels.clone().unwrap_or_default();
    pod_labels.extend(all_labels(mesh));
    let name = names::brokers(&mesh.key.name);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(name),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(TERMINATION_GRACE),
            security_context: Some(pods::pod_security()),
            node_selector: user.node_selector.clone(),
            tolerations: user.tolerations.clone(),
            affinity: user.affinity.clone(),
            priority_class_name: user.priority_class_name.clone(),
            topology_spread_constraints: Some(
                user.topology_spread_constraints.clone().unwrap_or_else(|| vec![one_a_node(mesh)]),
            ),
            init_containers: volume_check::containers(mesh),
            containers: vec![container(mesh, monitoring)],
            volumes: Some(volumes(mesh)),
            ..PodSpec::default()
        }),
    }
}

/// Preferred and not forced: fewer nodes than brokers must not stop the mesh.
fn one_a_node(mesh: &ValidMesh) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector { match_labels: Some(selector(mesh)), ..LabelSelector::default() }),
        ..TopologySpreadConstraint::default()
    }
}

fn container(mesh: &ValidMesh, monitoring: &str) -> Container {
    let healthy = |query: &str, period, failures| {
        probe(mesh.tls.has_tls(), format!("{monitoring}/healthz{query}"), period, failures)
    };
    let tls = mesh.tls.has_tls();
    let mut ports = vec![port("nats", CLIENT_PORT), port("cluster", CLUSTER_PORT), port("monitor", MONITOR_PORT)];
    ports.extend(mesh.listeners.iter().map(|(listener, _)| port(listener.name(), listener.port(tls))));
    Container {
        name: BROKER.to_owned(),
        image: Some(mesh.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["--config".to_owned(), format!("{CONFIG_DIRECTORY}/{BROKER_FILE}")]),
        env: Some(vec![pods::name_variable()]),
        ports: Some(ports),
        resources: Some(mesh.resources.clone().unwrap_or_else(default_resources)),
        startup_probe: Some(healthy("", 5, 120)),
        readiness_probe: Some(healthy("?js-server-only=true", 5, 3)),
        liveness_probe: Some(healthy("?js-enabled-only=true", 10, 6)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction {
                    command: Some(vec!["/nats-server".to_owned(), format!("--signal=ldm={RUN_DIRECTORY}/nats.pid")]),
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        // Why a broker does not come up is told in its status then.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(pods::container_security()),
        volume_mounts: Some(vec![
            mount("config", CONFIG_DIRECTORY, true),
            mount("run", RUN_DIRECTORY, false),
            mount("data", DATA_DIRECTORY, false),
        ]),
        ..Container::default()
    }
}

fn default_resources() -> ResourceRequirements {
    pods::requests("100m", "256Mi")
}

/// Looks every few seconds; so many failures in a row count.
fn probe(tls: bool, path: String, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path),
            port: IntOrString::String("monitor".to_owned()),
            // The kubelet does not verify the certificate: it asks the pod's own address.
            scheme: tls.then(|| "HTTPS".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn port(name: &str, port: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn volumes(mesh: &ValidMesh) -> Vec<Volume> {
    let name = names::brokers(&mesh.key.name);
    let item = |file: &str| KeyToPath { key: file.to_owned(), path: file.to_owned(), ..KeyToPath::default() };
    let config = ConfigMapProjection {
        name: name.clone(),
        items: Some(vec![item(BROKER_FILE)]),
        ..ConfigMapProjection::default()
    };
    let auth = SecretProjection {
        name,
        items: Some(vec![item(AUTH_FILE), item(CLUSTER_FILE)]),
        ..SecretProjection::default()
    };
    let tls_item = |file: &str| KeyToPath { path: format!("tls/{file}"), ..item(file) };
    let serving: &[&str] = if mesh.tls.has_tls() { &[CERTIFICATE, KEY] } else { &[] };
    let loaded = serving.iter().chain(&[ROUTE_CERTIFICATE, ROUTE_KEY, ROUTE_AUTHORITY, REVISION_FILE]);
    let tls = SecretProjection {
        name: names::broker_tls(&mesh.key.name),
        items: Some(loaded.map(|file| tls_item(file)).collect()),
        ..SecretProjection::default()
    };
    // All of it, whether there are links or not: one that comes or goes restarts nobody.
    let links =
        SecretProjection { name: names::links(&mesh.key.name), optional: Some(true), ..SecretProjection::default() };
    let secrets = [auth, tls, links]
        .into_iter()
        .map(|secret| VolumeProjection { secret: Some(secret), ..VolumeProjection::default() });
    let config = VolumeProjection { config_map: Some(config), ..VolumeProjection::default() };
    let config = Volume {
        name: "config".to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some([config].into_iter().chain(secrets).collect()),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    };
    let run = Volume { name: "run".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    [config, run].into_iter().chain(volume_check::volume(mesh)).collect()
}

fn volume_claim(mesh: &ValidMesh) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("data".to_owned()), labels: Some(selector(mesh)), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: mesh.storage_class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    Quantity(mesh.storage_size.as_str().to_owned()),
                )])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
