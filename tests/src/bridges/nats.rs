//! Another NATS system as far side: a server with streams of its own.

use anyhow::Result;
use async_nats::jetstream::consumer::pull;
use eventmesh_wire::report::Direction;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{FarSide, Identity, Receive, Send};
use crate::paths::scratch;
use crate::process::Nats;
use crate::process::nats::create_stream;

/// A server with a stream for either direction.
pub struct NatsStream(Nats);

impl NatsStream {
    pub async fn start() -> Result<Self> {
        let nats = Nats::start(scratch("far-nats")?, "2m", "").await?;
        let client = nats.client().await?;
        create_stream(&client, "FARIN", &["far.in.*"], &json!({})).await?;
        create_stream(&client, "FAROUT", &["far.out.*"], &json!({})).await?;
        Ok(Self(nats))
    }
}

impl FarSide for NatsStream {
    type Sender = async_nats::Client;
    type Receiver = pull::Ordered;

    fn name(&self) -> String {
        "nats".to_owned()
    }

    fn endpoint(&self, _: Direction) -> Result<Value> {
        Ok(json!({"nats": {"urls": [self.0.url()], "jetstream": {"stream": "FARIN"}}}))
    }

    fn inbound(&self) -> Value {
        json!({"from": "far.in.*"})
    }

    fn outbound(&self) -> Value {
        json!({"to": "far.out.{1}"})
    }

    fn identity(&self) -> Identity {
        Identity::Place
    }

    async fn sender(&self) -> Result<async_nats::Client> {
        self.0.client().await
    }

    async fn receiver(&mut self) -> Result<pull::Ordered> {
        let stream = async_nats::jetstream::new(self.0.client().await?).get_stream("FAROUT").await?;
        Ok(stream.create_consumer(pull::OrderedConfig::default()).await?.messages().await?)
    }

    async fn restart(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.start_again().await
    }
}

impl Send for async_nats::Client {
    async fn send(&self, _: &str, lane: u32, payload: Vec<u8>) -> bool {
        let context = async_nats::jetstream::new(self.clone());
        match context.publish(format!("far.in.{lane}"), payload.into()).await {
            Ok(stored) => stored.await.is_ok(),
            Err(_) => false,
        }
    }
}

impl Receive for pull::Ordered {
    async fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            // It goes on by itself when the server is back.
            if let Ok(message) = self.next().await? {
                return Some(message.payload.to_vec());
            }
        }
    }
}
