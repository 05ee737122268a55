//! An ActiveMQ Artemis on its own folder and port.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::certificates::{Authority, Identity};
use super::ready;
use crate::{
    child::{Child, Start, free_port},
    paths,
};

/// A virtual machine starts, and reads its journal.
const BOOT: Duration = Duration::from_mins(5);

/// A running Artemis that speaks AMQP 1.0. Killing and starting it again keeps port and data.
pub struct Artemis {
    child: Child,
    folder: PathBuf,
    pub port: u16,
}

/// What differs between tests.
#[derive(Debug, Default, Clone)]
pub struct Settings {
    /// Further `acceptor` elements, as [`Artemis::tls`] writes them.
    pub acceptors: String,
    /// `address-setting` elements, which go before the one for all addresses.
    pub address_settings: String,
}

impl Artemis {
    /// Who is let in.
    pub const USER: &str = "mesh";
    pub const PASSWORD: &str = "only-for-tests";

    pub async fn start(folder: PathBuf, settings: &Settings) -> Result<Self> {
        let port = free_port()?;
        let etc = folder.join("etc");
        std::fs::create_dir_all(&etc)?;
        std::fs::create_dir_all(folder.join("tmp"))?;
        std::fs::write(etc.join("broker.xml"), broker(&folder, port, settings))?;
        std::fs::write(etc.join("bootstrap.xml"), bootstrap(&etc))?;
        std::fs::write(etc.join("management.xml"), MANAGEMENT)?;
        std::fs::write(etc.join("login.config"), LOGIN)?;
        std::fs::write(etc.join("users.properties"), format!("{} = {}\n", Self::USER, Self::PASSWORD))?;
        std::fs::write(etc.join("certificates.properties"), format!("{0} = CN={0}\n", Self::USER))?;
        std::fs::write(etc.join("roles.properties"), format!("all = {}\n", Self::USER))?;
        std::fs::write(etc.join("log4j2.properties"), LOG)?;
        let child = spawn(&folder)?;
        let this = Self { child, folder, port };
        this.ready().await?;
        Ok(this)
    }

    /// An acceptor with TLS. `clients`: only clients that this authority has signed; one whose certificate names
    /// [`Artemis::USER`] is let in as that.
    pub fn tls(folder: &Path, port: u16, identity: &Identity, clients: Option<&Authority>) -> Result<String> {
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            std::fs::write(&file, text)?;
            anyhow::Ok(file.display().to_string())
        };
        let chain = write("server.pem", &format!("{}\n{}", identity.key, identity.certificate))?;
        let mut options = format!("sslEnabled=true;keyStorePath={chain};keyStoreType=PEM");
        if let Some(authority) = clients {
            let file = write("clients.pem", authority.pem())?;
            write!(options, ";needClientAuth=true;trustStorePath={file};trustStoreType=PEMCA")?;
            options.push_str(";saslMechanisms=EXTERNAL,PLAIN");
        }
        Ok(acceptor("tls", port, &options))
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// After [`Artemis::kill`]: the same port and data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.folder)?;
        self.ready().await
    }

    /// A signal to its process: `STOP` makes it hang, `CONT` go on.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.pid().to_string()]).status()?;
        ensure!(status.success(), "cannot signal Artemis");
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        self.child.log_tail(lines)
    }

    /// Without credentials; these are [`Artemis::USER`] and [`Artemis::PASSWORD`].
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    async fn ready(&self) -> Result<()> {
        ready("Artemis", &self.child, self.port, BOOT).await
    }
}

fn spawn(folder: &Path) -> Result<Child> {
    let home = paths::repository().join(".build/tools/artemis");
    ensure!(home.exists(), "{} is not there: run `tests/tools/artemis`", home.display());
    let property = |name: &str, path: &Path| format!("-D{name}={}", path.display());
    Start::new(Path::new("/usr/bin/java"), folder)
        .args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(property("artemis.home", &home))
        .arg(property("artemis.instance", folder))
        .arg(property("artemis.instance.etc", &folder.join("etc")))
        .arg(property("java.security.auth.login.config", &folder.join("etc/login.config")))
        .arg(property("java.io.tmpdir", &folder.join("tmp")))
        .arg(property("log4j2.configurationFile", &folder.join("etc/log4j2.properties")))
        .arg("-classpath")
        .arg(home.join("lib/artemis-boot.jar"))
        .args(["org.apache.activemq.artemis.boot.Artemis", "run"])
        .spawn()
}

fn acceptor(name: &str, port: u16, options: &str) -> String {
    format!("<acceptor name=\"{name}\">tcp://127.0.0.1:{port}?protocols=AMQP;{options}</acceptor>\n")
}

/// What whoever is let in may do: all there is.
const PERMISSIONS: [&str; 10] = [
    "createDurableQueue",
    "deleteDurableQueue",
    "createNonDurableQueue",
    "deleteNonDurableQueue",
    "createAddress",
    "deleteAddress",
    "consume",
    "browse",
    "send",
    "manage",
];

/// A queue comes into being when it is first named, but below `fixed.`; nothing is dropped, and a full address refuses.
fn broker(folder: &Path, port: u16, settings: &Settings) -> String {
    let data = folder.join("data");
    let data = data.display();
    let acceptor = acceptor("amqp", port, "");
    let mut permissions = String::new();
    for what in PERMISSIONS {
        permissions.push_str("<permission type=\"");
        permissions.push_str(what);
        permissions.push_str("\" roles=\"all\"/>");
    }
    format!(
        r##"<configuration xmlns="urn:activemq"><core xmlns="urn:activemq:core">
<name>test</name>
<persistence-enabled>true</persistence-enabled>
<journal-type>NIO</journal-type>
<journal-datasync>false</journal-datasync>
<journal-file-size>1M</journal-file-size>
<journal-directory>{data}/journal</journal-directory>
<bindings-directory>{data}/bindings</bindings-directory>
<paging-directory>{data}/paging</paging-directory>
<large-messages-directory>{data}/large</large-messages-directory>
<max-disk-usage>-1</max-disk-usage>
<acceptors>{acceptor}{}</acceptors>
<security-settings><security-setting match="#">{permissions}</security-setting></security-settings>
<address-settings>{}
<address-setting match="fixed.#"><auto-create-queues>false</auto-create-queues>
<auto-create-addresses>false</auto-create-addresses></address-setting>
<address-setting match="#"><max-delivery-attempts>-1</max-delivery-attempts>
<default-address-routing-type>ANYCAST</default-address-routing-type><default-queue-routing-type>ANYCAST</default-queue-routing-type>
<auto-delete-queues>false</auto-delete-queues><auto-delete-addresses>false</auto-delete-addresses>
</address-setting></address-settings>
</core></configuration>
"##,
        settings.acceptors, settings.address_settings
    )
}

fn bootstrap(etc: &Path) -> String {
    format!(
        r#"<broker xmlns="http://activemq.apache.org/schema"><jaas-security domain="activemq"/>
<server configuration="file:{}/broker.xml"/></broker>
"#,
        etc.display()
    )
}

const LOGIN: &str = r#"activemq {
   org.apache.activemq.artemis.spi.core.security.jaas.TextFileCertificateLoginModule sufficient
       org.apache.activemq.jaas.textfiledn.user="certificates.properties"
       org.apache.activemq.jaas.textfiledn.role="roles.properties";
   org.apache.activemq.artemis.spi.core.security.jaas.PropertiesLoginModule sufficient
       org.apache.activemq.jaas.properties.user="users.properties"
       org.apache.activemq.jaas.properties.role="roles.properties";
};
"#;

/// Who may see it by JMX: nobody asks.
const MANAGEMENT: &str = "<management-context xmlns=\"http://activemq.apache.org/schema\"/>\n";

const LOG: &str = "rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5level [%logger] %msg%n
";
