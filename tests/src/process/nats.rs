//! A nats-server with `JetStream` on its own folder and port.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use eventmesh_wire::names;
use serde_json::{Value, json};

use super::{Accounts, listens};
use crate::{
    child::{Child, Start, free_port},
    identity::Login,
    paths::{self, Stored},
};

/// A running broker. Killing and starting it again keeps port and data.
pub struct Nats {
    child: Child,
    folder: PathBuf,
    /// As whom tests connect; nobody where it asks nobody.
    admin: Option<Login>,
    pub port: u16,
    _stored: Stored,
}

impl Nats {
    /// `sync` is the server's `sync_interval`: `always`, or an interval; `extra` is appended to its configuration.
    pub async fn start(folder: PathBuf, sync: &str, extra: &str) -> Result<Self> {
        let this = Self::launch(folder, "test", sync, extra)?;
        listens("nats-server", this.port).await?;
        Ok(this)
    }

    /// As [`Nats::start`], under a name of its own; others of its cluster may have to be started before it is of use.
    pub async fn named(folder: PathBuf, name: &str, extra: &str) -> Result<Self> {
        let this = Self::launch(folder, name, "2m", extra)?;
        listens("nats-server", this.port).await?;
        Ok(this)
    }

    /// As [`Nats::start`]; it lets in whom the accounts let in.
    pub async fn verifying(folder: PathBuf, sync: &str, extra: &str, accounts: &Accounts) -> Result<Self> {
        let mut this = Self::start(folder, sync, &format!("{}\n{extra}", accounts.config()?)).await?;
        this.admin = Some(accounts.admin()?);
        Ok(this)
    }

    /// Three brokers that are one cluster, each in its own of the folders.
    pub async fn cluster(folders: [PathBuf; 3], accounts: &Accounts) -> Result<[Self; 3]> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        let [first, second, third] = folders;
        let verify = accounts.config()?;
        let launch = |index: usize, folder| {
            let listen = ports[index];
            let extra =
                format!("cluster {{ name: test, listen: \"127.0.0.1:{listen}\", routes: [{routes}] }}\n{verify}");
            let this = Self::launch(folder, &format!("test-{index}"), "2m", &extra)?;
            anyhow::Ok(Self { admin: Some(accounts.admin()?), ..this })
        };
        let all = [launch(0, first)?, launch(1, second)?, launch(2, third)?];
        for one in &all {
            listens("nats-server", one.port).await?;
        }
        Ok(all)
    }

    fn launch(folder: PathBuf, name: &str, sync: &str, extra: &str) -> Result<Self> {
        let port = free_port()?;
        let mut config = format!("listen: 127.0.0.1:{port}\nserver_name: {name}\n");
        let store = folder.join("jetstream");
        write!(config, "jetstream {{ store_dir: {}, sync_interval: {sync} }}\n{extra}\n", store.display())?;
        std::fs::write(folder.join("nats.conf"), config)?;
        let child = Self::spawn(&folder)?;
        let stored = Stored::new(&folder, "jetstream");
        Ok(Self { child, folder, admin: None, port, _stored: stored })
    }

    fn spawn(folder: &std::path::Path) -> Result<Child> {
        Start::new(&paths::tool("nats-server")?, folder).arg("-c").arg(folder.join("nats.conf")).spawn()
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// After [`Nats::kill`]: the same port and data.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = Self::spawn(&self.folder)?;
        listens("nats-server", self.port).await
    }

    /// SIGSTOP: connections to it stand, and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.child.pause()
    }

    /// SIGCONT.
    pub fn go_on(&self) -> Result<()> {
        self.child.go_on()
    }

    /// Makes it read its configuration and the files in it anew.
    pub fn reload(&self) -> Result<()> {
        let status = std::process::Command::new("kill").args(["-s", "HUP", &self.child.pid().to_string()]).status()?;
        ensure!(status.success(), "cannot signal nats-server");
        Ok(())
    }

    /// As [`Child::cpu`].
    pub fn cpu(&self) -> Result<f64> {
        self.child.cpu()
    }

    /// As [`Child::memory`].
    pub fn memory(&self, field: &str) -> Result<u64> {
        self.child.memory(field)
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.log_tail(usize::MAX)
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A connection with all rights in the account that holds the streams.
    pub async fn client(&self) -> Result<async_nats::Client> {
        let options = self.admin.as_ref().map_or_else(|| Ok(async_nats::ConnectOptions::new()), Login::options)?;
        options.connect(self.url()).await.context("cannot connect to the broker")
    }
}

/// Asks the `JetStream` API and gives its answer, also when that is an error.
pub async fn api(client: &async_nats::Client, operation: &str, body: &Value) -> Result<Value> {
    let answer = client.request(format!("$JS.API.{operation}"), serde_json::to_vec(body)?.into()).await?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

/// Creates a stream that allows both kinds of batches; `more` overrides.
pub async fn create_stream(client: &async_nats::Client, name: &str, subjects: &[&str], more: &Value) -> Result<()> {
    let mut config = json!({"name": name, "subjects": subjects, "retention": "limits", "storage": "file", "num_replicas": 1,
        "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "discard": "old", "allow_atomic": true, "allow_batched": true});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let answer = api(client, &format!("STREAM.CREATE.{name}"), &config).await?;
    ensure!(answer.get("error").is_none(), "stream {name}: {answer}");
    Ok(())
}

/// Creates the stream of leases as the operator does (`operator/src/bridge/lease.rs`).
pub async fn create_lease_stream(client: &async_nats::Client, replicas: u8) -> Result<()> {
    let more = json!({"max_msgs_per_subject": 1, "allow_direct": true, "allow_atomic": false, "allow_batched": false,
        "num_replicas": replicas});
    create_stream(client, names::LEASE_STREAM, &[names::LEASE_SUBJECTS], &more).await
}

/// Creates a durable pull consumer.
pub async fn create_consumer(
    client: &async_nats::Client,
    stream: &str,
    name: &str,
    ack_wait_seconds: u64,
) -> Result<()> {
    let config = json!({"stream_name": stream, "config": {"durable_name": name, "name": name, "ack_policy": "explicit",
        "deliver_policy": "all", "max_ack_pending": 20_000, "max_deliver": -1, "ack_wait": ack_wait_seconds * 1_000_000_000}});
    let answer = api(client, &format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), &config).await?;
    ensure!(answer.get("error").is_none(), "consumer {name}: {answer}");
    Ok(())
}

/// Events in a stream.
pub async fn stored(client: &async_nats::Client, stream: &str) -> Result<u64> {
    let info = api(client, &format!("STREAM.INFO.{stream}"), &json!({})).await?;
    Ok(info["state"]["messages"].as_u64().unwrap_or(0))
}

/// Stores numbers as events of one subject, and waits until each is acknowledged; many are on their way at once.
pub async fn produce(
    client: &async_nats::Client,
    subject: &str,
    prefix: &str,
    numbers: std::ops::Range<usize>,
) -> Result<()> {
    let context = async_nats::jetstream::new(client.clone());
    let mut waiting = std::collections::VecDeque::new();
    for number in numbers {
        waiting.push_back(context.publish(subject.to_owned(), format!("{prefix}{number}").into()).await?);
        if waiting.len() > 200
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.await?;
        }
    }
    for acknowledged in waiting {
        acknowledged.await?;
    }
    Ok(())
}

/// All events of a stream, in its order.
pub async fn messages(client: &async_nats::Client, stream: &str) -> Result<Vec<async_nats::jetstream::Message>> {
    use futures::TryStreamExt as _;
    let context = async_nats::jetstream::new(client.clone());
    let mut stream = context.get_stream(stream).await?;
    let count = usize::try_from(stream.info().await?.state.messages)?;
    let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
    let messages = stream.create_consumer(config).await?.messages().await?;
    Ok(futures::StreamExt::take(messages, count).try_collect().await?)
}
