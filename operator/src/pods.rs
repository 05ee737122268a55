//! What all pods of the operator's making share: the Pod Security standard `restricted`, and small helpers.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, EnvVar, EnvVarSource, ObjectFieldSelector, PodSecurityContext, ResourceRequirements,
        SeccompProfile, SecurityContext,
    },
    apimachinery::pkg::api::resource::Quantity,
};

/// User and group of every container.
const USER: i64 = 65532;

#[must_use]
pub fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

#[must_use]
pub fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        ..SecurityContext::default()
    }
}

/// `POD_NAME`: who a container is, for its own name at the brokers and in reports.
#[must_use]
pub fn name_variable() -> EnvVar {
    let field = ObjectFieldSelector { field_path: "metadata.name".to_owned(), ..ObjectFieldSelector::default() };
    EnvVar {
        name: "POD_NAME".to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

/// Requests without limits.
#[must_use]
pub fn requests(cpu: &str, memory: &str) -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(amounts(&[("cpu", cpu), ("memory", memory)])),
        ..ResourceRequirements::default()
    }
}

#[must_use]
pub fn amounts(entries: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    entries.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}
