//! The seed of it all, examples/accounts: programs that know no mesh, in three languages, with a sidecar beside each.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventmesh_crds::Bridge;
use eventmesh_tests::accounts::{APPS, Story};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::{Test, shared};

const ACCOUNTS: u32 = 150;
const PAUSE: Duration = Duration::from_millis(100);

#[test]
fn accounts_are_opened_and_everybody_hears_of_them_through_sidecars() -> Result<()> {
    shared("accounts", async |test| {
        let story = Story::begin(test.cluster, |text| println!("accounts: {text}")).await?;
        for app in APPS {
            every_pod_has_a_sidecar(&story, app).await?;
        }
        nobody_else_gets_one(test, &story).await?;
        let outcome = story.tell(ACCOUNTS, PAUSE).await?;
        ensure!(outcome.opened == ACCOUNTS as usize && outcome.lost() == 0, "{outcome}");
        a_job_opens_an_account_and_ends(&story).await?;
        story.end().await
    })
}

/// The native kind: an init container that goes on running.
fn sidecars(pod: &Pod) -> Vec<&Container> {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.filter(|container| container.restart_policy.as_deref() == Some("Always")).collect()
}

async fn every_pod_has_a_sidecar(story: &Story, app: &str) -> Result<()> {
    let label = format!("app.kubernetes.io/name={app}");
    let pods = story.bank.api::<Pod>().list(&ListParams::default().labels(&label)).await?;
    ensure!(!pods.items.is_empty(), "{app} has no pod");
    for pod in &pods {
        ensure!(sidecars(pod).len() == 1, "{}: {:?}", pod.name_any(), pod.spec);
        let spec = pod.spec.as_ref().context("a spec")?;
        ensure!(spec.containers.len() == 1, "{}: the application's containers are not touched", pod.name_any());
        let status = pod.status.as_ref().context("a status")?;
        let running = status.init_container_statuses.iter().flatten().all(|one| one.started == Some(true));
        ensure!(running, "{}: {:?}", pod.name_any(), status.init_container_statuses);
    }
    Ok(())
}

/// The pod of the Bridge, the same pod in a namespace without the label, and in the bank with the label that says no.
async fn nobody_else_gets_one(test: &Test<'_>, story: &Story) -> Result<()> {
    let bridge: Bridge = story.bank.get("crm").await?;
    let selector = bridge.status.and_then(|status| status.selector).context("status.selector")?;
    for pod in story.bank.api::<Pod>().list(&ListParams::default().labels(&selector)).await? {
        ensure!(sidecars(&pod).is_empty(), "a pod of a Bridge has a sidecar: {:?}", pod.spec);
    }
    let dry = PostParams { dry_run: true, field_manager: None };
    let made = async |namespace: &eventmesh_tests::objects::Namespace, labels: Value| -> Result<Pod> {
        let pod = json!({"metadata": {"name": "plain", "labels": labels}, "spec": pod_spec("default", "import nats")});
        Ok(namespace.api::<Pod>().create(&dry, &serde_json::from_value(pod)?).await?)
    };
    let here = made(test.ns, json!({})).await?;
    ensure!(here.spec.as_ref().is_some_and(|spec| spec.init_containers.is_none()), "{:?}", here.spec);
    let out = made(&story.bank, json!({"eventmesh.dev/inject": "false"})).await?;
    ensure!(sidecars(&out).is_empty(), "{:?}", out.spec);
    Ok(())
}

/// A program that ends is not kept by its sidecar, and the sidecar is there before it begins.
async fn a_job_opens_an_account_and_ends(story: &Story) -> Result<()> {
    const PROGRAM: &str = r#"
import asyncio, nats
async def main():
    mesh = await nats.connect("nats://localhost:4222")
    event = b'{"id": "from-a-job", "owner": "ada", "deposit": 1, "credit": 0}'
    print(await mesh.jetstream().publish("accounts.opened", event, headers={"Nats-Msg-Id": "from-a-job"}))
    await mesh.close()
asyncio.run(main())
"#;
    let mut template = pod_spec("accounts-api", PROGRAM);
    template["containers"][0]["image"] = image(story).await?.into();
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "import"},
        "spec": {"backoffLimit": 0, "template": {"spec": template}},
    });
    story.bank.apply(&job.to_string()).await?;
    let ended = |job: &Job| {
        let status = job.status.as_ref()?;
        (status.succeeded == Some(1) || status.failed.is_some_and(|failed| failed > 0)).then(|| status.clone())
    };
    let status = story.bank.until("import", "a Job that has ended", ended).await?;
    let pods = story.bank.api::<Pod>().list(&ListParams::default().labels("job-name=import")).await?;
    let pod = pods.items.first().context("the Job has no pod")?;
    ensure!(status.succeeded == Some(1), "{}", story.bank.show().await);
    ensure!(sidecars(pod).len() == 1, "{:?}", pod.spec);
    story.everybody_sees("from-a-job").await
}

/// The image of the ledger: a Python with the NATS client.
async fn image(story: &Story) -> Result<String> {
    let pod: Pod = story.bank.get("ledger-0").await?;
    pod.spec.and_then(|spec| spec.containers.into_iter().next()?.image).context("an image")
}

/// As closed as Pod Security `restricted` asks for.
fn pod_spec(service_account: &str, program: &str) -> Value {
    json!({
        "serviceAccountName": service_account,
        "automountServiceAccountToken": false,
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "program",
            "image": "localhost/event-mesh/ledger:0.1.0",
            "command": ["/python/bin/python3", "-c", program],
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
        }],
    })
}
