//! The cluster that `make up` has started, the site outside it, and the faults that can be done to both.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use async_nats::ConnectOptions;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{
    apiserver,
    broker::Broker,
    child::{Start, free_port},
    identity::Login,
    mqtt::Site,
    objects::{Kube, Namespace, OperatorLog},
    paths, wait,
};

/// How long one step may take on a slow machine: pods start, images are there already.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long a Service may take to lead to pods that are ready.
const SERVICE: Duration = Duration::from_mins(1);

/// How long a broker may take to let a client in.
const CONNECT: Duration = Duration::from_secs(10);

/// Where the operator runs.
pub const OPERATOR_NAMESPACE: &str = "eventmesh-system";
const OPERATOR: &str = "eventmesh-operator";

/// A running cluster with the operator on it.
#[derive(Clone)]
pub struct Cluster {
    pub kube: Kube,
    kubeconfig: PathBuf,
    kind: String,
    site_address: String,
}

impl Cluster {
    /// The cluster that `.build/cluster/env` names.
    pub async fn connect() -> Result<Self> {
        Self::connect_to("cluster").await.context("run `make up`")
    }

    /// The cluster whose files are in this folder of `.build`: `cluster-far` is the second.
    pub async fn connect_to(folder: &str) -> Result<Self> {
        let file = paths::repository().join(".build").join(folder).join("env");
        let text = std::fs::read_to_string(&file).with_context(|| format!("there is no {folder}"))?;
        let env: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |name: &str| env.get(name).copied().unwrap_or_default().to_owned();
        let kubeconfig = PathBuf::from(value("KUBECONFIG"));
        let config = Kubeconfig::read_from(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let kube = Kube { client: Client::try_from(config)?, operator_log: OperatorLog::Pods, patience: PATIENCE };
        let (kind, site_address) = (value("CLUSTER_KIND"), value("SITE_ADDRESS"));
        ensure!(!site_address.is_empty(), "set SITE_ADDRESS to an MQTT broker that this cluster can reach");
        Ok(Self { kube, kubeconfig, kind, site_address })
    }

    /// The MQTT broker of the site.
    #[must_use]
    pub fn site(&self) -> Site {
        Site { host: self.site_address.clone(), port: 1883 }
    }

    /// The host by which pods know the site.
    #[must_use]
    pub fn site_host(&self) -> &str {
        if self.is_local() { "site.example" } else { &self.site_address }
    }

    /// The address of this machine in the network of the local cluster: what listens there can be reached from pods.
    #[must_use]
    pub fn host_address(&self) -> String {
        let (network, _) = self.site_address.rsplit_once('.').unwrap_or_default();
        format!("{network}.1")
    }

    #[must_use]
    pub fn is_local(&self) -> bool {
        self.kind == "local"
    }

    #[must_use]
    pub fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        apiserver::kubectl(&self.kubeconfig, &paths::repository().join(".build/cluster/kubectl-cache"), args).await
    }

    /// A connection to the brokers of a mesh with the rights of the operator.
    pub async fn broker(&self, namespace: &Namespace, mesh: &str) -> Result<Broker> {
        self.broker_with(namespace, mesh, |options| options.connection_timeout(CONNECT)).await
    }

    /// The same with other settings of the connection.
    pub async fn broker_with(
        &self,
        namespace: &Namespace,
        mesh: &str,
        set: fn(ConnectOptions) -> ConnectOptions,
    ) -> Result<Broker> {
        let address = self.broker_address(namespace, mesh).await?;
        // The Service follows the readiness of its pods a moment later.
        wait::eventually("connection to the brokers", SERVICE, async || {
            // Read each time: it may have been replaced while the connection was tried.
            let login = Login::operator(namespace, mesh).await.map_err(|error| format!("{error:#}"))?;
            Broker::connect_with(&address, &login, set).await.map(Some).map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// A connection to brokers that are there, as somebody else.
    pub async fn broker_as(&self, namespace: &Namespace, mesh: &str, login: &Login) -> Result<Broker> {
        Broker::connect(&self.broker_address(namespace, mesh).await?, login).await
    }

    async fn broker_address(&self, namespace: &Namespace, mesh: &str) -> Result<String> {
        Ok(format!("nats://{}", self.reach(namespace, &format!("{mesh}-nats"), 4222).await?))
    }

    /// The URL by which a Service with port 80 can be reached from here.
    pub async fn http(&self, namespace: &Namespace, service: &str) -> Result<String> {
        Ok(format!("http://{}", self.reach(namespace, service, 80).await?))
    }

    /// Networks of the local cluster can be reached from here; into others a forwarded port leads.
    async fn reach(&self, namespace: &Namespace, service: &str, port: u16) -> Result<String> {
        if self.is_local() {
            let service = namespace.get::<Service>(service).await?;
            let address = service.spec.and_then(|spec| spec.cluster_ip).context("a cluster address")?;
            return Ok(format!("{address}:{port}"));
        }
        let near = free_port()?;
        self.forward(&namespace.name, service, near, port)?;
        wait::eventually("forwarded port", SERVICE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", near)).await.map(Some).map_err(|e| e.to_string())
        })
        .await?;
        Ok(format!("127.0.0.1:{near}"))
    }

    /// Keeps a port forwarded as long as the process lives: kubectl ends when the pod behind it does.
    fn forward(&self, namespace: &str, service: &str, near: u16, port: u16) -> Result<()> {
        let folder = paths::scratch("forward")?;
        let (kubectl, kubeconfig) = (paths::tool("kubectl")?, self.kubeconfig.clone());
        let (namespace, service) = (namespace.to_owned(), format!("service/{service}"));
        tokio::spawn(async move {
            let mut pause = tokio::time::interval(Duration::from_millis(500));
            loop {
                let forward = Start::new(&kubectl, &folder)
                    .arg("--kubeconfig")
                    .arg(&kubeconfig)
                    .args(["--namespace", &namespace, "port-forward", &service, &format!("{near}:{port}")])
                    .spawn();
                while forward.as_ref().is_ok_and(|child| child.exited().is_none()) {
                    pause.tick().await;
                }
                pause.tick().await;
            }
        });
        Ok(())
    }

    /// SIGKILL to the process of a pod's first container, then the pod is deleted without grace: its successor has
    /// another name or address, and nothing of the old one was tidied up.
    pub async fn kill_pod(&self, namespace: &Namespace, pod: &str) -> Result<()> {
        if self.is_local() {
            self.fault(&["kill-container", &namespace.name, pod]).await?;
        }
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() };
        namespace.api::<Pod>().delete(pod, &params).await?;
        Ok(())
    }

    /// One of the faults of `tests/cluster/fault`.
    pub async fn fault(&self, args: &[&str]) -> Result<()> {
        ensure!(self.is_local(), "the fault {args:?} needs the local cluster");
        let output = tokio::process::Command::new(paths::repository().join("tests/cluster/fault"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            bail!("fault {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Sets the number of operator pods and waits until it is so.
    pub async fn scale_operator(&self, replicas: i32) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.kube.client.clone(), OPERATOR_NAMESPACE);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        api.patch(OPERATOR, &PatchParams::default(), &patch).await?;
        let operator = self.kube.namespace(OPERATOR_NAMESPACE);
        operator
            .until::<Deployment, _>(OPERATOR, &format!("scaled to {replicas}"), |deployment| {
                let status = deployment.status.as_ref()?;
                let ready = status.ready_replicas.unwrap_or(0) == replicas && status.replicas.unwrap_or(0) == replicas;
                ready.then_some(())
            })
            .await?;
        if replicas == 0 {
            let pods: Api<Pod> = Api::namespaced(self.kube.client.clone(), OPERATOR_NAMESPACE);
            wait::eventually("end of the operator's pods", PATIENCE, async || {
                let list = pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
                Ok(list.items.is_empty().then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// SIGKILL to every operator process; their pods stay and start again.
    pub async fn kill_operators(&self) -> Result<()> {
        let operator = self.kube.namespace(OPERATOR_NAMESPACE);
        for pod in operator.api::<Pod>().list(&ListParams::default()).await? {
            self.fault(&["kill-container", OPERATOR_NAMESPACE, &pod.name_any()]).await?;
        }
        Ok(())
    }
}

/// Names of the pods that have this label.
pub async fn pods(namespace: &Namespace, label: &str) -> Result<Vec<String>> {
    let pods = namespace.api::<Pod>().list(&ListParams::default().labels(label)).await?;
    Ok(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(ResourceExt::name_any).collect())
}
