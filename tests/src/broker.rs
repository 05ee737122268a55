//! The broker of a mesh as a test sees it: what it holds, what is published and read there.
//!
//! What the broker holds is asked in the broker's own JSON, not through types that the operator uses too.

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, Result, bail};
use async_nats::{
    Client, ConnectOptions, HeaderMap,
    jetstream::{self, consumer::PullConsumer},
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{identity::Login, tls};

/// How long what must come may take on a machine that stands still for a while.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers of the broker that mean "there is none".
const NOT_FOUND: [u64; 2] = [10059, 10014];

/// A connection to the brokers of one mesh.
#[derive(Debug, Clone)]
pub struct Broker {
    pub client: Client,
    pub jetstream: jetstream::Context,
}

impl Broker {
    pub async fn connect(server: &str, login: &Login) -> Result<Self> {
        Self::connect_with(server, login, |options| options.connection_timeout(Duration::from_secs(10))).await
    }

    /// The same with other settings of the connection.
    pub async fn connect_with(
        server: &str,
        login: &Login,
        set: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Self> {
        let mut options = set(login.options()?);
        if let Some(authority) = &login.ca {
            options = options.require_tls(true).tls_client_config(tls::trusting(authority)?);
        }
        let client = options
            .name("tests")
            .max_reconnects(None)
            .connect(server)
            .await
            .with_context(|| format!("cannot connect to {server}"))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(Duration::from_secs(5));
        Ok(Self { client, jetstream })
    }

    /// Asks the `JetStream` API; `None` when the broker knows no such thing.
    pub async fn api(&self, subject: &str, request: &Value) -> Result<Option<Value>> {
        let payload = if request.is_null() { Bytes::new() } else { request.to_string().into() };
        let answer = self.client.request(format!("$JS.API.{subject}"), payload).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        match answer["error"]["err_code"].as_u64() {
            Some(code) if NOT_FOUND.contains(&code) => Ok(None),
            Some(_) => bail!("{subject}: {}", answer["error"]),
            None => Ok(Some(answer)),
        }
    }

    /// Configuration and state of a stream.
    pub async fn stream(&self, name: &str) -> Result<Option<Value>> {
        self.api(&format!("STREAM.INFO.{name}"), &Value::Null).await
    }

    /// Configuration and state of a consumer.
    pub async fn consumer(&self, stream: &str, name: &str) -> Result<Option<Value>> {
        self.api(&format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await
    }

    /// Makes a stream by hand.
    pub async fn create_stream(&self, config: &Value) -> Result<()> {
        let name = config["name"].as_str().context("a name")?;
        self.api(&format!("STREAM.CREATE.{name}"), config).await.map(drop)
    }

    /// Changes a stream by hand.
    pub async fn edit_stream(&self, name: &str, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let mut config = self.stream(name).await?.context("no such stream")?["config"].clone();
        edit(&mut config);
        self.api(&format!("STREAM.UPDATE.{name}"), &config).await.map(drop)
    }

    /// Changes a consumer by hand.
    pub async fn edit_consumer(&self, stream: &str, name: &str, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let mut config = self.consumer(stream, name).await?.context("no such consumer")?["config"].clone();
        edit(&mut config);
        let request = json!({"stream_name": stream, "config": config, "action": "update"});
        self.api(&format!("CONSUMER.CREATE.{stream}.{name}"), &request).await.map(drop)
    }

    pub async fn delete_stream(&self, name: &str) -> Result<()> {
        self.api(&format!("STREAM.DELETE.{name}"), &Value::Null).await.map(drop)
    }

    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<()> {
        self.api(&format!("CONSUMER.DELETE.{stream}.{name}"), &Value::Null).await.map(drop)
    }

    /// Publishes once; the error is the broker's own.
    pub async fn publish(&self, subject: &str, payload: impl Into<Bytes>) -> Result<u64> {
        // Who publishes until it works tries again sooner.
        let mut jetstream = self.jetstream.clone();
        jetstream.set_timeout(PATIENCE);
        let ack = jetstream.publish(subject.to_owned(), payload.into()).await?.await?;
        Ok(ack.sequence)
    }

    /// Fetches one event of a consumer, and does not acknowledge it.
    pub async fn fetch(&self, stream: &str, consumer: &str) -> Result<async_nats::Message> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        self.client.publish_with_reply(next, inbox, "1".into()).await?;
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
        answer.with_context(|| format!("no event in {} s", PATIENCE.as_secs()))?.context("the subscription has ended")
    }

    /// A consumer whose program takes events and never acknowledges one, until it is dropped.
    #[must_use]
    pub fn never_acknowledge(&self, stream: &str, consumer: &str) -> Refuser {
        let (broker, stream, consumer) = (self.clone(), stream.to_owned(), consumer.to_owned());
        Refuser(tokio::spawn(async move {
            let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            loop {
                pause.tick().await;
                // A standing request for many events, as programs make them; the broker may also be away for a while.
                let inbox = broker.client.new_inbox();
                let Ok(events) = broker.client.subscribe(inbox.clone()).await else { continue };
                let mut events = events.take(100);
                let request = json!({"batch": 100, "expires": 1_000_000_000_u64}).to_string();
                let asked = broker.client.publish_with_reply(next.clone(), inbox, request.into()).await;
                while asked.is_ok()
                    && let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(2), events.next()).await
                    && event.reply.is_some()
                {}
            }
        }))
    }

    /// All that a stream holds, oldest first.
    pub async fn stored(&self, stream: &str) -> Result<Vec<jetstream::message::StreamMessage>> {
        let Some(info) = self.stream(stream).await? else { return Ok(Vec::new()) };
        let sequence = |which: &str| info["state"][which].as_u64().unwrap_or_default();
        let handle = self.jetstream.get_stream_no_info(stream).await?;
        let mut found = Vec::new();
        for number in sequence("first_seq").max(1)..=sequence("last_seq") {
            match handle.get_raw_message(number).await {
                Ok(message) => found.push(message),
                Err(error) if error.kind() == jetstream::stream::RawMessageErrorKind::NoMessageFound => {}
                // Such as that nobody leads the stream: then each of them would have to be waited for.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Publishes until it is stored. `id` keeps a second try from being stored twice.
    pub async fn publish_surely(&self, subject: &str, id: &str, payload: &str) {
        let mut pause = tokio::time::interval(Duration::from_millis(200));
        loop {
            pause.tick().await;
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id);
            let sent =
                self.jetstream.publish_with_headers(subject.to_owned(), headers, payload.to_owned().into()).await;
            if let Ok(stored) = sent
                && stored.await.is_ok()
            {
                return;
            }
        }
    }

    /// Publishes one event after the other to each of the subjects, each until it is stored, until something is over. `sent` counts
    /// those that are stored, and names the next one.
    pub async fn publish_until<T>(
        &self,
        subjects: &[&str],
        sent: &Cell<u64>,
        over: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let publish = async {
            loop {
                for subject in subjects {
                    self.publish_surely(subject, &format!("id {}", sent.get()), "event").await;
                }
                sent.set(sent.get() + 1);
            }
        };
        tokio::select! {
            over = over => over,
            never = publish => never,
        }
    }

    /// Reads a stream from its next event on, each event once, until the reader is dropped.
    pub async fn read(&self, stream: &str) -> Result<Reader> {
        let name = format!("tests_{}", std::process::id());
        let config = json!({"stream_name": stream, "config": {
            "durable_name": name, "name": name, "deliver_policy": "new", "ack_policy": "explicit",
            "ack_wait": 10_000_000_000_u64, "max_ack_pending": 5000, "inactive_threshold": 600_000_000_000_u64,
        }});
        self.delete_consumer(stream, &name).await?;
        self.api(&format!("CONSUMER.CREATE.{stream}.{name}"), &config).await?;
        let (arrivals, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(read(self.jetstream.clone(), stream.to_owned(), name, arrivals));
        Ok(Reader { received, task })
    }
}

/// Ends with its value.
#[derive(Debug)]
pub struct Refuser(JoinHandle<()>);

impl Drop for Refuser {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One event as it is stored in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub subject: String,
    pub payload: Vec<u8>,
    pub sequence: u64,
}

/// Reads a stream through a durable consumer.
#[derive(Debug)]
pub struct Reader {
    received: mpsc::UnboundedReceiver<Stored>,
    task: JoinHandle<()>,
}

impl Reader {
    pub async fn next(&mut self) -> Result<Stored> {
        self.received.recv().await.context("the reader has ended")
    }

    /// The next event, if one comes in time.
    pub async fn next_within(&mut self, limit: Duration) -> Result<Stored> {
        let event = tokio::time::timeout(limit, self.next()).await;
        event.with_context(|| format!("nothing came in the mesh in {} s", limit.as_secs()))?
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Goes on through broken connections and lost leaders. An event that the broker hands out again is passed on once: the
/// sequence tells.
async fn read(jetstream: jetstream::Context, stream: String, name: String, arrivals: mpsc::UnboundedSender<Stored>) {
    let mut seen = std::collections::BTreeSet::new();
    let mut pause = tokio::time::interval(Duration::from_millis(200));
    loop {
        pause.tick().await;
        let Ok(consumer): Result<PullConsumer, _> =
            jetstream.get_consumer_from_stream(name.as_str(), stream.as_str()).await
        else {
            continue;
        };
        let messages = consumer.stream().max_messages_per_batch(500).heartbeat(Duration::from_secs(2)).messages().await;
        let Ok(mut messages) = messages else { continue };
        while let Some(Ok(message)) = messages.next().await {
            let Ok(sequence) = message.info().map(|info| info.stream_sequence) else { continue };
            let _ = message.ack().await;
            if seen.insert(sequence) {
                let (subject, payload) = (message.subject.to_string(), message.payload.to_vec());
                if arrivals.send(Stored { subject, payload, sequence }).is_err() {
                    return;
                }
            }
        }
    }
}
