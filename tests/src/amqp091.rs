//! Senders and receivers at a broker of AMQP 0-9-1 outside.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::ledger::Ledger;

/// Publications on their way at once.
const WINDOW: usize = 1_000;
/// How long one event may take to come.
const PATIENCE: Duration = Duration::from_mins(1);

/// A client outside.
pub struct Outside {
    connection: Connection,
    channel: Channel,
}

/// What came in a queue.
#[derive(Debug)]
pub struct Arrival {
    pub key: String,
    pub payload: Vec<u8>,
    pub properties: BasicProperties,
}

impl Arrival {
    /// The text of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        }
    }
}

impl Outside {
    /// `url` has no credentials.
    pub async fn connect(url: &str, username: &str, password: &str) -> Result<Self> {
        let url = format!("{}/%2F", url.replacen("://", &format!("://{username}:{password}@"), 1));
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// A durable queue; `arguments` are numbers or texts.
    pub async fn queue(&self, name: &str, arguments: &[(&str, &str)]) -> Result<()> {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            let value = match value.parse() {
                Ok(number) => AMQPValue::LongLongInt(number),
                Err(_) => AMQPValue::LongString((*value).into()),
            };
            table.insert((*name).into(), value);
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, table).await?;
        Ok(())
    }

    pub async fn delete_queue(&self, name: &str) -> Result<()> {
        self.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    /// How many events wait in a queue; `None` when there is no such queue.
    pub async fn waiting(&self, queue: &str) -> Result<Option<u32>> {
        // Asking for a queue that is not there costs a channel.
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(queue) => Ok(Some(queue.message_count())),
            Err(error) if error.is_amqp_soft_error() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A durable topic exchange.
    pub async fn exchange(&self, name: &str) -> Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let kind = lapin::ExchangeKind::Topic;
        Ok(self.channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await?)
    }

    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let options = QueueBindOptions::default();
        Ok(self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default()).await?)
    }

    /// Publishes, and waits until the broker has confirmed.
    pub async fn publish(&self, exchange: &str, key: &str, payload: &[u8], properties: BasicProperties) -> Result<()> {
        let options = BasicPublishOptions::default();
        let properties = properties.with_delivery_mode(2);
        let sent = self.channel.basic_publish(exchange.into(), key.into(), options, payload, properties).await?;
        let confirmed = sent.await?;
        ensure!(matches!(confirmed, Confirmation::Ack(_)), "the broker did not take an event: {confirmed:?}");
        Ok(())
    }

    /// Sends the events of a history as fast as they are confirmed, each with its id as message id.
    pub async fn produce(&self, exchange: &str, key: &str, ledger: &mut Ledger, numbers: Range<u32>) -> Result<()> {
        let mut flying = FuturesUnordered::new();
        for number in numbers {
            let (id, payload) = ledger.with(number);
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_message_id(ShortString::try_new(id)?);
            let options = BasicPublishOptions::default();
            let sent = self
                .channel
                .basic_publish(exchange.into(), key.into(), options, payload.as_bytes(), properties)
                .await?;
            flying.push(async move { (number, sent.await) });
            while flying.len() >= WINDOW {
                settle(flying.next().await, ledger)?;
            }
        }
        while let Some(settled) = flying.next().await {
            settle(Some(settled), ledger)?;
        }
        Ok(())
    }

    /// Takes what comes in a queue until so many different events of a history have come.
    pub async fn collect(&self, queue: &str, ledger: &mut Ledger, count: usize) -> Result<()> {
        let mut arrivals = self.consume(queue).await?;
        while ledger.arrivals() < count {
            ledger.arrived(&arrivals.next().await?.payload);
        }
        Ok(())
    }

    /// Reads a queue.
    pub async fn consume(&self, queue: &str) -> Result<Arrivals> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(1_000, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok(Arrivals { consumer, _channel: channel })
    }
}

fn settle(settled: Option<(u32, lapin::Result<Confirmation>)>, ledger: &mut Ledger) -> Result<()> {
    let Some((number, confirmed)) = settled else { return Ok(()) };
    if matches!(confirmed?, Confirmation::Ack(_)) {
        ledger.confirmed(number);
    }
    Ok(())
}

/// What comes in a queue; each event is acknowledged when it is taken.
pub struct Arrivals {
    consumer: lapin::Consumer,
    _channel: Channel,
}

impl Arrivals {
    pub async fn next(&mut self) -> Result<Arrival> {
        let next = tokio::time::timeout(PATIENCE, self.consumer.next()).await;
        let delivery = next.context("no event came in time")?.context("the queue was taken away")??;
        delivery.ack(BasicAckOptions::default()).await?;
        Ok(Arrival { key: delivery.routing_key.to_string(), payload: delivery.data, properties: delivery.properties })
    }
}
