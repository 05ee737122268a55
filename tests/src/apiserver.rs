//! A real Kubernetes API without a cluster: etcd and kube-apiserver as child processes on the loopback.
//!
//! There are no other components: nothing runs pods, collects garbage or empties a namespace.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use crate::{
    child::{Child, Start, free_port},
    paths::{self, Stored},
    wait,
};

/// The identity that deploy/ gives the operator.
pub const OPERATOR: Identity =
    Identity { user: "system:serviceaccount:eventmesh-system:eventmesh-operator", group: "system:serviceaccounts" };

/// May do everything.
pub const ADMIN: Identity = Identity { user: "admin", group: "system:masters" };

/// How long a program may take to start, four of each at once on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// Collects garbage less often: a fifth of the processor time that such a test takes, for some memory.
const SPARING: &str = "400";

/// Who somebody is for the API server.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    user: &'static str,
    group: &'static str,
}

/// A running API server; it ends when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    authority: Authority,
    port: u16,
    folder: PathBuf,
    server: Child,
    _etcd: Child,
    _stored: Stored,
}

impl ApiServer {
    /// Starts one, with its files in `folder`, and waits until it is ready.
    pub async fn start(folder: &Path) -> Result<Self> {
        let authority = Authority::new(folder)?;
        let (etcd_port, etcd) = start_etcd(folder)?;
        // kube-apiserver gives up when etcd is not there soon.
        wait::eventually("etcd", PATIENCE, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", etcd_port)).await.map(Some).map_err(|error| error.to_string())
        })
        .await
        .with_context(|| etcd.log_tail(20))?;
        let port = free_port()?;
        let server = start_apiserver(folder, &authority, port, etcd_port)?;
        let this = Self {
            authority,
            port,
            folder: folder.to_owned(),
            server,
            _etcd: etcd,
            _stored: Stored::new(folder, "etcd"),
        };
        let client = this.client(ADMIN).await?;
        let ready = wait::eventually("readiness of kube-apiserver", PATIENCE, async || {
            if let Some(status) = this.server.exited() {
                return Ok(Some(Err(anyhow!("it has ended with {status}"))));
            }
            let answer = client.request_text(http_get("/readyz")).await;
            answer.map(|_| Some(Ok(()))).map_err(|error| error.to_string())
        });
        ready.await.flatten().with_context(|| this.server.log_tail(20))?;
        Ok(this)
    }

    /// A kubeconfig file for `identity`.
    pub fn kubeconfig(&self, identity: Identity) -> Result<PathBuf> {
        let (certificate, key) = self.authority.client(identity)?;
        let name = identity.user.rsplit(':').next().unwrap_or_default();
        let write = |suffix: &str, text: &str| -> Result<PathBuf> {
            let path = self.folder.join(format!("{name}.{suffix}"));
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let (certificate, key) = (write("crt", &certificate)?, write("key", &key)?);
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.authority.file(),
            }}],
            "users": [{"name": "test", "user": {"client-certificate": certificate, "client-key": key}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        write("kubeconfig", &text.to_string())
    }

    pub async fn client(&self, identity: Identity) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(identity)?)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Runs kubectl as an administrator and gives what it printed.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig(ADMIN)?, &self.folder.join("kubectl-cache"), args).await
    }
}

/// Runs kubectl and gives what it printed.
pub async fn kubectl(kubeconfig: &Path, cache: &Path, args: &[&str]) -> Result<String> {
    let output = tokio::process::Command::new(paths::tool("kubectl")?)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--cache-dir")
        .arg(cache)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn http_get(path: &str) -> http::Request<Vec<u8>> {
    let mut request = http::Request::new(Vec::new());
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    request
}

fn start_etcd(folder: &Path) -> Result<(u16, Child)> {
    let (port, peer_port) = (free_port()?, free_port()?);
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let etcd = Start::new(&paths::tool("etcd")?, folder)
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .env("GOGC", SPARING)
        // What a test stores need not outlive a power failure.
        .args(["--unsafe-no-fsync", "--log-level", "warn"])
        .spawn()?;
    Ok((port, etcd))
}

fn start_apiserver(folder: &Path, authority: &Authority, port: u16, etcd_port: u16) -> Result<Child> {
    let (certificate, key) = authority.server()?;
    let file = |name: &str| folder.join(name).display().to_string();
    std::fs::write(file("apiserver.crt"), certificate)?;
    std::fs::write(file("apiserver.key"), key)?;
    let tokens = KeyPair::generate()?;
    std::fs::write(file("tokens.key"), tokens.serialize_pem())?;
    std::fs::write(file("tokens.pub"), tokens.public_key_pem())?;
    Start::new(&paths::tool("kube-apiserver")?, folder)
        .env("GOGC", SPARING)
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={port}"))
        .arg(format!("--cert-dir={}", file("certs")))
        .arg(format!("--tls-cert-file={}", file("apiserver.crt")))
        .arg(format!("--tls-private-key-file={}", file("apiserver.key")))
        .arg(format!("--client-ca-file={}", authority.file().display()))
        .arg(format!("--service-account-key-file={}", file("tokens.pub")))
        .arg(format!("--service-account-signing-key-file={}", file("tokens.key")))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg("--service-cluster-ip-range=10.0.0.0/24")
        .arg("--authorization-mode=RBAC")
        .arg("--endpoint-reconciler-type=none")
        .spawn()
}

/// The certificate authority that the API server and its clients trust.
#[derive(Debug)]
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let file = folder.join("ca.crt");
        std::fs::write(&file, params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), file })
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn server(&self) -> Result<(String, String)> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        self.sign(&params)
    }

    fn client(&self, identity: Identity) -> Result<(String, String)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, identity.user);
        params.distinguished_name.push(DnType::OrganizationName, identity.group);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}
