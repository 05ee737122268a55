//! What users apply as it is: deploy/ and every folder of examples/, against a real API server.

use std::fs;

use anyhow::{Context, Result};
use eventmesh_tests::{
    RUNTIME,
    apiserver::{ADMIN, ApiServer},
    paths,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::Api;

#[test]
fn deploy_and_examples_are_accepted_by_the_api_server() -> Result<()> {
    RUNTIME.block_on(async {
        let api = ApiServer::start(&paths::scratch("manifests")?).await?;
        let deploy = paths::repository().join("deploy").display().to_string();
        api.kubectl(&["apply", "-k", &deploy]).await?;

        for example in fs::read_dir(paths::repository().join("examples"))? {
            let example = example?.path();
            if example.is_dir() {
                let folder = example.display().to_string();
                api.kubectl(&["apply", "--validate=strict", "-k", &folder]).await.with_context(|| folder.clone())?;
                assert!(example.join("README.md").exists(), "{folder} has no README.md");
            }
        }

        let client = api.client(ADMIN).await?;
        let role = Api::<ClusterRole>::all(client.clone()).get("eventmesh-operator").await?;
        let lease_role = Api::<Role>::namespaced(client, "eventmesh-system").get("eventmesh-operator").await?;
        for rule in role.rules.into_iter().chain(lease_role.rules).flatten() {
            let words =
                rule.verbs.iter().chain(rule.resources.iter().flatten()).chain(rule.api_groups.iter().flatten());
            assert!(words.into_iter().all(|word| word != "*"), "a wildcard in {rule:?}");
        }
        Ok(())
    })
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
