//! A Kafka of one node, broker and controller in one, on its own folder and ports.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpStream;

use super::certificates::{Authority, Identity};
use crate::child::{Child, Start, free_port};
use crate::paths::repository;
use crate::wait::eventually;

/// Whom the listeners with SASL let in, by PLAIN and by both SCRAMs.
pub const USER: &str = "bridge";
pub const PASSWORD: &str = "bridge-secret";
/// Whom the SCRAMs let in too: for a test that ends the user.
pub const OTHER_USER: &str = "bridge-other";
pub const OTHER_PASSWORD: &str = "other-secret";

/// A heap and a start that suit a test machine: a broker that is used for a minute pays for no second compiler.
const JVM: [&str; 5] = [
    "-Xms64m",
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

/// A running Kafka with a listener for each way to connect. Killing and starting it again keeps ports and data.
pub struct Kafka {
    child: Child,
    folder: PathBuf,
    authority: Authority,
    /// The address it listens at.
    host: String,
    ports: Ports,
}

/// Where it listens.
#[derive(Clone, Copy)]
struct Ports {
    controller: u16,
    plain: u16,
    sasl: u16,
    sasl_tls: u16,
    tls: u16,
    expired: u16,
}

impl Kafka {
    /// Topics are not made by themselves; a test makes its own. `extra` is appended to its configuration.
    pub async fn start(folder: PathBuf, extra: &str) -> Result<Self> {
        Self::start_at("127.0.0.1", folder, extra).await
    }

    /// At another address of this machine, by which pods can reach it.
    pub async fn start_at(host: &str, folder: PathBuf, extra: &str) -> Result<Self> {
        let ports = Ports {
            controller: free_port()?,
            plain: free_port()?,
            sasl: free_port()?,
            sasl_tls: free_port()?,
            tls: free_port()?,
            expired: free_port()?,
        };
        let authority = Authority::new()?;
        std::fs::write(folder.join("server.properties"), configuration(&folder, (host, ports), &authority, extra)?)?;
        format(&folder)?;
        let child = Self::spawn(&folder)?;
        let this = Self { child, folder, authority, host: host.to_owned(), ports };
        this.listens().await?;
        Ok(this)
    }

    fn spawn(folder: &Path) -> Result<Child> {
        Start::new(Path::new("/usr/bin/java"), folder)
            .args(JVM)
            .args(["-cp", &classes()?, "kafka.Kafka"])
            .arg(folder.join("server.properties"))
            .spawn()
    }

    async fn listens(&self) -> Result<()> {
        // Several at once on a busy machine take their time.
        let address = (self.host.as_str(), self.ports.plain);
        let listening = eventually("Kafka", Duration::from_mins(5), async || {
            if let Some(status) = self.child.exited() {
                return Err(format!("it ended: {status}"));
            }
            TcpStream::connect(address).await.map(Some).map_err(|error| error.to_string())
        });
        listening.await.map(drop).with_context(|| self.child.log_tail(20))
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// After [`Kafka::kill`]: the same ports and data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = Self::spawn(&self.folder)?;
        self.listens().await
    }

    /// SIGSTOP: it keeps its connections and answers nobody.
    pub fn freeze(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT, after [`Kafka::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.pid().to_string()]).status()?;
        ensure!(status.success(), "cannot signal Kafka");
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.child.log_tail(lines)
    }

    /// The authority that signed its certificates, and that signs clients for [`Kafka::tls`].
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// For everybody, without TLS.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("{}:{}", self.host, self.ports.plain)
    }

    /// For [`USER`], without TLS.
    #[must_use]
    pub fn sasl(&self) -> String {
        format!("{}:{}", self.host, self.ports.sasl)
    }

    /// For [`USER`], with TLS.
    #[must_use]
    pub fn sasl_tls(&self) -> String {
        format!("{}:{}", self.host, self.ports.sasl_tls)
    }

    /// For whoever shows a certificate of the authority.
    #[must_use]
    pub fn tls(&self) -> String {
        format!("{}:{}", self.host, self.ports.tls)
    }

    /// With a certificate that ended years ago.
    #[must_use]
    pub fn expired(&self) -> String {
        format!("{}:{}", self.host, self.ports.expired)
    }
}

fn classes() -> Result<String> {
    let folder = repository().join(".build/kafka");
    ensure!(folder.exists(), "{} is not there: run `tests/tools/build kafka`", folder.display());
    Ok(format!("{}/*", folder.display()))
}

fn configuration(folder: &Path, (host, ports): (&str, Ports), authority: &Authority, extra: &str) -> Result<String> {
    let Ports { controller, plain, sasl, sasl_tls, tls, expired } = ports;
    let listeners = [("PLAIN", plain), ("SASL", sasl), ("SASLTLS", sasl_tls), ("TLS", tls), ("EXPIRED", expired)];
    let listeners = listeners.map(|(name, port)| format!("{name}://{host}:{port}")).join(",");
    let mut text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT,SASLTLS:SASL_SSL,TLS:SSL,EXPIRED:SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
log.dirs={}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.consumer.min.session.timeout.ms=10000
group.consumer.session.timeout.ms=10000
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=1000
num.network.threads=1
num.io.threads=2
listener.name.tls.ssl.client.auth=required
",
        folder.join("data").display()
    );
    for listener in ["sasl", "sasltls"] {
        let prefix = format!("listener.name.{listener}");
        let module = "org.apache.kafka.common.security";
        writeln!(
            text,
            "{prefix}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";"
        )?;
        for scram in ["scram-sha-256", "scram-sha-512"] {
            writeln!(text, "{prefix}.{scram}.sasl.jaas.config={module}.scram.ScramLoginModule required;")?;
        }
    }
    let good = authority.server(&["127.0.0.1"])?;
    let old = authority.server_between(&["127.0.0.1"], 2020, 2021)?;
    for (listener, identity) in [("sasltls", &good), ("tls", &good), ("expired", &old)] {
        text.push_str(&certificates(&format!("listener.name.{listener}."), identity, authority));
    }
    text.push_str(extra);
    Ok(text)
}

/// The certificate of a listener, and whose clients it trusts.
fn certificates(prefix: &str, identity: &Identity, authority: &Authority) -> String {
    // A property is one line.
    let inline = |pem: &str| pem.trim().replace('\n', "\\n");
    format!(
        "{prefix}ssl.keystore.type=PEM\n{prefix}ssl.keystore.certificate.chain={}\n{prefix}ssl.keystore.key={}\n{prefix}ssl.truststore.type=PEM\n{prefix}ssl.truststore.certificates={}\n",
        inline(&identity.certificate),
        inline(&identity.key),
        inline(authority.pem())
    )
}

/// Prepares the data folder, with the users that SCRAM knows.
fn format(folder: &Path) -> Result<()> {
    let mut command = Command::new("/usr/bin/java");
    command.args(JVM).args(["-cp", &classes()?, "kafka.tools.StorageTool", "format", "--standalone"]);
    command.args(["--cluster-id", "4L6g3nShT-eMCtK--X86sw", "--config"]).arg(folder.join("server.properties"));
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for (user, password) in [(USER, PASSWORD), (OTHER_USER, OTHER_PASSWORD)] {
            command.args(["--add-scram", &format!("{mechanism}=[name={user},password={password}]")]);
        }
    }
    let output = command.output().context("cannot run java")?;
    ensure!(output.status.success(), "Kafka's storage tool failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
