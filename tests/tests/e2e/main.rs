//! The whole system on a real cluster: what `make up` has started, with the site outside it.
//!
//! Every test has a namespace and a mesh of its own, and its own words for subjects and MQTT topics. Tests that take the
//! operator away run alone; all others share it.

mod accounts;
mod endpoints;
mod faults;
mod lifecycle;
mod links;
mod operations;
mod routes;
mod stories;
mod tls;
mod without_operator;

use std::sync::OnceLock;

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, EventMesh, Topic, bridge::MqttVersion};
use eventmesh_tests::{
    RUNTIME,
    broker::Broker,
    cluster::{self, Cluster},
    objects::{Namespace, all_ready},
};
use tokio::sync::{OnceCell, RwLock};

/// What a test works with.
struct Test<'a> {
    cluster: &'a Cluster,
    ns: &'a Namespace,
    /// A word that no other test uses.
    word: &'a str,
}

/// Runs a test beside others.
fn shared(word: &str, test: impl AsyncFnOnce(&Test<'_>) -> Result<()>) -> Result<()> {
    RUNTIME.block_on(async {
        let _others = operator_in_use().read().await;
        run(word, test).await
    })
}

/// Runs a test that takes the operator away from all others.
fn alone(word: &str, test: impl AsyncFnOnce(&Test<'_>) -> Result<()>) -> Result<()> {
    RUNTIME.block_on(async {
        let _nobody = operator_in_use().write().await;
        run(word, test).await
    })
}

fn operator_in_use() -> &'static RwLock<()> {
    static IN_USE: OnceLock<RwLock<()>> = OnceLock::new();
    IN_USE.get_or_init(|| RwLock::new(()))
}

async fn run(word: &str, test: impl AsyncFnOnce(&Test<'_>) -> Result<()>) -> Result<()> {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    let connect = async || {
        let cluster = Cluster::connect().await?;
        cluster.kube.remove_leftovers().await?;
        anyhow::Ok(cluster)
    };
    let cluster = CLUSTER.get_or_try_init(connect).await?;
    cluster.kube.with_namespace(word, async |ns| test(&Test { cluster, ns, word }).await).await
}

impl Test<'_> {
    /// Applies a mesh `m` with small needs and waits until it is Ready; `more` goes below `brokers`.
    async fn mesh(&self, replicas: u32, more: &str) -> Result<Broker> {
        self.ns.apply(&mesh(replicas, more)).await?;
        self.ns.ready::<EventMesh>("m").await?;
        self.cluster.broker(self.ns, "m").await
    }

    /// Topics `<word>-in` and `<word>-out`, and a Bridge `b` that carries `<word>/x/in` to `<word>-in.x` and
    /// `<word>-out.x` to `<word>/x/out`.
    async fn both_ways(&self, version: MqttVersion, more: &str) -> Result<()> {
        let word = self.word;
        self.ns.apply(&topic(&format!("{word}-in"), "")).await?;
        self.ns.apply(&topic(&format!("{word}-out"), "")).await?;
        // MQTT 3.1.1 has no properties to carry an id.
        let id = if version == MqttVersion::V5 { ", idHeader: id" } else { "" };
        let inbound = format!("{{name: in, from: '{word}/+/in', to: '{word}-in.{{1}}'{id}}}");
        let outbound =
            format!("{{name: out, from: {{topic: {word}-out, filter: ['{word}-out.*']}}, to: '{word}/{{1}}/out'}}");
        let routes = format!("  inbound: [{inbound}]\n  outbound: [{outbound}]\n{more}");
        self.ns.apply(&Self::bridge(&self.site_url(1883), version, &routes)).await?;
        all_ready::<Topic>(self.ns, &[&format!("{word}-in"), &format!("{word}-out")]).await?;
        self.ns.ready::<Bridge>("b").await.map(drop)
    }

    fn site_url(&self, port: u16) -> String {
        format!("mqtt://{}:{port}", self.cluster.site_host())
    }

    fn bridge(url: &str, version: MqttVersion, more: &str) -> String {
        object(
            "Bridge",
            "b",
            &format!("  mesh: {{name: m}}\n  endpoint: {{mqtt: {{url: '{url}', version: {version:?}}}}}\n{more}"),
        )
    }

    /// The only pod of the Bridge `b`.
    async fn bridge_pod(&self) -> Result<String> {
        let bridge: Bridge = self.ns.get("b").await?;
        let selector = bridge.status.and_then(|status| status.selector).context("status.selector")?;
        cluster::pods(self.ns, &selector).await?.into_iter().next().context("the Bridge has no pod")
    }

    /// The broker that leads a stream: the worst one to lose.
    async fn leader(&self, broker: &Broker, topic: &str) -> Result<String> {
        let info = broker.stream(&self.stream(topic)).await?.context("no stream")?;
        Ok(info["cluster"]["leader"].as_str().unwrap_or("m-broker-0").to_owned())
    }

    fn stream(&self, topic: &str) -> String {
        eventmesh_wire::names::stream(&self.ns.name, topic)
    }
}

fn mesh(replicas: u32, more: &str) -> String {
    let brokers = format!(
        "    replicas: {replicas}\n    storage: {{size: 256Mi, sync: 10s}}\n    resources: {{requests: {{cpu: 20m, memory: 64Mi}}}}\n{more}"
    );
    object("EventMesh", "m", &format!("  brokers:\n{brokers}"))
}

fn topic(name: &str, more: &str) -> String {
    object("Topic", name, &format!("  mesh: {{name: m}}\n{more}"))
}

/// An object of this API; `spec` is indented by two.
fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: eventmesh.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}\n")
}
