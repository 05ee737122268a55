//! Everything but the pods: a real API server with deploy/ applied, the operator's release binary under the rights that
//! deploy/ gives it, and a broker that runs the configuration which the operator has made.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    apiserver::{ADMIN, ApiServer, OPERATOR},
    broker::Broker,
    child::{Child, Start, free_port},
    objects::{Kube, Namespace, OperatorLog},
    paths, wait,
};

/// Namespace and name of the mesh that [`Stack::start`] makes.
pub const MESH_NAMESPACE: &str = "platform";
pub const MESH: &str = "retail";

/// How long one step may take. The longest is that the operator gives a broker up that does not answer.
const PATIENCE: Duration = Duration::from_secs(40);

const MESH_YAML: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: platform}
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
    broker: Option<Child>,
}

/// How the operator is started.
#[derive(Debug)]
pub struct Operator {
    pub process: Child,
    admin_port: u16,
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
        let folder = paths::scratch(name)?;
        let api = ApiServer::start(&folder).await?;
        api.kubectl(&["apply", "--server-side", "-k", &paths::repository().join("deploy").display().to_string()])
            .await?;
        let broker_port = free_port()?;
        let operator = start_operator(&api, &folder, broker_port).await?;
        let log = operator.process.log().to_owned();
        let kube = Kube { client: api.client(ADMIN).await?, operator_log: OperatorLog::File(log), patience: PATIENCE };
        Ok(Self { kube, api, operator, folder, broker_port, broker: None })
    }

    /// The namespace of the mesh.
    #[must_use]
    pub fn mesh(&self) -> Namespace {
        self.kube.namespace(MESH_NAMESPACE)
    }

    /// Starts the broker of a mesh with the users that the operator has made for it.
    pub async fn start_broker(&mut self, namespace: &Namespace, mesh: &str) -> Result<()> {
        let secret = format!("{mesh}-broker");
        let users = namespace.secret(&secret, "auth.conf").await?;
        let users: Vec<&str> = users.lines().filter(|line| !line.starts_with("CLUSTER_PASSWORD")).collect();
        std::fs::write(self.folder.join("auth.conf"), users.join("\n"))?;
        let config = format!(
            "server_name: test\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\", max_file_store: 10G }}\n\
             include auth.conf\n",
            self.broker_port,
            self.folder.join("jetstream").display()
        );
        let file = self.folder.join("nats.conf");
        std::fs::write(&file, config)?;
        let process = Start::new(&paths::tool("nats-server")?, &self.folder).arg("--config").arg(&file).spawn()?;
        let ready = wait::eventually("broker", Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.broker_port)).await.map(Some).map_err(|e| e.to_string())
        });
        ready.await.with_context(|| process.log_tail(20))?;
        self.broker = Some(process);
        Ok(())
    }

    /// The broker ends without warning.
    pub fn kill_broker(&mut self) {
        self.broker = None;
    }

    /// The operator ends without warning, and another starts.
    pub async fn restart_operator(&mut self) -> Result<()> {
        self.operator.process.kill()?;
        self.operator = start_operator(&self.api, &self.folder, self.broker_port).await?;
        Ok(())
    }

    /// A connection with the rights of the operator.
    pub async fn broker(&self, namespace: &Namespace, mesh: &str) -> Result<Broker> {
        let secret = format!("{mesh}-broker");
        let user = namespace.secret(&secret, "operator-user").await?;
        let password = namespace.secret(&secret, "operator-password").await?;
        Broker::connect(&self.broker_address(), &user, &password).await
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

/// Starts the release binary as it runs in its pod, and waits until it says that it is ready.
async fn start_operator(api: &ApiServer, folder: &std::path::Path, broker_port: u16) -> Result<Operator> {
    let admin_port = free_port()?;
    let process = Start::new(&paths::release("eventmesh-operator")?, folder)
        .args(["run", "--broker-image", "localhost/event-mesh/broker:test"])
        .args(["--bridge-image", "localhost/event-mesh/bridge:test"])
        .args(["--broker-address", &format!("nats://127.0.0.1:{broker_port}")])
        .args(["--admin-addr", &format!("127.0.0.1:{admin_port}")])
        .args(["--leader-election", "false", "--log-format", "text"])
        .env("KUBECONFIG", api.kubeconfig(OPERATOR)?)
        .env("POD_NAME", "operator-0")
        .env("POD_NAMESPACE", "eventmesh-system")
        .env("RUST_LOG", std::env::var("OPERATOR_LOG").unwrap_or_else(|_| "info".to_owned()))
        .spawn()?;
    let operator = Operator { process, admin_port };
    let ready = wait::eventually("readiness of the operator", Duration::from_secs(20), async || {
        if let Some(status) = operator.process.exited() {
            return Ok(Some(Err(anyhow!("it has ended with {status}"))));
        }
        operator.admin("/readyz").await.map(|_| Some(Ok(()))).map_err(|error| error.to_string())
    });
    ready.await.flatten().with_context(|| operator.process.log_tail(30))?;
    Ok(operator)
}
