//! Everything but the pods: a real API server with deploy/ applied, the operator's release binary under the rights that
//! deploy/ gives it, and a broker that runs the configuration which the operator has made.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    apiserver::{ADMIN, ApiServer, OPERATOR},
    broker::Broker,
    child::{Child, Start, free_port},
    identity::Login,
    objects::{Kube, Namespace, OperatorLog},
    paths::{self, Stored},
    process::{Volume, exchange},
    wait,
};

/// Namespace and name of the mesh that [`Stack::start`] makes.
pub const MESH_NAMESPACE: &str = "platform";
pub const MESH: &str = "retail";

/// How long one step may take on a slow machine. The longest is that the operator gives a broker up that does not answer:
/// half a minute where nothing else runs.
const PATIENCE: Duration = Duration::from_mins(2);

/// The broker with a wall clock that is moved when it starts: tests/tools/clock.
const SHIFTED_BROKER: &str = "nats-server-shifted";

pub const MESH_YAML: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: platform, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: eventmesh.dev/v1alpha1
kind: EventMesh
metadata: {name: retail, namespace: platform}
spec:
  brokers: {replicas: 1, storage: {sync: 10s}}
  allowedNamespaces: {from: All}
";

/// API server, operator and broker.
pub struct Stack {
    pub kube: Kube,
    pub api: ApiServer,
    pub operator: Operator,
    folder: PathBuf,
    broker_port: u16,
    /// Where the operator looks for the brokers of a mesh.
    brokers_at: String,
    broker: Option<Child>,
    /// The others of a cluster.
    peers: Vec<Option<Child>>,
    broker_program: &'static str,
    /// Brokers that have a volume of their own.
    volumes: BTreeMap<usize, Volume>,
    /// Seconds that the clocks of brokers are ahead, where they are wrong.
    clocks: BTreeMap<usize, i64>,
    _stored: Stored,
}

/// How the operator is started.
#[derive(Debug)]
pub struct Operator {
    pub process: Child,
    admin_port: u16,
    /// Where the webhook is served.
    pub webhook_port: u16,
}

impl Stack {
    /// All of it, with a mesh `platform/retail` that lets every namespace in.
    pub async fn start(name: &str) -> Result<Self> {
        let mut stack = Self::without_mesh(name).await?;
        stack.kube.apply(MESH_NAMESPACE, MESH_YAML).await?;
        stack.start_broker(&stack.mesh(), MESH).await?;
        Ok(stack)
    }

    /// API server and operator; the broker's port is known, and nobody listens there yet.
    pub async fn without_mesh(name: &str) -> Result<Self> {
        Self::with_brokers_at(name, |port| format!("nats://127.0.0.1:{port}")).await
    }

    /// The same where each mesh has an address of its own: `{mesh}` in it stands for the mesh's name.
    pub async fn with_brokers_at(name: &str, address: impl FnOnce(u16) -> String) -> Result<Self> {
        let folder = paths::scratch(name)?;
        let api = ApiServer::start(&folder).await?;
        api.kubectl(&["apply", "--server-side", "-k", &paths::repository().join("deploy").display().to_string()])
            .await?;
        let (broker_port, webhook_port) = (free_port()?, free_port()?);
        // Before the operator is there, as on a cluster.
        call_webhook_at(&api, webhook_port).await?;
        let brokers_at = address(broker_port);
        let operator = start_operator(&api, &folder, &brokers_at, webhook_port, true).await?;
        let log = operator.process.log().to_owned();
        let stored = Stored::new(&folder, "jetstream");
        let kube = Kube { client: api.client(ADMIN).await?, operator_log: OperatorLog::File(log), patience: PATIENCE };
        Ok(Self {
            kube,
            api,
            operator,
            folder,
            broker_port,
            brokers_at,
            broker: None,
            broker_program: "nats-server",
            peers: Vec::new(),
            volumes: BTreeMap::new(),
            clocks: BTreeMap::new(),
            _stored: stored,
        })
    }

    /// The namespace of the mesh.
    #[must_use]
    pub fn mesh(&self) -> Namespace {
        self.kube.namespace(MESH_NAMESPACE)
    }

    /// Starts the broker of a mesh with the trust that the operator has made for it.
    pub async fn start_broker(&mut self, namespace: &Namespace, mesh: &str) -> Result<()> {
        self.start_broker_with(namespace, mesh, |_| String::new()).await
    }

    /// The same with more of its configuration, made from the `tls` block of its listeners.
    pub async fn start_broker_with(
        &mut self,
        namespace: &Namespace,
        mesh: &str,
        more: impl FnOnce(&str) -> String,
    ) -> Result<()> {
        let secret = format!("{mesh}-broker");
        let trusted = namespace.secret(&secret, "auth.conf").await?;
        let accounts = self.folder.join("accounts").display().to_string();
        std::fs::write(self.folder.join("auth.conf"), trusted.replace("/data/accounts", &accounts))?;
        self.sync_certificates(namespace, mesh).await?;
        let config = format!(
            "server_name: {mesh}-broker-0\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\", max_file_store: 10G }}\n\
             include auth.conf\ninclude certificates/revision.conf\n\
             server_metadata {{ certificates: $certificates_revision }}\n{}{}",
            self.broker_port,
            self.folder.join("jetstream").display(),
            self.tls_block(),
            more(&self.tls_block())
        );
        let file = self.folder.join("nats.conf");
        std::fs::write(&file, config)?;
        let process =
            Start::new(&paths::tool(self.broker_program)?, &self.folder).arg("--config").arg(&file).spawn()?;
        self.listens(&process).await?;
        self.broker = Some(process);
        Ok(())
    }

    /// Starts the only broker of a mesh without TLS with the very files that the operator has made for it.
    pub async fn start_configured_broker(&mut self, namespace: &Namespace, mesh: &str) -> Result<()> {
        self.sync_configuration(namespace, mesh).await?;
        let file = self.folder.join("etc/nats.conf");
        let start = Start::new(&paths::tool(self.broker_program)?, &self.folder).arg("--config").arg(&file);
        let process = start.env("POD_NAME", format!("{mesh}-broker-0")).spawn()?;
        self.listens(&process).await?;
        self.broker = Some(process);
        Ok(())
    }

    /// The kubelet's part for such a broker: brings its files up to date.
    pub async fn sync_configuration(&self, namespace: &Namespace, mesh: &str) -> Result<()> {
        let etc = self.folder.join("etc");
        std::fs::create_dir_all(&etc)?;
        let name = format!("{mesh}-broker");
        let config = |map: &ConfigMap| map.data.as_ref()?.get("nats.conf").cloned();
        let config = namespace.until::<ConfigMap, _>(&name, "a configuration", config).await?;
        let trusted = namespace.secret(&name, "auth.conf").await?;
        let here = |text: &str| {
            let folder = self.folder.display();
            text.replace("\"/data", &format!("\"{folder}/jetstream"))
                .replace("\"/var/run/nats", &format!("\"{folder}"))
                .replace("0.0.0.0:4222", &format!("127.0.0.1:{}", self.broker_port))
                .replace("0.0.0.0:8222", "127.0.0.1:-1")
        };
        std::fs::write(etc.join("nats.conf"), here(&config))?;
        std::fs::write(etc.join("auth.conf"), here(&trusted))?;
        let revision = namespace.secret(&format!("{mesh}-broker-tls"), "revision.conf").await?;
        std::fs::create_dir_all(etc.join("tls"))?;
        Ok(std::fs::write(etc.join("tls/revision.conf"), revision)?)
    }

    async fn listens(&self, process: &Child) -> Result<()> {
        let ready = wait::eventually("broker", PATIENCE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.broker_port)).await.map(Some).map_err(|e| e.to_string())
        });
        ready.await.map(drop).with_context(|| process.log_tail(20))
    }

    /// Starts a cluster of three brokers for a mesh that has no TLS, named as their pods would be. The operator and the
    /// tests talk to the first. Up to `size` others can join them by [`Stack::start_peer`].
    pub async fn start_cluster(&mut self, namespace: &Namespace, mesh: &str, size: usize) -> Result<()> {
        let routes: Vec<u16> = (0..size).map(|_| free_port()).collect::<std::io::Result<_>>()?;
        // A new cluster waits for all that its brokers know of; who comes later finds it through the first three.
        let urls = routes.iter().take(3).map(|port| format!("nats-route://127.0.0.1:{port}"));
        let urls = urls.collect::<Vec<_>>().join(", ");
        let cluster = |port: u16| format!("cluster {{ name: test, listen: 127.0.0.1:{port}, routes: [{urls}] }}\n");
        self.start_broker_with(namespace, mesh, |_| cluster(routes[0])).await?;
        let first = std::fs::read_to_string(self.folder.join("nats.conf"))?;
        for (index, port) in routes.iter().enumerate().skip(1) {
            let own = |name: &str| self.folder.join(format!("{name}-{index}")).display().to_string();
            let theirs = |name: &str| self.folder.join(name).display().to_string();
            let trust = std::fs::read_to_string(self.folder.join("auth.conf"))?;
            std::fs::write(own("auth.conf"), trust.replace(&theirs("accounts"), &own("accounts")))?;
            let config = first
                .replace(&format!("server_name: {mesh}-broker-0"), &format!("server_name: {mesh}-broker-{index}"))
                .replace(&format!("127.0.0.1:{}\n", self.broker_port), &format!("127.0.0.1:{}\n", free_port()?))
                .replace(&theirs("jetstream"), &own("jetstream"))
                .replace("include auth.conf", &format!("include auth.conf-{index}"))
                .replace(&cluster(routes[0]), &cluster(*port));
            std::fs::write(own("nats.conf"), config)?;
            self.peers.push(None);
            if index < 3 {
                self.start_peer(index)?;
            }
        }
        Ok(())
    }

    /// Starts a broker of the cluster again, with its port and its data.
    pub fn start_peer(&mut self, index: usize) -> Result<()> {
        let name = if index == 0 { "nats.conf".to_owned() } else { format!("nats.conf-{index}") };
        let ahead = self.clocks.get(&index);
        let program = paths::tool(if ahead.is_some() { SHIFTED_BROKER } else { self.broker_program })?;
        let file = self.folder.join(name);
        let mut start = match self.volumes.get(&index) {
            Some(volume) => volume.start(&program, &self.folder),
            None => Start::new(&program, &self.folder),
        };
        if let Some(seconds) = ahead {
            start = start.env("CLOCK_AHEAD", seconds.to_string());
        }
        *self.peer(index) = Some(start.arg("--config").arg(&file).spawn()?);
        Ok(())
    }

    /// Another version, for all brokers that are started from now on.
    pub fn brokers_run(&mut self, program: &'static str) {
        self.broker_program = program;
    }

    /// From its next start on, the clock of a broker of the cluster is so many seconds ahead; at 0 it is right.
    pub fn shift_clock(&mut self, index: usize, seconds: i64) {
        if seconds == 0 {
            self.clocks.remove(&index);
        } else {
            self.clocks.insert(index, seconds);
        }
    }

    /// Moves the store of a broker of the cluster that does not run to a volume of so many bytes.
    pub async fn move_to_volume(&mut self, index: usize, bytes: u64) -> Result<&Volume> {
        let volume = Volume::start_with(&self.store(index), bytes).await?;
        Ok(self.volumes.entry(index).or_insert(volume))
    }

    /// The volume that a broker was moved to.
    pub fn volume(&self, index: usize) -> Result<&Volume> {
        self.volumes.get(&index).context("it has none of its own")
    }

    /// Where a broker of the cluster stores everything.
    #[must_use]
    pub fn store(&self, index: usize) -> PathBuf {
        self.folder.join(if index == 0 { "jetstream".to_owned() } else { format!("jetstream-{index}") })
    }

    /// The volume of a broker that does not run is lost, and there is a new one.
    pub fn lose_volume(&self, index: usize) -> Result<()> {
        let store = self.store(index);
        std::fs::remove_dir_all(&store)?;
        std::fs::create_dir(store)?;
        Ok(std::fs::remove_dir_all(self.folder.join(format!("accounts-{index}")))?)
    }

    /// A broker of the cluster ends without warning.
    pub fn kill_peer(&mut self, index: usize) {
        *self.peer(index) = None;
    }

    /// Stops a broker of the cluster in the middle of what it does, or lets it go on.
    pub fn pause_peer(&mut self, index: usize, pause: bool) -> Result<()> {
        let process = self.peer(index).as_ref().context("it does not run")?;
        if pause { process.pause() } else { process.go_on() }
    }

    fn peer(&mut self, index: usize) -> &mut Option<Child> {
        if index == 0 { &mut self.broker } else { &mut self.peers[index - 1] }
    }

    /// The kubelet's part: brings the files of the broker up to date with their Secret.
    pub async fn sync_certificates(&self, namespace: &Namespace, mesh: &str) -> Result<()> {
        let data = namespace
            .until::<Secret, _>(&format!("{mesh}-broker-tls"), "the certificates", |secret| secret.data.clone())
            .await?;
        let files: BTreeMap<String, Vec<u8>> = data.into_iter().map(|(name, bytes)| (name, bytes.0)).collect();
        exchange(&self.folder, "certificates", &files)
    }

    /// What makes the broker use what [`Stack::sync_certificates`] has written.
    fn tls_block(&self) -> String {
        let file = |name: &str| self.folder.join("certificates").join(name).display().to_string();
        let (certificate, key) = (file("tls.crt"), file("tls.key"));
        if std::path::Path::new(&certificate).exists() {
            format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}\n")
        } else {
            String::new()
        }
    }

    /// Whether the process that was started last still runs.
    #[must_use]
    pub fn broker_runs(&self) -> bool {
        self.broker.as_ref().is_some_and(|broker| broker.exited().is_none())
    }

    /// The broker ends without warning.
    pub fn kill_broker(&mut self) {
        self.broker = None;
    }

    /// The operator ends without warning, and another starts.
    pub async fn restart_operator(&mut self) -> Result<()> {
        self.operator.process.kill()?;
        self.start_operator().await
    }

    /// Starts another after the one that has ended.
    pub async fn start_operator(&mut self) -> Result<()> {
        let port = self.operator.webhook_port;
        self.operator = start_operator(&self.api, &self.folder, &self.brokers_at, port, true).await?;
        Ok(())
    }

    /// Starts one that waits for the lease of another, who is not there.
    pub async fn start_follower(&mut self) -> Result<()> {
        let now = k8s_openapi::jiff::Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "eventmesh-operator"},
            "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600, "renewTime": now, "acquireTime": now},
        });
        let lease: Lease = serde_json::from_value(lease)?;
        let leases = self.kube.namespace("eventmesh-system").api::<Lease>();
        leases.patch("eventmesh-operator", &PatchParams::apply("tests").force(), &Patch::Apply(lease)).await?;
        let port = self.operator.webhook_port;
        self.operator = start_operator(&self.api, &self.folder, &self.brokers_at, port, false).await?;
        Ok(())
    }

    /// A connection with the rights of the operator.
    pub async fn broker(&self, namespace: &Namespace, mesh: &str) -> Result<Broker> {
        let login = Login::operator(namespace, mesh).await?;
        Broker::connect(&self.broker_address(), &login).await
    }

    /// The port of the broker, or of those of all meshes.
    #[must_use]
    pub fn broker_port(&self) -> u16 {
        self.broker_port
    }

    /// Where the broker listens, whatever its mesh's Services say.
    #[must_use]
    pub fn broker_address(&self) -> String {
        format!("nats://127.0.0.1:{}", self.broker_port)
    }
}

impl Operator {
    /// The text of a path of its admin port.
    pub async fn admin(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.admin_port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        Ok(answer)
    }
}

/// There is no network of Services: the API server calls the webhook at the loopback. It waits for an answer as long as it can:
/// on a machine that stands still for a while a pod would go without its sidecar.
async fn call_webhook_at(api: &ApiServer, port: u16) -> Result<()> {
    let client = json!({"service": null, "url": format!("https://127.0.0.1:{port}/inject")});
    let name = |name: &str| json!({"name": format!("{name}.inject.eventmesh.dev"), "clientConfig": client, "timeoutSeconds": 30});
    let patch = json!({"webhooks": [name("pod"), name("namespace")]});
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(api.client(ADMIN).await?);
    configurations.patch("eventmesh-operator-webhook", &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

/// Starts the release binary as it runs in its pod, and waits until it says that it is ready.
async fn start_operator(
    api: &ApiServer,
    folder: &std::path::Path,
    brokers_at: &str,
    webhook_port: u16,
    leads: bool,
) -> Result<Operator> {
    let admin_port = free_port()?;
    let process = Start::new(&paths::release("eventmesh-operator")?, folder)
        .args(["run", "--broker-image", "localhost/event-mesh/broker:test"])
        .args(["--bridge-image", "localhost/event-mesh/bridge:test"])
        .args(["--broker-address", brokers_at])
        .args(["--admin-addr", &format!("127.0.0.1:{admin_port}")])
        .args(["--webhook-addr", &format!("127.0.0.1:{webhook_port}"), "--webhook-name", "127.0.0.1"])
        .args(["--leader-election", if leads { "false" } else { "true" }, "--log-format", "text"])
        .env("KUBECONFIG", api.kubeconfig(OPERATOR)?)
        .env("POD_NAME", "operator-0")
        .env("POD_NAMESPACE", "eventmesh-system")
        .env("RUST_LOG", std::env::var("OPERATOR_LOG").unwrap_or_else(|_| "info".to_owned()))
        .spawn()?;
    let operator = Operator { process, admin_port, webhook_port };
    let ready = wait::eventually("readiness of the operator", PATIENCE, async || {
        if let Some(status) = operator.process.exited() {
            return Ok(Some(Err(anyhow!("it has ended with {status}"))));
        }
        operator.admin("/readyz").await.map(|_| Some(Ok(()))).map_err(|error| error.to_string())
    });
    ready.await.flatten().with_context(|| operator.process.log_tail(30))?;
    Ok(operator)
}
