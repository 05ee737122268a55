//! A mesh with all kinds of objects, which is taken away and made anew.

use std::{
    fmt,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use futures::future::LocalBoxFuture;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{Api, api::ListParams};

use crate::{
    cluster::Cluster,
    objects::{Namespace, object},
    paths::repository,
    wait::eventually,
};

/// Events that are published at a time.
const EVENTS: u64 = 100;
const PATIENCE: Duration = Duration::from_mins(2);
const OURS: &str = "app.kubernetes.io/managed-by=eventmesh-operator";

/// How everything is taken off the cluster.
pub struct Order {
    pub name: &'static str,
    /// Whether events outlive it.
    pub keeps: bool,
    pub run: for<'a, 'b> fn(&'a Trial<'b>) -> LocalBoxFuture<'a, Result<()>>,
}

impl Order {
    /// What its namespace is called after.
    #[must_use]
    pub fn namespace(&self) -> String {
        self.name.replace(' ', "-")
    }
}

pub struct Trial<'a> {
    pub cluster: &'a Cluster,
    pub ns: &'a Namespace,
    published: AtomicU64,
}

/// What an order has done.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub keeps: bool,
    /// Events that were acknowledged, and that were there at the end.
    pub published: u64,
    pub found: u64,
    /// Until nothing was left, and until everything was Ready again.
    pub gone: Duration,
    pub back: Duration,
}

impl<'a> Trial<'a> {
    #[must_use]
    pub fn new(cluster: &'a Cluster, ns: &'a Namespace) -> Self {
        Self { cluster, ns, published: AtomicU64::new(0) }
    }

    pub async fn row(&self, order: &Order) -> Result<Row> {
        install(&[]).await?;
        self.apply().await?;
        self.publish().await?;
        let begun = Instant::now();
        (order.run)(self).await?;
        self.nothing_is_left(order.keeps).await?;
        let gone = begun.elapsed();
        let published = self.published.load(Ordering::Relaxed);
        let begun = Instant::now();
        if !order.keeps {
            self.ns.kube.make_namespace(&order.namespace()).await?;
        }
        install(&[]).await?;
        self.apply().await?;
        let broker = self.cluster.broker(self.ns, "m").await?;
        let stream = eventmesh_wire::names::stream(&self.ns.name, "t");
        let info = broker.stream(&stream).await?.context("no stream")?;
        let found = info["state"]["messages"].as_u64().context("a number")?;
        let place = format!("sub_{}_s", self.ns.name);
        let consumer = broker.consumer(&stream, &place).await?.context("no place")?;
        ensure!(consumer["num_pending"] == found, "its place leads to other events: {consumer}");
        Ok(Row { name: order.name, keeps: order.keeps, published, found, gone, back: begun.elapsed() })
    }

    async fn apply(&self) -> Result<()> {
        let ns = self.ns;
        ns.apply(&object("EventMesh", "m", "  brokers: {replicas: 1, storage: {size: 1Gi}}")).await?;
        ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
        ns.apply(&object("Subscription", "s", "  topic: {name: t}\n  startFrom: {position: All}")).await?;
        let endpoint = format!("{{mqtt: {{url: 'mqtt://{}:1883'}}}}", self.cluster.site_host());
        let route = "{name: o, from: {topic: t}, to: uninstall}";
        ns.apply(&object(
            "Bridge",
            "b",
            &format!("  mesh: {{name: m}}\n  endpoint: {endpoint}\n  outbound: [{route}]"),
        ))
        .await?;
        ns.ready::<EventMesh>("m").await?;
        ns.ready::<Topic>("t").await?;
        ns.ready::<Subscription>("s").await?;
        ns.ready::<Bridge>("b").await.map(drop)
    }

    pub async fn publish(&self) -> Result<()> {
        let broker = self.cluster.broker(self.ns, "m").await?;
        for _ in 0..EVENTS {
            broker.publish("t.a", "event").await?;
            self.published.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub async fn kubectl(&self, args: &[&str]) -> Result<()> {
        self.cluster.kubectl(args).await.map(drop)
    }

    /// All that is left of it, at one moment.
    pub async fn uninstall(&self) -> Result<()> {
        install(&["uninstall"]).await
    }

    /// But claims of volumes, where events are kept.
    async fn nothing_is_left(&self, keeps: bool) -> Result<()> {
        eventually("end of it", PATIENCE, async || {
            let mut left = self.names::<Pod>().await?;
            left.extend(self.names::<StatefulSet>().await?);
            left.extend(self.names::<Deployment>().await?);
            if left.is_empty() { Ok(Some(())) } else { Err(format!("{left:?}")) }
        })
        .await?;
        let kinds = self.cluster.kubectl(&["get", "crd", "--output", "name"]).await?;
        ensure!(!kinds.contains("eventmesh.dev"), "kinds are left: {kinds}");
        let claims = self.ns.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?.items.len();
        ensure!(claims == usize::from(keeps), "{claims} claims of volumes are left");
        Ok(())
    }

    async fn names<K>(&self) -> Result<Vec<String>, String>
    where
        K: crate::objects::Object,
    {
        let api: Api<K> = self.ns.api();
        let found = api.list(&ListParams::default().labels(OURS)).await.map_err(|error| error.to_string())?;
        Ok(found.items.iter().map(kube::ResourceExt::name_any).collect())
    }
}

/// tests/tools/install.
async fn install(args: &[&str]) -> Result<()> {
    let script = repository().join("tests/tools/install");
    let output = tokio::process::Command::new(script).args(args).stdin(Stdio::null()).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "install {args:?}: {said}");
    Ok(())
}

#[must_use]
pub fn head() -> String {
    format!("{:<18}{:>10}{:>8}{:>9}{:>9}", "order", "published", "found", "gone s", "back s")
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, published, found, gone, back, .. } = self;
        let (gone, back) = (gone.as_secs(), back.as_secs());
        write!(f, "{name:<18}{published:>10}{found:>8}{gone:>9}{back:>9}")
    }
}

/// The last line. What hangs has ended the trial before.
///
/// # Errors
/// When events were lost that were to be kept, or were there that were not.
pub fn judge(rows: &[Row]) -> Result<String> {
    rows.first().context("no order is called so")?;
    let lost: u64 = rows.iter().filter(|row| row.keeps).map(|row| row.published.abs_diff(row.found)).sum();
    let line = format!("uninstall: orders {}, lost {lost}", rows.len());
    ensure!(lost == 0, "{line}; events were lost");
    ensure!(rows.iter().all(|row| row.keeps || row.found == 0), "{line}; events have outlived their volume");
    Ok(line)
}
