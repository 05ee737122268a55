//! The Deployment of a Bridge.
//!
//! The configuration is not part of the pod template: pods take a changed file up while they run.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{
            Container, ContainerPort, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SecretVolumeSource, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{super::validate::ValidBridge, CONFIG_FILE, all_labels, child_name, metadata, selector};
use crate::pods;

const CONFIG_DIRECTORY: &str = "/etc/eventmesh";
const ADMIN_PORT: i32 = 8080;
/// Longer than the time in which a pod finishes what is under way.
const TERMINATION_GRACE: i64 = 30;

pub fn run(bridge: &ValidBridge, image: &str) -> Deployment {
    // A persistent session belongs to one client: two pods at once would take it from each other in turns.
    let strategy = if bridge.config.inbound.is_empty() { "RollingUpdate" } else { "Recreate" };
    Deployment {
        metadata: metadata(bridge),
        spec: Some(DeploymentSpec {
            replicas: Some(bridge.replicas),
            revision_history_limit: Some(3),
            strategy: Some(DeploymentStrategy { type_: Some(strategy.to_owned()), ..DeploymentStrategy::default() }),
            selector: LabelSelector { match_labels: Some(selector(&bridge.name)), ..LabelSelector::default() },
            template: template(bridge, image),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn template(bridge: &ValidBridge, image: &str) -> PodTemplateSpec {
    let user = &bridge.pod_template;
    let mut pod_labels = user.labels.clone().unwrap_or_default();
    pod_labels.extend(all_labels(bridge));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations: user.annotations.clone(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(child_name(&bridge.name)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(TERMINATION_GRACE),
            security_context: Some(pods::pod_security()),
            node_selector: user.node_selector.clone(),
            tolerations: user.tolerations.clone(),
            affinity: user.affinity.clone(),
            topology_spread_constraints: user.topology_spread_constraints.clone(),
            priority_class_name: user.priority_class_name.clone(),
            containers: vec![container(bridge, image)],
            volumes: Some(vec![Volume {
                name: "config".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(child_name(&bridge.name)),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            }]),
            ..PodSpec::default()
        }),
    }
}

fn container(bridge: &ValidBridge, image: &str) -> Container {
    Container {
        name: "bridge".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["run".to_owned(), "--config".to_owned(), format!("{CONFIG_DIRECTORY}/{CONFIG_FILE}")]),
        env: Some(vec![pods::name_variable()]),
        ports: Some(vec![ContainerPort {
            name: Some("admin".to_owned()),
            container_port: ADMIN_PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        resources: Some(bridge.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(pods::container_security()),
        volume_mounts: Some(vec![VolumeMount {
            name: "config".to_owned(),
            mount_path: CONFIG_DIRECTORY.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn default_resources() -> ResourceRequirements {
    ResourceRequirements { limits: Some(pods::amounts(&[("memory", "256Mi")])), ..pods::requests("50m", "32Mi") }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
