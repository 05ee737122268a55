//! Meshes of one broker: in the near cluster the hub of a star and the end of a chain, in the far one the sites. All sites dial the hub,
//! and the end dials the first of them, over TLS, by Secrets that `kubectl eventmesh` has written. Of a Topic of the last site the hub
//! keeps a copy.

use anyhow::{Context as _, Result, bail};
use eventmesh_crds::{Bridge, EventMesh, Topic, link::Link};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::{
    broker::{Broker, Reader},
    cli::Cli,
    cluster::Cluster,
    identity::Login,
    objects::Namespace,
};

pub const HUB: &str = "hub";
pub const END: &str = "end";
/// Of two clusters.
pub const SITES: &[&str] = &["site1", "site2", "site3", "site4", "site5"];
/// The Topic that the hub has a copy of.
pub const KEPT: &str = "kept";

/// The meshes, their links and Topics, once all are up.
pub struct World {
    pub near: Namespace,
    pub far: Namespace,
    pub clusters: [Cluster; 2],
    pub sites: &'static [&'static str],
}

impl World {
    /// Makes all of it in two namespaces.
    pub async fn start(
        clusters: [Cluster; 2],
        near: Namespace,
        far: Namespace,
        sites: &'static [&'static str],
    ) -> Result<Self> {
        let world = Self { near, far, clusters, sites };
        let [first, others @ ..] = sites else { bail!("there is no site") };
        let links: Vec<Value> = sites.iter().map(|site| hub_link(site, *site == *first)).collect();
        world.mesh(HUB, true, &links).await?;
        let to_end = json!({"name": END, "to": {"remote": {}}, "export": ["chain.>"]});
        world.mesh(first, true, &[world.dial(HUB, first).await?, to_end]).await?;
        world.mesh(END, false, &[world.dial(first, END).await?]).await?;
        for site in others {
            world.mesh(site, false, &[world.dial(HUB, site).await?]).await?;
        }
        world.topics().await?;
        world.copy().await?;
        for (namespace, mesh) in world.meshes() {
            namespace.ready::<EventMesh>(mesh).await?;
        }
        Ok(world)
    }

    fn meshes(&self) -> impl Iterator<Item = (&Namespace, &'static str)> {
        [HUB, END].into_iter().map(|mesh| (&self.near, mesh)).chain(self.sites.iter().map(|site| (&self.far, *site)))
    }

    /// The site of whose Topic the hub has a copy.
    pub fn copied(&self) -> Result<&'static str> {
        self.sites.last().copied().context("there is no site")
    }

    /// The far side's own, which its Bridge sends, and the hub's.
    async fn copy(&self) -> Result<()> {
        let site = self.copied()?;
        self.topic(site, KEPT, "kept.>").await?;
        let bridge = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Bridge", "metadata": {"name": KEPT},
            "spec": {
                "mesh": {"name": site}, "endpoint": {"link": {"name": HUB}},
                "outbound": [{"name": KEPT, "from": {"topic": format!("{site}-{KEPT}")}}],
            },
        });
        self.far.apply(&bridge.to_string()).await?;
        let of = json!({"name": format!("{site}-{KEPT}"), "namespace": self.far.name});
        let copy = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": format!("{HUB}-{KEPT}")},
            "spec": {"mesh": {"name": HUB}, "subjects": ["kept.>"], "mirror": {"link": site, "topic": of}},
        });
        self.near.apply(&copy.to_string()).await?;
        self.far.ready::<Bridge>(KEPT).await?;
        self.near.ready::<Topic>(&format!("{HUB}-{KEPT}")).await.map(drop)
    }

    /// Where machines outside a cluster reach its node ports.
    async fn node_address(namespace: &Namespace) -> Result<String> {
        let nodes: Api<Node> = Api::all(namespace.kube.client.clone());
        let node = nodes.list(&ListParams::default()).await?.items.into_iter().next().context("a node")?;
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let internal = addresses.into_iter().find(|address| address.type_ == "InternalIP");
        internal.map(|address| address.address).context("an address of the node")
    }

    /// A mesh; `listens`: whether it is dialled.
    async fn mesh(&self, name: &str, listens: bool, links: &[Value]) -> Result<()> {
        let mut spec = json!({
            "brokers": {
                "replicas": 1, "storage": {"size": "256Mi", "sync": "10s"},
                "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
            },
            "links": links,
        });
        if listens {
            spec["listeners"] = json!({"leaf": {"expose": "NodePort"}});
            spec["tls"] = json!({"serverNames": [Self::node_address(self.namespace(name)).await?]});
        }
        let mesh = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh", "metadata": {"name": name}, "spec": spec,
        });
        self.namespace(name).apply(&mesh.to_string()).await
    }

    /// What people do so that one mesh dials another: the Secret is written where that is, and applied here. Gives the link for the
    /// spec here; the link there bears the name of this mesh.
    async fn dial(&self, mesh: &str, own: &str) -> Result<Value> {
        let there = self.namespace(mesh);
        let node_port = |service: &Service| service.spec.as_ref()?.ports.as_ref()?.first()?.node_port;
        let port = there.until::<Service, _>(&format!("{mesh}-leaf"), "with a node port", node_port).await?;
        let (url, secret) = (format!("tls://{}:{port}", Self::node_address(there).await?), format!("{own}-to-{mesh}"));
        let cli = Cli::with(self.cluster(mesh).kubeconfig(), there);
        let ask = ["link", "generate", mesh, own, "--url", &url, "--secret", &secret, "--timeout", "300"];
        self.namespace(own).apply(&cli.write(&ask).await?).await?;
        let entry = cli.write(&[&ask[..], &["--output", "entry"]].concat()).await?;
        let mut links: Vec<Link> = serde_saphyr::from_str(&entry)?;
        Ok(serde_json::to_value(links.pop().context("a link")?)?)
    }

    async fn topics(&self) -> Result<()> {
        let mut all =
            vec![(HUB, "up", "up.>"), (HUB, "down", "down.>"), (HUB, "chain", "chain.>"), (HUB, "quiet", "quiet.>")]
                .into_iter()
                .map(|(mesh, topic, subject)| (mesh, topic, subject.to_owned()))
                .collect::<Vec<_>>();
        all.push((END, "chain", "chain.>".to_owned()));
        for site in self.sites.iter().copied() {
            all.push((site, "up", format!("up.{site}.>")));
            all.push((site, "down", "down.>".to_owned()));
            all.push((site, "all", "all.>".to_owned()));
        }
        try_join_all(all.iter().map(|(mesh, topic, subject)| self.topic(mesh, topic, subject))).await.map(drop)
    }

    /// A Topic, once it is ready.
    pub async fn topic(&self, mesh: &str, topic: &str, subject: &str) -> Result<()> {
        let name = format!("{mesh}-{topic}");
        let object = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name},
            "spec": {"mesh": {"name": mesh}, "subjects": [subject]},
        });
        let namespace = self.namespace(mesh);
        namespace.apply(&object.to_string()).await?;
        namespace.ready::<Topic>(&name).await.map(drop)
    }

    fn namespace(&self, mesh: &str) -> &Namespace {
        if self.sites.contains(&mesh) { &self.far } else { &self.near }
    }

    fn cluster(&self, mesh: &str) -> &Cluster {
        &self.clusters[usize::from(self.sites.contains(&mesh))]
    }

    pub async fn broker(&self, mesh: &str) -> Result<Broker> {
        self.cluster(mesh).broker(self.namespace(mesh), mesh).await
    }

    /// Reads what a Topic of a mesh stores from now on.
    pub async fn reader(&self, mesh: &str, topic: &str) -> Result<Reader> {
        let stream = eventmesh_wire::names::stream(&self.namespace(mesh).name, &format!("{mesh}-{topic}"));
        self.broker(mesh).await?.read(&stream).await
    }

    /// Bytes of events that have left the hub to each site, as its broker counts them.
    pub async fn bytes_out(&self) -> Result<Vec<i64>> {
        let login = Login::system(&self.near, HUB).await?;
        let broker = self.clusters[0].broker_as(&self.near, HUB, &login).await?;
        let answer = broker.client.request("$SYS.REQ.SERVER.PING.LEAFZ", Vec::new().into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        let leafs = answer["data"]["leafs"].as_array().context("leaf nodes")?;
        let of = |site: &str| {
            let name = format!("{site}-broker-0");
            let leaf = leafs.iter().find(|leaf| leaf["name"] == name.as_str());
            leaf.and_then(|leaf| leaf["out_bytes"].as_i64())
                .with_context(|| format!("{name} is not connected: {answer}"))
        };
        self.sites.iter().copied().map(of).collect()
    }
}

/// The hub's side of the link to a site. What the first site tells all others, the hub only passes on.
fn hub_link(site: &str, first: bool) -> Value {
    let (export, import) = if first {
        (vec!["down.>", "quiet.>", "chain.>"], vec!["all.site1.>".to_owned()])
    } else {
        (vec!["down.>", "quiet.>", "all.site1.>"], Vec::new())
    };
    let import: Vec<String> = import.into_iter().chain([format!("up.{site}.>")]).collect();
    json!({"name": site, "to": {"remote": {}}, "export": export, "import": import})
}
