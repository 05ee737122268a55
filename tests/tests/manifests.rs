//! What users apply as it is: deploy/ and every folder of examples/, against a real API server.

use std::fs;

use anyhow::{Context, Result, ensure};
use eventmesh_tests::{
    RUNTIME,
    apiserver::{ADMIN, ApiServer, kubectl},
    objects::{Kube, OperatorLog},
    paths,
    pod_security::{self, Token},
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::Namespace,
        networking::v1::NetworkPolicy,
        rbac::v1::{ClusterRole, Role},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{Api, Client, ResourceExt, api::ListParams};

#[test]
fn deploy_and_examples_are_accepted_by_the_api_server() -> Result<()> {
    RUNTIME.block_on(async {
        let api = ApiServer::start(&paths::scratch("manifests")?).await?;
        let deploy = paths::repository().join("deploy").display().to_string();
        api.kubectl(&["apply", "-k", &deploy]).await?;
        // Kinds are known a moment after they are defined.
        api.kubectl(&["wait", "--for", "condition=Established", "crd", "--all", "--timeout", "120s"]).await?;

        for example in fs::read_dir(paths::repository().join("examples"))? {
            let example = example?.path();
            if example.is_dir() {
                let folder = example.display().to_string();
                api.kubectl(&["apply", "--validate=strict", "-k", &folder]).await.with_context(|| folder.clone())?;
                assert!(example.join("README.md").exists(), "{folder} has no README.md");
            }
        }

        let client = api.client(ADMIN).await?;
        no_rule_has_a_wildcard(&client).await?;
        every_namespace_is_restricted(&client).await?;
        every_program_of_an_example_is_closed(&client).await?;
        the_operator_is_closed(client, &api).await
    })
}

#[test]
fn a_sidecar_can_be_made_a_condition_of_a_pod() -> Result<()> {
    RUNTIME.block_on(async {
        let folder = paths::scratch("injection-required")?;
        // kustomize takes relative paths only.
        let deploy = folder.join("deploy");
        let mut copy = std::process::Command::new("cp");
        ensure!(copy.arg("-r").arg(paths::repository().join("deploy")).arg(&deploy).status()?.success(), "cp");
        let overlay = "{kind: Kustomization, resources: [deploy/webhook.yaml], components: [deploy/components/injection-required]}";
        fs::write(folder.join("kustomization.yaml"), overlay)?;
        let (none, cache, overlay) = (folder.join("none"), folder.join("cache"), folder.display().to_string());
        let made = kubectl(&none, &cache, &["kustomize", &overlay]).await?;
        assert_eq!((made.matches("failurePolicy: Fail").count(), made.matches("failurePolicy: Ignore").count()), (2, 0));
        Ok(())
    })
}

async fn no_rule_has_a_wildcard(client: &Client) -> Result<()> {
    let role = Api::<ClusterRole>::all(client.clone()).get("eventmesh-operator").await?;
    let lease_role = Api::<Role>::namespaced(client.clone(), "eventmesh-system").get("eventmesh-operator").await?;
    for rule in role.rules.into_iter().chain(lease_role.rules).flatten() {
        let words = rule.verbs.iter().chain(rule.resources.iter().flatten()).chain(rule.api_groups.iter().flatten());
        assert!(words.into_iter().all(|word| word != "*"), "a wildcard in {rule:?}");
        assert!(rule.non_resource_urls.is_none(), "{rule:?}");
    }
    Ok(())
}

/// Namespaces of deploy/ and of the examples; those that Kubernetes brings along are not ours.
async fn every_namespace_is_restricted(client: &Client) -> Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await?;
    let ours: Vec<_> = namespaces
        .iter()
        .filter(|found| {
            !matches!(found.name_any().as_str(), "default" | "kube-system" | "kube-public" | "kube-node-lease")
        })
        .collect();
    assert!(ours.len() > 2, "the examples make namespaces");
    for namespace in ours {
        let enforced = namespace.labels().get("pod-security.kubernetes.io/enforce");
        assert_eq!(enforced.map(String::as_str), Some("restricted"), "namespace {}", namespace.name_any());
    }
    Ok(())
}

/// Examples are copied.
async fn every_program_of_an_example_is_closed(client: &Client) -> Result<()> {
    let deployments = Api::<Deployment>::all(client.clone()).list(&ListParams::default()).await?;
    let sets = Api::<StatefulSet>::all(client.clone()).list(&ListParams::default()).await?;
    let deployments = deployments.into_iter().map(|one| (one.metadata, one.spec.map(|spec| spec.template)));
    let sets = sets.into_iter().map(|one| (one.metadata, one.spec.map(|spec| spec.template)));
    let mut seen = 0;
    for (metadata, template) in deployments.chain(sets) {
        if metadata.namespace.as_deref() == Some("eventmesh-system") {
            continue;
        }
        seen += 1;
        let spec = template.and_then(|template| template.spec).unwrap_or_default();
        let open = pod_security::problems(&spec, Token::None);
        ensure!(open.is_empty(), "{}: {open:#?}", metadata.name.unwrap_or_default());
    }
    ensure!(seen > 0, "the examples have programs");
    Ok(())
}

async fn the_operator_is_closed(client: Client, api: &ApiServer) -> Result<()> {
    let log = OperatorLog::File(api.kubeconfig(ADMIN)?);
    let kube = Kube { client, operator_log: log, patience: std::time::Duration::from_secs(10) };
    let namespace = kube.namespace("eventmesh-system");
    let template = namespace.get::<Deployment>("eventmesh-operator").await?.spec.context("a spec")?.template;
    let labels = template.metadata.clone().and_then(|metadata| metadata.labels).unwrap_or_default();
    let ports = template.spec.iter().flat_map(|spec| &spec.containers[0].ports).flatten();
    let ports: Vec<i32> = ports.map(|port| port.container_port).collect();
    pod_security::check(&namespace, template, Token::Mounted).await?;

    let policy = namespace.get::<NetworkPolicy>("eventmesh-operator").await?.spec.context("a spec")?;
    let wanted = policy.pod_selector.and_then(|selector| selector.match_labels).unwrap_or_default();
    ensure!(!wanted.is_empty() && wanted.iter().all(|(name, value)| labels.get(name) == Some(value)), "{wanted:?}");
    assert_eq!(policy.policy_types.unwrap_or_default(), ["Ingress", "Egress"]);
    let mut open = Vec::new();
    for rule in policy.ingress.unwrap_or_default() {
        let opened: Vec<_> = rule.ports.into_iter().flatten().filter_map(|port| port.port).collect();
        let is_webhook = opened == [IntOrString::Int(9443)];
        ensure!(
            is_webhook || rule.from.is_some_and(|from| !from.is_empty()),
            "the operator serves nothing to everybody but the webhook, whose callers no selector can name"
        );
        open.extend(opened);
    }
    assert_eq!(open, ports.into_iter().map(IntOrString::Int).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn each_right_of_the_operator_has_its_reason() -> Result<()> {
    let text = fs::read_to_string(paths::repository().join("deploy/rbac.yaml"))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut rules = 0;
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("- apiGroups:")) {
        rules += 1;
        assert!(lines[index - 1].starts_with("# "), "line {}: `{line}` has no comment above it", index + 1);
    }
    assert_eq!(rules, text.matches("apiGroups:").count(), "a rule is written in another form");
    Ok(())
}

#[test]
fn images_of_deploy_are_those_of_this_version() -> Result<()> {
    let deploy = paths::repository().join("deploy");
    let name = |image: &str| -> Result<String> {
        let output = std::process::Command::new(deploy.join("image"))
            .args(["name", image])
            .env_remove("IMAGE_REGISTRY")
            .output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let images = fs::read_to_string(deploy.join("kustomization.yaml"))?;
    for image in ["broker", "bridge"] {
        let name = name(image)?;
        assert!(images.contains(&format!("={name}\n")), "deploy/kustomization.yaml does not name {name}");
    }
    let operator = name("operator")?;
    assert!(fs::read_to_string(deploy.join("operator.yaml"))?.contains(&format!("image: {operator}\n")), "{operator}");
    Ok(())
}
