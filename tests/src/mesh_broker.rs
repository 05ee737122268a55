//! The kubelet's part for a mesh of one broker: it runs the very files that the operator has made for the pod, with paths and addresses
//! of this machine in place of a pod's.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use eventmesh_crds::EventMesh;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::{
    broker::Broker,
    child::{Child, Start},
    identity::Login,
    objects::Namespace,
    paths::{self, Stored},
    wait::eventually,
};

/// How long a program may take to listen, on a slow machine.
const SOON: Duration = Duration::from_mins(1);

/// Where a broker listens on this machine.
#[derive(Debug, Clone)]
pub struct Place {
    pub host: String,
    pub port: u16,
    pub leaf: u16,
}

/// A broker, which ends when this is dropped.
pub struct MeshBroker {
    namespace: Namespace,
    mesh: String,
    place: Place,
    /// Addresses of Services, and what is there in place of each.
    services: Vec<(String, String)>,
    folder: PathBuf,
    process: Option<Child>,
    _stored: Stored,
}

/// Whether the operator has made files of the spec as it is, and not only of one before.
fn is_programmed(mesh: &EventMesh) -> Option<()> {
    let mut conditions = mesh.status.as_ref()?.conditions.iter();
    let told = conditions.find(|condition| condition.type_ == "Programmed" && condition.status == "True")?;
    (told.observed_generation == mesh.metadata.generation).then_some(())
}

impl MeshBroker {
    /// Starts one once the operator has made its files.
    pub async fn start(namespace: &Namespace, mesh: &str, place: Place, services: &[(String, String)]) -> Result<Self> {
        let folder = paths::scratch(&format!("broker-{mesh}"))?;
        let mut broker = Self {
            namespace: namespace.clone(),
            mesh: mesh.to_owned(),
            place,
            services: services.to_vec(),
            _stored: Stored::new(&folder, "data"),
            folder,
            process: None,
        };
        namespace.until::<EventMesh, _>(mesh, "one whose files are those of its spec", is_programmed).await?;
        broker.restart().await?;
        Ok(broker)
    }

    /// Ends it and starts it again, with its data and the files as they are now.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop();
        self.sync().await?;
        let start = Start::new(&paths::tool("nats-server")?, &self.folder);
        let start = start.arg("--config").arg(self.folder.join("nats.conf"));
        let process = start.env("POD_NAME", format!("{}-broker-0", self.mesh)).spawn()?;
        let at = (self.place.host.as_str(), self.place.port);
        let up = eventually("broker", SOON, async || {
            tokio::net::TcpStream::connect(at).await.map(Some).map_err(|error| error.to_string())
        });
        up.await.with_context(|| process.log_tail(20))?;
        self.process = Some(process);
        Ok(())
    }

    /// It ends without warning.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Brings its files up to date.
    pub async fn sync(&self) -> Result<()> {
        let secret = |role: &str| format!("{}-{role}", self.mesh);
        self.namespace.secret(&secret("broker-tls"), "revision.conf").await?;
        self.namespace.secret(&secret("broker"), "auth.conf").await?;
        let named = |config: &ConfigMap| config.data.as_ref()?.get("nats.conf").cloned();
        let config = self.namespace.until::<ConfigMap, _>(&secret("broker"), "a configuration", named).await?;
        let secrets = self.namespace.api::<Secret>();
        for (role, below) in [("broker", ""), ("broker-tls", "tls"), ("links", "")] {
            let Some(found) = secrets.get_opt(&secret(role)).await? else { continue };
            std::fs::create_dir_all(self.folder.join(below))?;
            for (file, bytes) in found.data.unwrap_or_default() {
                std::fs::write(self.folder.join(below).join(file), self.here(&String::from_utf8(bytes.0)?))?;
            }
        }
        Ok(std::fs::write(self.folder.join("nats.conf"), self.here(&config))?)
    }

    fn here(&self, text: &str) -> String {
        let (folder, Place { host, port, leaf }) = (self.folder.display(), &self.place);
        let text = text
            .replace("/etc/nats", &folder.to_string())
            .replace("\"/data", &format!("\"{folder}/data"))
            .replace("/var/run/nats", &folder.to_string())
            .replace("0.0.0.0:8222", "127.0.0.1:-1")
            .replace("0.0.0.0:4222", &format!("{host}:{port}"))
            .replace("0.0.0.0:7422", &format!("{host}:{leaf}"));
        self.services.iter().fold(text, |text, (service, address)| text.replace(service, address))
    }

    /// A connection with the rights of the operator.
    pub async fn connect(&self) -> Result<Broker> {
        let login = Login::operator(&self.namespace, &self.mesh).await?;
        Broker::connect(&format!("nats://{}:{}", self.place.host, self.place.port), &login).await
    }

    /// All that it has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(|process| process.log_tail(usize::MAX)).unwrap_or_default()
    }
}
