//! The orders.

use anyhow::Result;
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::trial::{Order, Trial};
use crate::{cluster::OPERATOR_NAMESPACE, paths::repository};

macro_rules! order {
    ($name:literal, $keeps:literal, $function:ident) => {
        Order { name: $name, keeps: $keeps, run: |trial| $function(trial).boxed_local() }
    };
}

pub const ORDERS: [Order; 5] = [
    order!("mesh first", true, mesh_first),
    order!("operator first", true, operator_first),
    order!("kinds first", true, kinds_first),
    order!("all at once", true, all_at_once),
    // Claims of volumes are objects of the namespace.
    order!("namespace first", false, namespace_first),
];

async fn mesh_first(trial: &Trial<'_>) -> Result<()> {
    trial.ns.delete_and_wait::<EventMesh>("m").await?;
    rest(trial).await?;
    trial.uninstall().await
}

async fn rest(trial: &Trial<'_>) -> Result<()> {
    trial.ns.delete_and_wait::<Bridge>("b").await?;
    trial.ns.delete_and_wait::<Subscription>("s").await?;
    trial.ns.delete_and_wait::<Topic>("t").await
}

/// What it has made works on without it, and comes back by itself.
async fn operator_first(trial: &Trial<'_>) -> Result<()> {
    trial.kubectl(&["delete", "namespace", OPERATOR_NAMESPACE, "--timeout=120s"]).await?;
    let before = trial.ns.get::<Pod>("m-broker-0").await?.uid();
    trial.ns.delete::<Pod>("m-broker-0").await?;
    trial.ns.until::<Pod, _>("m-broker-0", "another one", |pod| (pod.uid() != before).then_some(())).await?;
    trial.publish().await?;
    trial.ns.delete_and_wait::<EventMesh>("m").await?;
    rest(trial).await?;
    trial.uninstall().await
}

async fn kinds_first(trial: &Trial<'_>) -> Result<()> {
    let kinds = repository().join("crds/yaml").display().to_string();
    trial.kubectl(&["delete", "--kustomize", &kinds, "--timeout=120s"]).await?;
    trial.uninstall().await
}

async fn all_at_once(trial: &Trial<'_>) -> Result<()> {
    trial.uninstall().await
}

async fn namespace_first(trial: &Trial<'_>) -> Result<()> {
    trial.kubectl(&["delete", "namespace", &trial.ns.name, "--timeout=120s"]).await?;
    trial.uninstall().await
}
