//! The Deployment of a Bridge.
//!
//! The configuration is not part of the pod template: pods take a changed file up while they run.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
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

use super::{
    super::validate::ValidBridge,
    CONFIG_FILE, all_labels, child_name, metadata, selector,
    service::{self, Listens},
};
use crate::pods;

const CONFIG_DIRECTORY: &str = "/etc/eventmesh";
pub const ADMIN_PORT: i32 = 8080;
/// Longer than the time in which a pod finishes what is under way.
const TERMINATION_GRACE: i64 = 30;

pub fn run(bridge: &ValidBridge, listens: Option<Listens>, image: &str) -> Deployment {
    Deployment {
        metadata: metadata(bridge),
        spec: Some(DeploymentSpec {
            replicas: Some(bridge.replicas),
            revision_history_limit: Some(3),
            strategy: Some(strategy()),
            selector: LabelSelector { match_labels: Some(selector(&bridge.name)), ..LabelSelector::default() },
            template: template(bridge, listens, image),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// A new pod stands by, or works along, before an old one ends. Where one at a time carries events, the old one gives its
/// lease back, so the pause is that of a hand-over and not that of a pod's start.
fn strategy() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(1)),
            max_unavailable: Some(IntOrString::Int(0)),
        }),
    }
}

fn template(bridge: &ValidBridge, listens: Option<Listens>, image: &str) -> PodTemplateSpec {
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
            containers: vec![container(bridge, listens, image)],
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

fn container(bridge: &ValidBridge, listens: Option<Listens>, image: &str) -> Container {
    let admin = ContainerPort {
        name: Some("admin".to_owned()),
        container_port: ADMIN_PORT,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: "bridge".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["run".to_owned(), "--config".to_owned(), format!("{CONFIG_DIRECTORY}/{CONFIG_FILE}")]),
        env: Some(vec![pods::name_variable()]),
        ports: Some([admin].into_iter().chain(listens.map(service::container_port)).collect()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_is_there_before_an_old_one_ends() {
        let strategy = serde_json::to_value(strategy()).expect("serializable");
        let expected =
            serde_json::json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        assert_eq!(strategy, expected);
    }
}
