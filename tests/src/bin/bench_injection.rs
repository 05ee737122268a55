//! `make bench-injection`: 200 pods a second against the webhook alone, over connections that are kept alive as those of an
//! API server are. Each request is sent when it is due, whatever became of those before it: a webhook that is late is not helped by a
//! client that waits for it. Its time begins when it is sent, since the timer that says when is exact to no more than 1 ms.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use eventmesh_tests::{http::Sender, stack::Stack, wait};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::MissedTickBehavior};

const RATE: u32 = 200;
const SECONDS: u32 = 10;

#[tokio::main]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-injection: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench() -> Result<()> {
    let stack = Stack::without_mesh("bench-injection").await?;
    let namespace = stack.kube.make_namespace("injection").await?;
    namespace.apply("apiVersion: eventmesh.dev/v1alpha1\nkind: EventMesh\nmetadata: {name: m}\nspec: {brokers: {replicas: 1}}\n").await?;
    let system = stack.kube.namespace("eventmesh-system");
    let authority = system.secret("eventmesh-operator-webhook", "ca.crt").await?;
    let webhook = Sender::trusting(&format!("https://127.0.0.1:{}", stack.operator.webhook_port), &authority, None)?;
    let review = serde_json::to_vec(&review(&namespace.name))?;
    wait::eventually("an answer with a patch", Duration::from_secs(10), async || {
        ask(&webhook, &review).await.map(|(_, injected)| injected.then_some(())).map_err(|error| format!("{error:#}"))
    })
    .await?;

    let mut times = Vec::new();
    let mut asked = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..RATE * SECONDS {
        tick.tick().await;
        let (webhook, review) = (webhook.clone(), review.clone());
        asked.spawn(async move {
            let sent = Instant::now();
            let (answered, injected) = ask(&webhook, &review).await?;
            ensure!(injected, "an answer without a patch");
            Ok(answered.saturating_duration_since(sent))
        });
    }
    while let Some(time) = asked.join_next().await {
        times.push(time??);
    }
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 1000].as_secs_f64() * 1000.0;
    println!(
        "bench-injection: {} pods of {} bytes at {RATE} a second: p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms (aim: p99 below 5 ms)",
        times.len(),
        review.len(),
        at(500),
        at(990),
        at(1000)
    );
    Ok(())
}

/// When the answer was there, and whether it holds a patch.
async fn ask(webhook: &Sender, review: &[u8]) -> Result<(Instant, bool)> {
    let answer = webhook.post("/inject", &[("content-type", "application/json")], review).await?;
    let answered = Instant::now();
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
    let answer: Value = serde_json::from_str(&answer.body).context("no JSON")?;
    ensure!(answer["response"]["allowed"] == true, "{answer}");
    // Bytes: kube writes them as a list of numbers, which API servers read as they do base64.
    Ok((answered, !answer["response"]["patch"].is_null()))
}

/// What an API server sends for a pod of a Deployment as people write them.
fn review(namespace: &str) -> Value {
    let resources = json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}});
    let environment: Vec<Value> =
        (0..20).map(|index| json!({"name": format!("SETTING_{index}"), "value": "x".repeat(60)})).collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example/shop/{name}:1.2.3"), "imagePullPolicy": "IfNotPresent",
            "env": environment, "resources": resources, "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, "periodSeconds": 5},
            "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "ledger-5d4f8c7b9-", "namespace": namespace,
            "labels": {"app": "ledger", "pod-template-hash": "5d4f8c7b9", "eventmesh.dev/inject": "true"},
            "annotations": {"eventmesh.dev/mesh": "m"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "ledger-5d4f8c7b9", "uid": "u", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "ledger", "containers": [container("ledger"), container("proxy")],
            "initContainers": [container("migrate")],
            "volumes": [{"name": "kube-api-access-x", "emptyDir": {}}],
        },
    });
    let pods = json!({"group": "", "version": "v1", "resource": "pods"});
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "4b0e8a6e-0c3b-4d0c-9a53-0d6f0f8f7a11", "kind": kind, "resource": pods, "requestKind": kind,
            "requestResource": pods, "namespace": namespace, "operation": "CREATE", "dryRun": false,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": ["system:authenticated"]},
            "object": pod, "oldObject": null, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}
