//! What a sidecar costs: the same client with it and without it, beside the same broker.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::Client;
use futures::StreamExt as _;
use serde_json::json;

use super::{Feed, jetstream, row::median};
use crate::identity::Login;
use crate::paths::{self, scratch};
use crate::process::nats::create_stream;
use crate::process::{Accounts, Authority, Nats, Rights, Sidecar};

const RIGHTS: Rights = Rights { publish: &["in.>"], consume: &[], inspect: &[], reports_as: ("bench", "bench") };
/// Bytes of a message.
const SIZE: usize = 256;
/// Requests of a run, after a tenth as many that are not counted.
const REQUESTS: u32 = 5_000;
/// Connections of an application under full load, and how long it lasts.
const CONNECTIONS: usize = 100;
const LOAD: Duration = Duration::from_secs(10);

/// What one client came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Of a request and its answer, in microseconds.
    pub p50: f64,
    pub p99: f64,
    /// Messages a second, at most once.
    pub core: f64,
    /// Events a second, stored.
    pub stored: f64,
}

impl Figures {
    /// The median of each by itself.
    #[must_use]
    pub fn median(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(all.iter().map(figure).collect());
        Self { p50: of(|one| one.p50), p99: of(|one| one.p99), core: of(|one| one.core), stored: of(|one| one.stored) }
    }
}

/// MiB of a sidecar.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Connected to its mesh, without an application.
    pub rest: f64,
    /// The highest while a hundred connections carry as much as they can, both ways.
    pub load: f64,
}

/// A broker with TLS and accounts, and a sidecar beside it.
pub struct World {
    accounts: Accounts,
    authority: Authority,
    nats: Nats,
    sidecar: Sidecar,
}

impl World {
    pub async fn start() -> Result<Self> {
        let accounts = Accounts::of_application(RIGHTS, &["core.>"], 300);
        let (authority, folder) = (Authority::new()?, scratch("nats")?);
        let shown = authority.server(&["127.0.0.1"])?;
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        std::fs::write(&certificate, shown.certificate)?;
        std::fs::write(&key, shown.key)?;
        let (certificate, key) = (certificate.display(), key.display());
        let extra = format!("allow_non_tls: true\ntls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}");
        let nats = Nats::verifying(folder, "2m", &extra, &accounts).await?;
        create_stream(&nats.client().await?, "IN", &["in.>"], &json!({})).await?;
        let sidecar = Sidecar::start(&paths::release("eventmesh-sidecar")?, scratch("sidecar")?)?;
        let login = Login { ca: Some(authority.pem().to_owned()), ..accounts.bridge()? };
        sidecar.bind(&format!("tls://127.0.0.1:{}", nats.port), &login, None)?;
        sidecar.is(200, "ok").await?;
        Ok(Self { accounts, authority, nats, sidecar })
    }

    /// As an application connects that has credentials and TLS itself.
    async fn direct(&self) -> Result<Client> {
        let file = scratch("authority")?.join("ca.crt");
        std::fs::write(&file, self.authority.pem())?;
        let options = self.accounts.bridge()?.options()?.add_root_certificates(file).require_tls(true);
        Ok(options.connect(format!("tls://127.0.0.1:{}", self.nats.port)).await?)
    }

    /// As an application connects that has a sidecar.
    async fn beside(&self) -> Result<Client> {
        Ok(async_nats::connect(self.sidecar.url()).await?)
    }

    /// Measures one client: its requests, which another one answers that has no sidecar, and what it publishes.
    pub async fn measure(&self, sidecar: bool, events: u32) -> Result<Figures> {
        let client = if sidecar { self.beside().await? } else { self.direct().await? };
        let (p50, p99) = self.requests(&client).await?;
        let begun = Instant::now();
        for _ in 0..events {
            client.publish("core.nobody", vec![7; SIZE].into()).await?;
        }
        // The broker answers this when it has read all before it.
        client.flush().await?;
        round_trip(&client).await?;
        let core = f64::from(events) / begun.elapsed().as_secs_f64();
        let feed = Feed::all(events / 4);
        jetstream::publish(&client, "in", false, &feed).await?;
        Ok(Figures { p50, p99, core, stored: feed.rate() })
    }

    async fn requests(&self, client: &Client) -> Result<(f64, f64)> {
        let responder = self.direct().await?;
        let mut questions = responder.subscribe("core.ask").await?;
        round_trip(&responder).await?;
        let answering = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                if let Some(reply) = question.reply {
                    let _ = responder.publish(reply, question.payload).await;
                }
            }
        });
        let mut times = Vec::with_capacity(REQUESTS as usize);
        for number in 0..REQUESTS + REQUESTS / 10 {
            let begun = Instant::now();
            client.request("core.ask", vec![7; SIZE].into()).await?;
            if number >= REQUESTS / 10 {
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
        answering.abort();
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Ok((at(50), at(99)))
    }

    /// Memory of the sidecar, which has carried nothing yet.
    pub async fn memory(&self) -> Result<Memory> {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let rest = mebibytes(self.sidecar.child.memory("VmRSS")?);
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            let client = self.beside().await?;
            let subject = format!("core.load.{number}");
            // It hears what it says: as much goes the one way as the other.
            let mut own = client.subscribe(subject.clone()).await?;
            clients.push(tokio::spawn(async move {
                let end = Instant::now() + LOAD;
                while Instant::now() < end {
                    for _ in 0..64 {
                        client.publish(subject.clone(), vec![7; SIZE * 16].into()).await?;
                    }
                    for _ in 0..64 {
                        tokio::time::timeout(LOAD, own.next()).await.context("a message is lost")?;
                    }
                }
                anyhow::Ok(())
            }));
        }
        for client in clients {
            client.await??;
        }
        Ok(Memory { rest, load: mebibytes(self.sidecar.child.memory("VmHWM")?) })
    }
}

/// Waits until the broker has read all that the client has written.
async fn round_trip(client: &Client) -> Result<()> {
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await?;
    client.publish(inbox, "".into()).await?;
    own.next().await.context("the connection has ended")?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}
