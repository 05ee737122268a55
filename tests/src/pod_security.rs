//! Whether a pod is as closed as every pod of this project has to be.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, PodTemplateSpec};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use crate::objects::Namespace;

/// Whether the pods hold a token of their ServiceAccount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Only the operator talks to the API server.
    Mounted,
    None,
}

/// Fails unless the pods of a template are closed, and unless the namespace takes them and would not take open ones.
pub async fn check(namespace: &Namespace, template: PodTemplateSpec, token: Token) -> Result<()> {
    let spec = template.spec.clone().unwrap_or_default();
    let found = problems(&spec, token);
    ensure!(found.is_empty(), "{found:#?}");

    let mut pod = Pod {
        metadata: ObjectMeta { name: Some("closed".to_owned()), ..template.metadata.unwrap_or_default() },
        spec: Some(spec),
        ..Pod::default()
    };
    let pods: Api<Pod> = namespace.api();
    let dry = PostParams { dry_run: true, field_manager: None };
    pods.create(&dry, &pod).await?;
    if let Some(spec) = &mut pod.spec {
        spec.security_context = Some(PodSecurityContext::default());
    }
    let refused = pods.create(&dry, &pod).await.map_or_else(|error| error.to_string(), |_| String::new());
    ensure!(refused.contains("violates PodSecurity"), "the namespace takes a pod that may be root: {refused}");
    Ok(())
}

/// What is open about a pod. Pod Security `restricted` asks for less: it lets the root file system be writable and the
/// token be mounted.
#[must_use]
pub fn problems(spec: &PodSpec, token: Token) -> Vec<String> {
    let mut found = Vec::new();
    if (spec.automount_service_account_token == Some(false)) != (token == Token::None) {
        found.push(format!("automountServiceAccountToken: {:?}", spec.automount_service_account_token));
    }
    for (field, value) in [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)] {
        if value == Some(true) {
            found.push(format!("{field}: true"));
        }
    }
    let pod = spec.security_context.clone().unwrap_or_default();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        found.extend(container_problems(container, &pod).map(|problem| format!("{}: {problem}", container.name)));
    }
    found
}

fn container_problems(container: &Container, pod: &PodSecurityContext) -> impl Iterator<Item = &'static str> {
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let seccomp = own.seccomp_profile.or_else(|| pod.seccomp_profile.clone()).map(|profile| profile.type_);
    let user = own.run_as_user.or(pod.run_as_user);
    [
        (own.run_as_non_root.or(pod.run_as_non_root) == Some(true), "runAsNonRoot is not true"),
        (user.is_some_and(|user| user > 0), "runAsUser does not name a user"),
        (seccomp.as_deref() == Some("RuntimeDefault"), "seccompProfile is not RuntimeDefault"),
        (own.allow_privilege_escalation == Some(false), "allowPrivilegeEscalation is not false"),
        (own.privileged != Some(true), "privileged"),
        (own.read_only_root_filesystem == Some(true), "readOnlyRootFilesystem is not true"),
        (capabilities.drop.as_deref() == Some(&["ALL".to_owned()]), "capabilities.drop is not ALL"),
        (capabilities.add.is_none_or(|added| added.is_empty()), "capabilities are added"),
        (container.ports.iter().flatten().all(|port| port.host_port.is_none()), "a port of the host"),
    ]
    .into_iter()
    .filter_map(|(holds, problem)| (!holds).then_some(problem))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn closed() -> Value {
        json!({
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "c",
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                },
            }],
        })
    }

    fn found(spec: Value) -> Vec<String> {
        problems(&serde_json::from_value(spec).unwrap(), Token::None)
    }

    #[test]
    fn each_opening_is_found() {
        assert_eq!(found(closed()), Vec::<String>::new());
        let openings = [
            ("/automountServiceAccountToken", json!(null)),
            ("/hostNetwork", json!(true)),
            ("/securityContext/runAsNonRoot", json!(null)),
            ("/securityContext/runAsUser", json!(0)),
            ("/securityContext/seccompProfile/type", json!("Unconfined")),
            ("/containers/0/securityContext/allowPrivilegeEscalation", json!(null)),
            ("/containers/0/securityContext/privileged", json!(true)),
            ("/containers/0/securityContext/readOnlyRootFilesystem", json!(null)),
            ("/containers/0/securityContext/capabilities", json!({"drop": ["NET_RAW"]})),
            ("/containers/0/securityContext/capabilities/add", json!(["NET_ADMIN"])),
            ("/containers/0/ports", json!([{"containerPort": 1, "hostPort": 1}])),
        ];
        for (path, value) in openings {
            let mut spec = closed();
            let (parent, field) = path.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[field] = value;
            assert_eq!(found(spec).len(), 1, "{path}");
        }
    }
}
