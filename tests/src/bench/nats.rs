//! Another NATS system as far side: a server with a stream for either direction.

use anyhow::Result;
use eventmesh_wire::report::Direction;
use serde_json::{Value, json};

use super::{Arrivals, Far, Feed, jetstream};
use crate::paths::scratch;
use crate::process::Nats;
use crate::process::nats::{create_consumer, create_stream};

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

fn stream(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "FARIN",
        Direction::Outbound => "FAROUT",
    }
}

impl Far for NatsStream {
    fn endpoint(&self, _: Direction) -> Value {
        json!({"nats": {"urls": [self.0.url()], "jetstream": {"stream": "FARIN"}}})
    }

    fn address(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Inbound => "far.in.*",
            Direction::Outbound => "far.out.{1}",
        }
    }

    /// With an id, as the bridge sends them.
    async fn send(&self, direction: Direction, feed: &Feed<'_>) -> Result<()> {
        let prefix = if direction == Direction::Inbound { "far.in" } else { "far.out" };
        jetstream::publish(&self.0.client().await?, prefix, direction == Direction::Outbound, feed).await
    }

    async fn receive(&self, direction: Direction, arrivals: &mut Arrivals<'_>) -> Result<()> {
        let (client, stream) = (self.0.client().await?, stream(direction));
        create_consumer(&client, stream, "alone", 30).await?;
        jetstream::pull(&client, stream, "alone", arrivals).await
    }
}
