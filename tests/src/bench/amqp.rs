//! AMQP as far side: a real RabbitMQ with `lapin` alone (0-9-1), and a real Artemis with `fe2o3-amqp` alone (1.0).

use anyhow::{Result, ensure};
use eventmesh_wire::report::Direction;
use lapin::BasicProperties;
use lapin::types::ShortString;
use serde_json::{Value, json};

use super::{Arrivals, Far, Feed, WINDOW, send_window};
use crate::paths::scratch;
use crate::process::{Artemis, Rabbitmq, artemis};
use crate::{amqp1, amqp091};

fn queue(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "bench.in",
        Direction::Outbound => "bench.out",
    }
}

/// RabbitMQ with a queue for either direction.
pub struct Amqp091(Rabbitmq);

impl Amqp091 {
    pub async fn start() -> Result<Self> {
        let this = Self(Rabbitmq::start(scratch("rabbitmq")?, "").await?);
        let client = this.connect().await?;
        for direction in [Direction::Inbound, Direction::Outbound] {
            client.queue(queue(direction), &[]).await?;
        }
        Ok(this)
    }

    async fn connect(&self) -> Result<amqp091::Outside> {
        amqp091::Outside::connect(&self.0.url(), Rabbitmq::USER, Rabbitmq::PASSWORD).await
    }
}

impl Far for Amqp091 {
    fn endpoint(&self, _: Direction) -> Value {
        let (username, password) = (Rabbitmq::USER, Rabbitmq::PASSWORD);
        json!({"amqp": {"url": self.0.url(), "version": "V091", "username": username, "password": password}})
    }

    fn address(&self, direction: Direction) -> &'static str {
        queue(direction)
    }

    fn subject(&self) -> &'static str {
        "in.x"
    }

    async fn send(&self, direction: Direction, feed: &Feed<'_>) -> Result<()> {
        let client = &self.connect().await?;
        let sending = send_window(feed, WINDOW, async |event| {
            let id = ShortString::try_new(format!("bench-{}", event.number))?;
            let properties = BasicProperties::default().with_message_id(id);
            Ok(async move { client.publish("", queue(direction), &event.payload, properties).await })
        });
        sending.await
    }

    async fn receive(&self, direction: Direction, arrivals: &mut Arrivals<'_>) -> Result<()> {
        let client = self.connect().await?;
        let mut taken = client.consume(queue(direction)).await?;
        while !arrivals.arrived(&taken.next().await?.payload) {}
        Ok(())
    }
}

/// Artemis, which makes addresses when they are used.
pub struct Amqp1(Artemis);

impl Amqp1 {
    pub async fn start() -> Result<Self> {
        Ok(Self(Artemis::start(scratch("artemis")?, &artemis::Settings::default()).await?))
    }

    async fn connect(&self) -> Result<amqp1::Outside> {
        amqp1::Outside::connect(&self.0.url(), Artemis::USER, Artemis::PASSWORD).await
    }
}

impl Far for Amqp1 {
    fn endpoint(&self, _: Direction) -> Value {
        let (username, password) = (Artemis::USER, Artemis::PASSWORD);
        json!({"amqp": {"url": self.0.url(), "version": "V1", "username": username, "password": password}})
    }

    fn address(&self, direction: Direction) -> &'static str {
        queue(direction)
    }

    fn subject(&self) -> &'static str {
        "in.x"
    }

    async fn send(&self, direction: Direction, feed: &Feed<'_>) -> Result<()> {
        let mut client = self.connect().await?;
        let mut sender = client.sender(queue(direction)).await?;
        let sending = send_window(feed, WINDOW, async |event| {
            let id = format!("bench-{}", event.number);
            let outcome = sender.send_batchable(amqp1::event(&event.payload, Some(&id), &[])).await?;
            Ok(async move {
                let outcome = outcome.await?;
                ensure!(outcome.is_accepted(), "Artemis did not accept an event: {outcome:?}");
                Ok(())
            })
        });
        sending.await?;
        Ok(sender.close().await?)
    }

    async fn receive(&self, direction: Direction, arrivals: &mut Arrivals<'_>) -> Result<()> {
        let mut client = self.connect().await?;
        let mut receiver = client.receiver(queue(direction)).await?;
        while !arrivals.arrived(&amqp1::data(&amqp1::take(&mut receiver).await?)) {}
        Ok(receiver.close().await?)
    }
}
