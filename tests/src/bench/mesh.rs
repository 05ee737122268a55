//! The mesh of a measurement: one broker with file storage, and how a bridge reaches it.

use anyhow::Result;
use async_nats::Client;
use eventmesh_wire::report::Direction;
use serde_json::{Value, json};

use super::{Arrivals, Far, Feed, WINDOW, jetstream};
use crate::identity::Login;
use crate::paths::scratch;
use crate::process::certificates::Authority;
use crate::process::nats::{create_consumer, create_stream};
use crate::process::{Accounts, Nats, Rights};

const RIGHTS: Rights =
    Rights { publish: &["in.>"], consume: &[("OUT", "c")], inspect: &["IN"], reports_as: ("bench", "bench") };

/// Where the bridge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In an account of its own: what it does crosses into the mesh's.
    Own,
    /// In the account that holds the streams.
    Mesh,
}

/// How a bridge reaches the mesh, and how it keeps what it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub place: Place,
    pub tls: bool,
    /// Of inbound routes.
    pub ingest: &'static str,
    /// The broker's `sync_interval`.
    pub sync: &'static str,
    pub ordering: &'static str,
}

/// As on a cluster.
pub const USUAL: Way = Way { place: Place::Own, tls: true, ingest: "Single", sync: "2m", ordering: "None" };

/// Where nothing of that costs anything.
pub const INSIDE: Way = Way { place: Place::Mesh, tls: false, ..USUAL };

/// A broker, whom it lets in, and whom to trust where it speaks TLS.
pub struct Mesh {
    pub nats: Nats,
    /// Without TLS and with all rights: it fills and watches streams, and is not what is measured.
    pub client: Client,
    accounts: Accounts,
    authority: Option<String>,
    way: Way,
}

impl Mesh {
    pub async fn start(way: Way) -> Result<Self> {
        let accounts = Accounts::new(RIGHTS);
        let folder = scratch("nats")?;
        let (mut extra, mut authority) = (String::new(), None);
        if way.tls {
            let own = Authority::new()?;
            let shown = own.server(&["127.0.0.1"])?;
            let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
            std::fs::write(&certificate, shown.certificate)?;
            std::fs::write(&key, shown.key)?;
            let (certificate, key) = (certificate.display(), key.display());
            extra = format!("allow_non_tls: true\ntls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}");
            authority = Some(own.pem().to_owned());
        }
        let nats = Nats::verifying(folder, way.sync, &extra, &accounts).await?;
        let client = nats.client().await?;
        create_stream(&client, "IN", &["in.>"], &json!({})).await?;
        create_stream(&client, "OUT", &["out.>"], &json!({})).await?;
        create_consumer(&client, "OUT", "c", 30).await?;
        Ok(Self { nats, client, accounts, authority, way })
    }

    /// The configuration of a bridge with routes of these directions.
    pub fn config(&self, far: &impl Far, directions: &[Direction]) -> Result<Value> {
        let mut reach = json!({"servers": [self.url()], "credentials": self.login()?.as_config()});
        if let Some(authority) = &self.authority {
            reach["caPem"] = json!(authority);
        }
        let mut config = json!({
            "version": 1,
            "bridge": {"namespace": "bench", "name": "bench", "uid": "8d5c6f1e-0000-4000-8000-000000000000"},
            "mesh": reach,
            "endpoint": far.endpoint(directions[0]),
            "delivery": {"maxInFlight": WINDOW, "ordering": self.way.ordering},
        });
        for direction in directions {
            let address = far.address(*direction);
            let (field, route) = match direction {
                Direction::Inbound => (
                    "inbound",
                    json!({"name": "in", "from": address, "to": far.subject(), "stream": "IN", "ingest": self.way.ingest}),
                ),
                Direction::Outbound => (
                    "outbound",
                    json!({"name": "out", "stream": "OUT", "consumer": "c", "subjects": ["out.*"], "to": address}),
                ),
            };
            config[field] = json!([route]);
        }
        Ok(config)
    }

    /// The folder of a sidecar with these push Subscriptions.
    pub fn bind(&self, folder: &std::path::Path, push: &Value) -> Result<()> {
        let login = self.login()?;
        let sidecar = json!({"version": 1, "mesh": {"namespace": "bench", "name": "bench"}, "namespace": "bench",
            "serviceAccount": "bench", "push": push});
        let (uri, sidecar) = (self.url(), sidecar.to_string());
        let files = [("uri", &uri), ("jwt", &login.jwt), ("nkey", &login.seed), ("sidecar.json", &sidecar)];
        for (name, text) in files {
            std::fs::write(folder.join(name), text)?;
        }
        if let Some(authority) = &self.authority {
            std::fs::write(folder.join("ca.crt"), authority)?;
        }
        Ok(())
    }

    /// Stores events that are to go out.
    pub async fn fill(&self, feed: &Feed<'_>) -> Result<()> {
        jetstream::publish(&self.client, "out", false, feed).await
    }

    /// Takes what comes in from now on, for ever.
    pub async fn watch(&self, arrivals: &mut Arrivals<'_>) -> Result<()> {
        jetstream::watch(&self.client, "IN", arrivals).await
    }

    /// Events a second that `async-nats` stores (inbound), or takes and acknowledges (outbound), with nothing behind it, where a
    /// bridge of this way is.
    pub async fn ceiling(direction: Direction, way: Way, events: u32) -> Result<f64> {
        let mesh = Self::start(way).await?;
        let client = mesh.connect().await?;
        let feed = Feed::all(events);
        if direction == Direction::Inbound {
            jetstream::publish(&client, "in", false, &feed).await?;
            return Ok(feed.rate());
        }
        mesh.fill(&feed).await?;
        let mut arrivals = Arrivals::all(events);
        jetstream::pull(&client, "OUT", "c", &mut arrivals).await?;
        Ok(arrivals.rate())
    }

    /// As the bridge connects.
    async fn connect(&self) -> Result<Client> {
        let options = self.login()?.options()?;
        let Some(authority) = &self.authority else { return Ok(options.connect(self.nats.url()).await?) };
        let file = scratch("authority")?.join("ca.crt");
        std::fs::write(&file, authority)?;
        Ok(options.add_root_certificates(file).require_tls(true).connect(self.url()).await?)
    }

    fn login(&self) -> Result<Login> {
        match self.way.place {
            Place::Own => self.accounts.bridge(),
            Place::Mesh => self.accounts.admin(),
        }
    }

    fn url(&self) -> String {
        if self.authority.is_some() { format!("tls://127.0.0.1:{}", self.nats.port) } else { self.nats.url() }
    }
}
