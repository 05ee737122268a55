//! One mesh under load, and the operations that are done to it one after the other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{EventMesh, Topic};
use k8s_openapi::api::core::v1::{Namespace as CoreNamespace, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use super::load::{self, Account, Load};
use crate::{broker::Broker, cluster::Cluster, objects::Namespace};

/// The mesh of a trial.
pub const MESH: &str = "m";
const TOPIC: &str = "events";
/// Events a second.
const RATE: u64 = 2_000;
/// Events that are acknowledged before an operation begins, and after it.
const AROUND: usize = 4_000;
const PATIENCE: Duration = Duration::from_mins(2);

/// What is done to the mesh, and returns when everything is Ready again.
pub struct Operation {
    pub name: &'static str,
    pub run: for<'a> fn(&'a Trial<'a>) -> futures::future::LocalBoxFuture<'a, Result<()>>,
}

pub struct Trial<'a> {
    pub cluster: &'a Cluster,
    pub ns: &'a Namespace,
    load: Load,
}

/// What an operation has done.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub account: Account,
    /// Brokers that were restarted, and why.
    pub restarts: Vec<String>,
    pub time: Duration,
    /// Why it came to no end.
    pub failure: Option<String>,
}

impl<'a> Trial<'a> {
    /// A mesh of three brokers whose volumes can grow, a Topic with three copies, and its publisher.
    pub async fn start(cluster: &'a Cluster, ns: &'a Namespace) -> Result<Self> {
        let namespaces = Api::<CoreNamespace>::all(ns.kube.client.clone());
        let uid = namespaces.get(&ns.name).await?.uid().unwrap_or_default();
        ns.apply(&objects(&ns.name, &uid)).await?;
        ns.ready::<EventMesh>(MESH).await?;
        ns.ready::<Topic>(TOPIC).await?;
        let broker: Broker = cluster.broker_with(ns, MESH, load::options).await?;
        let load = Load::start(&broker, "events.x", &eventmesh_wire::names::stream(&ns.name, TOPIC), RATE);
        Ok(Self { cluster, ns, load })
    }

    pub async fn row(&self, operation: &Operation) -> Result<Row> {
        let (begun, mark, before) = (Instant::now(), self.load.mark().await?, self.brokers().await?);
        self.acknowledged(AROUND).await?;
        let done = (operation.run)(self).await;
        let enough = self.load.acknowledged() + AROUND;
        self.acknowledged(enough).await?;
        let time = begun.elapsed();
        let account = self.load.account(&mark).await?;
        Ok(Row {
            name: operation.name,
            account,
            restarts: self.restarts(&before).await?,
            time,
            failure: done.err().map(|error| format!("{error:#}")),
        })
    }

    async fn acknowledged(&self, events: usize) -> Result<()> {
        let reached = crate::wait::eventually("events enough", PATIENCE, async || {
            let so_far = self.load.acknowledged();
            if so_far >= events { Ok(Some(())) } else { Err(format!("{so_far} of {events}")) }
        });
        reached.await
    }

    /// Changes the spec of the mesh and waits until it is Ready.
    pub async fn change(&self, spec: serde_json::Value) -> Result<EventMesh> {
        self.ns.patch::<EventMesh>(MESH, json!({ "spec": spec })).await?;
        self.ns.ready::<EventMesh>(MESH).await
    }

    /// Pods of the brokers by name: uid, and how often the container was restarted.
    pub async fn brokers(&self) -> Result<BTreeMap<String, (String, i32)>> {
        let labels = format!("app.kubernetes.io/instance={MESH},app.kubernetes.io/component=broker");
        let pods = self.ns.api::<Pod>().list(&ListParams::default().labels(&labels)).await?;
        let pod = |pod: &Pod| {
            let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let restarts = containers.map(|container| container.restart_count).sum();
            (pod.name_any(), (pod.uid().unwrap_or_default(), restarts))
        };
        Ok(pods.iter().map(pod).collect())
    }

    async fn restarts(&self, before: &BTreeMap<String, (String, i32)>) -> Result<Vec<String>> {
        let told = self.ns.get::<EventMesh>(MESH).await?.status.and_then(|status| status.restarts).unwrap_or_default();
        let after = self.brokers().await?;
        let restarted = before.iter().filter_map(|(name, (uid, count))| {
            let reason = told.iter().find(|restart| restart.pod_uid == *uid).map(|restart| restart.reason.as_str());
            match after.get(name) {
                None => Some(format!("{name} gone")),
                Some((now, _)) if now != uid => Some(format!("{name} {}", reason.unwrap_or("replaced"))),
                Some((_, now)) if now > count => Some(format!("{name} process")),
                Some(_) => None,
            }
        });
        let came = after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{name} new"));
        Ok(restarted.chain(came).collect())
    }
}

/// The objects of a trial. Its StorageClass lets volumes grow, as that of a cluster on real disks; it belongs to the whole
/// cluster and goes with the namespace.
fn objects(name: &str, uid: &str) -> String {
    let class = format!("{name}-grows");
    format!(
        "{{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {{name: {class}, ownerReferences: [\n\
         {{apiVersion: v1, kind: Namespace, name: {name}, uid: {uid}}}]}}, provisioner: rancher.io/local-path,\n\
         volumeBindingMode: WaitForFirstConsumer, allowVolumeExpansion: true}}\n---\n\
         {{apiVersion: eventmesh.dev/v1alpha1, kind: EventMesh, metadata: {{name: {MESH}, namespace: {name}}}, spec: {{brokers: {{\n\
         storage: {{size: 2Gi, className: {class}, whenDeleted: Delete}}, resources: {{requests: {{cpu: 10m}}}}}}}}}}\n---\n\
         {{apiVersion: eventmesh.dev/v1alpha1, kind: Topic, metadata: {{name: {TOPIC}, namespace: {name}}}, spec: {{mesh: {{name: {MESH}}}}}}}\n"
    )
}

#[must_use]
pub fn head() -> String {
    format!(
        "{:<18}{:>13}{:>10}{:>6}{:>12}{:>8}{:>6}  restarts",
        "operation", "acknowledged", "a second", "lost", "duplicated", "gap s", "s"
    )
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Account { acknowledged, lost, duplicated, gap } = self.account;
        let restarts = if self.restarts.is_empty() { "none".to_owned() } else { self.restarts.join(", ") };
        write!(
            f,
            "{:<18}{acknowledged:>13}{:>10}{lost:>6}{duplicated:>12}{:>8.2}{:>6.0}  {restarts}",
            self.name,
            acknowledged as u64 / self.time.as_secs().max(1),
            gap.as_secs_f64(),
            self.time.as_secs_f64()
        )?;
        self.failure.as_ref().map_or(Ok(()), |failure| write!(f, "\n  FAILED: {failure}"))
    }
}

/// The last line.
///
/// # Errors
/// When an operation came to no end, or an event was lost or stored twice.
pub fn judge(rows: &[Row]) -> Result<String> {
    let sum = |figure: fn(&Account) -> usize| rows.iter().map(|row| figure(&row.account)).sum::<usize>();
    let lost = sum(|account| account.lost);
    let gap = rows.iter().map(|row| row.account.gap).max().context("no operation is called so")?;
    let done = rows.iter().filter(|row| row.failure.is_none()).count();
    let line = format!("operations: {done} done, lost {lost}, longest gap {:.1} s", gap.as_secs_f64());
    ensure!(done == rows.len(), "{line}; {} came to no end", rows.len() - done);
    ensure!(lost == 0 && sum(|account| account.duplicated) == 0, "{line}; events were lost or stored twice");
    Ok(line)
}
