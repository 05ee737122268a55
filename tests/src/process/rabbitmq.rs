//! A RabbitMQ on its own folder and ports.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::certificates::{Authority, Identity};
use super::ready;
use crate::child::{Child, Start, free_port};

/// Where Debian's package has its programs. The ones in `/usr/sbin` change to a user of their own and to a folder of theirs.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// An Erlang node reads its configuration and loads some fifty applications first.
const BOOT: Duration = Duration::from_mins(5);

/// A running RabbitMQ. Killing and starting it again keeps ports and data.
pub struct Rabbitmq {
    child: Child,
    /// Where the broker's Erlang node is registered; one of our own, since the usual one would outlive the test.
    _names: Child,
    folder: PathBuf,
    names_port: u16,
    node_port: u16,
    pub port: u16,
}

impl Rabbitmq {
    /// Who is let in, to the virtual host `/` with all rights.
    pub const USER: &str = "mesh";
    pub const PASSWORD: &str = "only-for-tests";

    /// `extra` is appended to its `rabbitmq.conf`.
    pub async fn start(folder: PathBuf, extra: &str) -> Result<Self> {
        let (port, names_port, node_port) = (free_port()?, free_port()?, free_port()?);
        let definitions = json!({
            "users": [{"name": Self::USER, "password": Self::PASSWORD, "tags": ""}],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": Self::USER, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
        });
        std::fs::write(folder.join("definitions.json"), serde_json::to_vec(&definitions)?)?;
        let mut config = format!("listeners.tcp.1 = 127.0.0.1:{port}\n");
        writeln!(config, "load_definitions = {}", folder.join("definitions.json").display())?;
        writeln!(config, "log.console = true\nlog.console.level = warning\nlog.file = false\n{extra}")?;
        std::fs::write(folder.join("rabbitmq.conf"), config)?;
        std::fs::write(folder.join("enabled_plugins"), "[rabbitmq_auth_mechanism_ssl].\n")?;
        std::fs::create_dir_all(folder.join("home"))?;
        let names = Start::new(Path::new("/usr/bin/epmd"), &folder)
            .args(["-address", "127.0.0.1", "-port"])
            .arg(names_port.to_string())
            .spawn()?;
        ready("epmd", &names, names_port, BOOT).await?;
        let child = spawn(&folder, port, names_port, node_port)?;
        let this = Self { child, _names: names, folder, names_port, node_port, port };
        this.ready().await?;
        Ok(this)
    }

    /// Settings for a second listener, with TLS. `clients`: only clients that this authority has signed, whom the name in
    /// their certificate lets in.
    pub fn tls(folder: &Path, port: u16, identity: &Identity, clients: Option<&Authority>) -> Result<String> {
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            std::fs::write(&file, text)?;
            anyhow::Ok(file.display().to_string())
        };
        let (certificate, key) = (write("server.crt", &identity.certificate)?, write("server.key", &identity.key)?);
        let mut text = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n"
        );
        if let Some(authority) = clients {
            let file = write("clients.crt", authority.pem())?;
            writeln!(text, "ssl_options.cacertfile = {file}\nssl_options.verify = verify_peer")?;
            writeln!(text, "ssl_options.fail_if_no_peer_cert = true\nssl_cert_login_from = common_name")?;
            writeln!(text, "auth_mechanisms.1 = EXTERNAL\nauth_mechanisms.2 = PLAIN")?;
        }
        Ok(text)
    }

    /// Runs `rabbitmqctl`, and gives what it printed.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(Path::new(PROGRAMS).join("rabbitmqctl"));
        command.envs(environment(&self.folder, self.port, self.names_port, self.node_port));
        let output = command.arg("--quiet").args(arguments).output().context("cannot start rabbitmqctl")?;
        ensure!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Has the definitions of queues and exchanges on disk. RabbitMQ confirms them, and even events that it stores in such a
    /// queue, some two seconds before: what is killed in between comes back without the queue and all that it held.
    pub fn write_definitions(&self) -> Result<()> {
        self.control(&["eval", "mnesia:sync_log()."]).map(drop)
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// After [`Rabbitmq::kill`]: the same port and data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.folder, self.port, self.names_port, self.node_port)?;
        self.ready().await
    }

    /// A signal to its process: `STOP` makes it hang, `CONT` go on.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.pid().to_string()]).status()?;
        ensure!(status.success(), "cannot signal RabbitMQ");
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.child.log_tail(lines)
    }

    /// Without credentials; these are [`Rabbitmq::USER`] and [`Rabbitmq::PASSWORD`].
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    async fn ready(&self) -> Result<()> {
        ready("RabbitMQ", &self.child, self.port, BOOT).await
    }
}

fn spawn(folder: &Path, port: u16, names_port: u16, node_port: u16) -> Result<Child> {
    let mut start = Start::new(&Path::new(PROGRAMS).join("rabbitmq-server"), folder).arg("-noinput");
    for (name, value) in environment(folder, port, names_port, node_port) {
        start = start.env(name, value);
    }
    start.spawn()
}

/// What a node and its tools are told: all their files in one folder, all their ports on the loopback, no helper that
/// stays behind. With `RABBITMQ_ALLOW_INPUT` the start script becomes the node instead of waiting for it.
fn environment(folder: &Path, port: u16, names_port: u16, node_port: u16) -> Vec<(&'static str, String)> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        ("HOME", file("home")),
        ("ERL_EPMD_PORT", names_port.to_string()),
        ("ERL_AFLAGS", "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        ("RABBITMQ_ALLOW_INPUT", "true".to_owned()),
        ("RABBITMQ_NODENAME", format!("test-{port}@localhost")),
        ("RABBITMQ_DIST_PORT", node_port.to_string()),
        ("RABBITMQ_CONF_ENV_FILE", file("none")),
        ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", file("data")),
        ("RABBITMQ_LOG_BASE", file("log")),
        // A scheduler that spins while it waits takes the processor from the program under test.
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none".to_owned()),
    ]
}
