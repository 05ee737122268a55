//! The operations.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eventmesh_crds::EventMesh;
use futures::{FutureExt, future::LocalBoxFuture};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{Node, PersistentVolumeClaim, Pod},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::trial::{MESH, Operation, Trial};
use crate::{cluster::OPERATOR_NAMESPACE, objects::is_ready, paths::repository, wait::eventually};

const SET: &str = "m-broker";
/// How long a node that was lost stays away.
const AWAY: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_mins(3);
/// Brokers let nobody in for five minutes whom they have taken out.
const LET_IN: Duration = Duration::from_mins(10);

macro_rules! operation {
    ($name:literal, $function:ident) => {{
        fn run<'a>(trial: &'a Trial<'a>) -> LocalBoxFuture<'a, Result<()>> {
            $function(trial).boxed_local()
        }
        Operation { name: $name, run }
    }};
}

/// In the order in which they are done.
pub const OPERATIONS: [Operation; 13] = [
    operation!("roll", roll),
    operation!("reload", reload),
    operation!("version down and up", versions),
    operation!("scale 3 to 5", more),
    operation!("scale 5 to 3", fewer),
    operation!("storage growth", growth),
    operation!("eviction", eviction),
    operation!("broker killed", broker_killed),
    operation!("node drain", drain),
    operation!("node lost", node_lost),
    operation!("volume lost", volume_lost),
    operation!("operator upgrade", upgrade),
    operation!("operator killed", operator_killed),
];

/// Each broker is restarted, one after the other.
async fn roll(trial: &Trial<'_>) -> Result<()> {
    let before = trial.brokers().await?;
    trial.change(json!({"brokers": {"podTemplate": {"labels": {"team": "blue"}}}})).await?;
    let after = trial.brokers().await?;
    ensure!(before.iter().all(|(name, (uid, _))| after.get(name).is_some_and(|(now, _)| now != uid)));
    Ok(())
}

/// To the line before, and up again.
async fn versions(trial: &Trial<'_>) -> Result<()> {
    let file = repository().join(".build/images/broker-before.name");
    let image =
        std::fs::read_to_string(&file).with_context(|| format!("{}: run `make broker-before`", file.display()))?;
    let running = |mesh: &EventMesh| mesh.status.as_ref()?.broker_version.clone();
    let before = running(&trial.ns.get::<EventMesh>(MESH).await?).context("a version")?;
    for (image, same) in [(Some(image.trim()), false), (None, true)] {
        trial.change(json!({"brokers": {"image": image}})).await?;
        let wanted = |mesh: &EventMesh| ((running(mesh)? == before) == same).then_some(());
        trial.ns.until::<EventMesh, _>(MESH, "the other version", wanted).await?;
    }
    Ok(())
}

/// Brokers take it up while they run.
async fn reload(trial: &Trial<'_>) -> Result<()> {
    let before = trial.brokers().await?;
    trial.change(json!({"brokers": {"settings": {"maxConnections": 4096}}})).await?;
    ensure!(before == trial.brokers().await?, "no broker is restarted");
    Ok(())
}

async fn more(trial: &Trial<'_>) -> Result<()> {
    trial.change(json!({"brokers": {"replicas": 5}})).await?;
    ensure!(trial.brokers().await?.len() == 5);
    Ok(())
}

async fn fewer(trial: &Trial<'_>) -> Result<()> {
    trial.change(json!({"brokers": {"replicas": 3}})).await?;
    eventually("three brokers", PATIENCE, async || {
        let brokers = trial.brokers().await.map_err(|error| format!("{error:#}"))?;
        Ok((brokers.len() == 3).then_some(()))
    })
    .await
}

/// Nothing on these clusters makes volumes larger: the trial says that it has been done.
async fn growth(trial: &Trial<'_>) -> Result<()> {
    let before = trial.brokers().await?;
    trial.ns.patch::<EventMesh>(MESH, json!({"spec": {"brokers": {"storage": {"size": "3Gi"}}}})).await?;
    trial.ns.condition::<EventMesh>(MESH, "Programmed", "Unknown", "VolumesGrowing").await?;
    let claims = trial.ns.api::<PersistentVolumeClaim>();
    for claim in claims.list(&ListParams::default()).await? {
        let grown = json!({"status": {"capacity": {"storage": "3Gi"}}});
        claims.patch_status(&claim.name_any(), &PatchParams::default(), &Patch::Merge(&grown)).await?;
    }
    trial.ns.ready::<EventMesh>(MESH).await?;
    ensure!(before == trial.brokers().await?, "no broker is restarted");
    Ok(())
}

async fn eviction(trial: &Trial<'_>) -> Result<()> {
    let name = format!("{SET}-1");
    let uid = trial.ns.get::<Pod>(&name).await?.uid();
    trial.ns.api::<Pod>().evict(&name, &EvictParams::default()).await?;
    back(trial, &name, uid).await
}

async fn broker_killed(trial: &Trial<'_>) -> Result<()> {
    let name = format!("{SET}-0");
    let uid = trial.ns.get::<Pod>(&name).await?.uid();
    trial.cluster.kill_pod(trial.ns, &name).await?;
    back(trial, &name, uid).await
}

/// The pod has a successor, and everything is Ready.
async fn back(trial: &Trial<'_>, name: &str, before: Option<String>) -> Result<()> {
    trial.ns.until::<Pod, _>(name, "another one", |pod| (pod.uid() != before).then_some(())).await?;
    ready_again(trial).await
}

/// Waits for the pods first: the operator sees a moment later that one was gone.
async fn ready_again(trial: &Trial<'_>) -> Result<()> {
    let all = |set: &StatefulSet| {
        let status = set.status.as_ref()?;
        (status.ready_replicas.unwrap_or(0) == set.spec.as_ref()?.replicas?).then_some(())
    };
    trial.ns.until::<StatefulSet, _>(SET, "ready", all).await?;
    trial.ns.ready::<EventMesh>(MESH).await.map(drop)
}

/// All nodes, one after the other, as a person would do it.
async fn drain(trial: &Trial<'_>) -> Result<()> {
    let nodes = Api::<Node>::all(trial.ns.kube.client.clone()).list(&ListParams::default()).await?;
    for node in nodes.iter().map(ResourceExt::name_any) {
        let drain =
            ["drain", node.as_str(), "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s"];
        let drained = trial.cluster.kubectl(&drain).await;
        trial.cluster.kubectl(&["uncordon", &node]).await?;
        drained.with_context(|| format!("drain of {node}"))?;
        ready_again(trial).await?;
    }
    Ok(())
}

/// Its cable is pulled: nobody says goodbye.
async fn node_lost(trial: &Trial<'_>) -> Result<()> {
    let pod = trial.ns.get::<Pod>(&format!("{SET}-2")).await?;
    let node = pod.spec.and_then(|spec| spec.node_name).context("a node")?;
    trial.cluster.fault(&["cut", &node]).await?;
    tokio::time::sleep(AWAY).await;
    trial.cluster.fault(&["heal", &node]).await?;
    ready_again(trial).await
}

/// A disk has failed: a person gives claim and pod up.
async fn volume_lost(trial: &Trial<'_>) -> Result<()> {
    let (name, claim) = (format!("{SET}-2"), format!("data-{SET}-2"));
    let uids = async || -> Result<_> {
        Ok((trial.ns.get::<Pod>(&name).await?.uid(), trial.ns.get::<PersistentVolumeClaim>(&claim).await?.uid()))
    };
    let before = uids().await?;
    trial.ns.api::<PersistentVolumeClaim>().delete(&claim, &DeleteParams::default()).await?;
    trial.ns.api::<Pod>().delete(&name, &DeleteParams::default()).await?;
    trial.ns.until::<Pod, _>(&name, "another one", |pod| (pod.uid() != before.0).then_some(())).await?;
    trial.ns.condition::<EventMesh>(MESH, "Programmed", "Unknown", "ReplacingBroker").await?;
    eventually("the broker is back, with its copies", LET_IN, async || {
        let mesh = trial.ns.get::<EventMesh>(MESH).await.map_err(|error| format!("{error:#}"))?;
        if is_ready(&mesh) { Ok(Some(())) } else { Err(format!("{:#?}", mesh.status.map(|status| status.conditions))) }
    })
    .await?;
    let after = uids().await?;
    ensure!(before.1 != after.1, "the volume is another one");
    let spares_one = |budget: &PodDisruptionBudget| {
        (budget.spec.as_ref()?.max_unavailable == Some(IntOrString::Int(1))).then_some(())
    };
    trial.ns.until::<PodDisruptionBudget, _>(SET, "that spares a broker again", spares_one).await
}

/// Another version of the operator over a mesh that runs changes nothing of it.
async fn upgrade(trial: &Trial<'_>) -> Result<()> {
    let before = (trial.brokers().await?, trial.ns.get::<StatefulSet>(SET).await?.metadata.generation);
    let name = "eventmesh-operator";
    let operators = trial.ns.kube.namespace(OPERATOR_NAMESPACE);
    let version = json!({"spec": {"template": {"metadata": {"annotations": {"trial": trial.ns.name}}}}});
    let generation = operators.patch::<Deployment>(name, version).await?.metadata.generation;
    let replaced = |deployment: &Deployment| {
        let (spec, status) = (deployment.spec.as_ref()?, deployment.status.as_ref()?);
        let all = spec.replicas;
        let done = status.observed_generation >= generation
            && status.updated_replicas == all
            && status.ready_replicas == all
            && status.replicas == all;
        done.then_some(())
    };
    operators.until::<Deployment, _>(name, "replaced", replaced).await?;
    // It works: a change reaches the brokers.
    trial.change(json!({"brokers": {"settings": {"maxConnections": 4097}}})).await?;
    ensure!(before == (trial.brokers().await?, trial.ns.get::<StatefulSet>(SET).await?.metadata.generation));
    Ok(())
}

/// In the middle of a roll.
async fn operator_killed(trial: &Trial<'_>) -> Result<()> {
    let before = trial.brokers().await?;
    trial
        .ns
        .patch::<EventMesh>(MESH, json!({"spec": {"brokers": {"podTemplate": {"labels": {"team": "red"}}}}}))
        .await?;
    eventually("the first restart", PATIENCE, async || {
        let now = trial.brokers().await.map_err(|error| format!("{error:#}"))?;
        Ok((now != before).then_some(()))
    })
    .await?;
    trial.cluster.kill_operators().await?;
    trial.ns.ready::<EventMesh>(MESH).await?;
    let after = trial.brokers().await?;
    ensure!(before.iter().all(|(name, (uid, _))| after.get(name).is_some_and(|(now, _)| now != uid)));
    Ok(())
}
