//! AMQP as far side: a real RabbitMQ (0-9-1) and a real Artemis (1.0).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use eventmesh_wire::report::Direction;
use fe2o3_amqp::types::messaging::Outcome;
use lapin::BasicProperties;
use lapin::types::ShortString;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::{FarSide, Identity, Receive, Send};
use crate::paths::scratch;
use crate::process::{Artemis, Rabbitmq, artemis};
use crate::{amqp1, amqp091};

/// Before a client that was cut off connects again.
const PAUSE: Duration = Duration::from_millis(200);
/// What a sender's client does not tell in this time, as of a connection that broke, it never tells.
const DEADLINE: Duration = Duration::from_secs(10);
const IN: &str = "trial.in";
const OUT: &str = "trial.out";

/// What a receiver's task has taken.
pub struct Taken {
    payloads: mpsc::UnboundedReceiver<Vec<u8>>,
    task: tokio::task::JoinHandle<()>,
}

impl Receive for Taken {
    async fn receive(&mut self) -> Option<Vec<u8>> {
        self.payloads.recv().await
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RabbitMQ.
pub struct Amqp091(Rabbitmq);

impl Amqp091 {
    pub async fn start() -> Result<Self> {
        let rabbit = Rabbitmq::start(scratch("rabbitmq")?, "").await?;
        let client = amqp091::Outside::connect(&rabbit.url(), Rabbitmq::USER, Rabbitmq::PASSWORD).await?;
        client.queue(IN, &[]).await?;
        client.queue(OUT, &[]).await?;
        rabbit.write_definitions()?;
        Ok(Self(rabbit))
    }
}

impl FarSide for Amqp091 {
    type Sender = Sender091;
    type Receiver = Taken;

    fn name(&self) -> String {
        "amqp 0-9-1".to_owned()
    }

    fn endpoint(&self, _: Direction) -> Result<Value> {
        let (username, password) = (Rabbitmq::USER, Rabbitmq::PASSWORD);
        Ok(json!({"amqp": {"url": self.0.url(), "version": "V091", "username": username, "password": password}}))
    }

    fn inbound(&self) -> Value {
        json!({"from": IN, "to": "in.x"})
    }

    fn outbound(&self) -> Value {
        json!({"to": OUT})
    }

    fn identity(&self) -> Identity {
        Identity::Id
    }

    async fn sender(&self) -> Result<Sender091> {
        Ok(Sender091 { url: self.0.url(), link: Mutex::default() })
    }

    async fn receiver(&mut self) -> Result<Taken> {
        let (url, (tell, payloads)) = (self.0.url(), mpsc::unbounded_channel());
        let task = tokio::spawn(async move {
            loop {
                let _ = take091(&url, &tell).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Taken { payloads, task })
    }

    async fn restart(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.start_again().await
    }
}

async fn take091(url: &str, tell: &mpsc::UnboundedSender<Vec<u8>>) -> Result<()> {
    let client = amqp091::Outside::connect(url, Rabbitmq::USER, Rabbitmq::PASSWORD).await?;
    let mut arrivals = client.consume(OUT).await?;
    loop {
        tell.send(arrivals.next().await?.payload)?;
    }
}

/// Publishes on one connection, and on another when that one has failed.
pub struct Sender091 {
    url: String,
    link: Mutex<Option<Arc<amqp091::Outside>>>,
}

impl Sender091 {
    async fn link(&self) -> Result<Arc<amqp091::Outside>> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref() {
            return Ok(Arc::clone(link));
        }
        let connecting = amqp091::Outside::connect(&self.url, Rabbitmq::USER, Rabbitmq::PASSWORD);
        let made = Arc::new(timeout(DEADLINE, connecting).await??);
        *link = Some(Arc::clone(&made));
        Ok(made)
    }

    async fn publish(&self, id: &str, payload: &[u8]) -> Result<()> {
        let link = self.link().await?;
        let properties = BasicProperties::default().with_message_id(ShortString::try_new(id.to_owned())?);
        let published = timeout(DEADLINE, link.publish("", IN, payload, properties)).await;
        let published = published.map_err(anyhow::Error::from).flatten();
        if published.is_err() {
            let mut present = self.link.lock().await;
            if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, &link)) {
                *present = None;
            }
        }
        published
    }
}

impl Send for Sender091 {
    async fn send(&self, id: &str, _: u32, payload: Vec<u8>) -> bool {
        self.publish(id, &payload).await.is_ok()
    }
}

/// Artemis.
pub struct Amqp1(Artemis);

impl Amqp1 {
    pub async fn start() -> Result<Self> {
        Ok(Self(Artemis::start(scratch("artemis")?, &artemis::Settings::default()).await?))
    }
}

impl FarSide for Amqp1 {
    type Sender = Sender1;
    type Receiver = Taken;

    fn name(&self) -> String {
        "amqp 1.0".to_owned()
    }

    fn endpoint(&self, _: Direction) -> Result<Value> {
        let (username, password) = (Artemis::USER, Artemis::PASSWORD);
        Ok(json!({"amqp": {"url": self.0.url(), "version": "V1", "username": username, "password": password}}))
    }

    fn inbound(&self) -> Value {
        json!({"from": IN, "to": "in.x"})
    }

    fn outbound(&self) -> Value {
        json!({"to": OUT})
    }

    fn identity(&self) -> Identity {
        Identity::Id
    }

    async fn sender(&self) -> Result<Sender1> {
        Ok(Sender1 { url: self.0.url(), link: Mutex::default() })
    }

    async fn receiver(&mut self) -> Result<Taken> {
        let (url, (tell, payloads)) = (self.0.url(), mpsc::unbounded_channel());
        let task = tokio::spawn(async move {
            loop {
                let _ = take1(&url, &tell).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Taken { payloads, task })
    }

    async fn restart(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.start_again().await
    }
}

async fn take1(url: &str, tell: &mpsc::UnboundedSender<Vec<u8>>) -> Result<()> {
    let mut client = amqp1::Outside::connect(url, Artemis::USER, Artemis::PASSWORD).await?;
    let mut receiver = client.receiver(OUT).await?;
    loop {
        tell.send(amqp1::data(&amqp1::take(&mut receiver).await?))?;
    }
}

/// Sends on one link, and on another when that one has failed.
pub struct Sender1 {
    url: String,
    link: Mutex<Link1>,
}

/// The link there is now, and how many there were.
#[derive(Default)]
struct Link1 {
    open: Option<(amqp1::Outside, fe2o3_amqp::Sender)>,
    number: u64,
}

impl Sender1 {
    /// Hands an event to the link; gives what tells its outcome, and the link's number.
    async fn hand_over(
        &self,
        id: &str,
        payload: &[u8],
    ) -> Result<(impl Future<Output = Result<Outcome>> + use<>, u64)> {
        let event = amqp1::event(payload, Some(id), &[]);
        let mut link = self.link.lock().await;
        if link.open.is_none() {
            let open = async {
                let mut client = amqp1::Outside::connect(&self.url, Artemis::USER, Artemis::PASSWORD).await?;
                let sender = client.sender(IN).await?;
                anyhow::Ok((client, sender))
            };
            link.open = Some(timeout(DEADLINE, open).await??);
            link.number += 1;
        }
        let Link1 { open: Some((_, sender)), number } = &mut *link else { bail!("no link") };
        let number = *number;
        match timeout(DEADLINE, sender.send_batchable(event)).await {
            Ok(Ok(outcome)) => Ok((async move { Ok(outcome.await?) }, number)),
            failed => {
                link.open = None;
                bail!("not sent: {:?}", failed.map(drop));
            }
        }
    }

    async fn publish(&self, id: &str, payload: &[u8]) -> Result<bool> {
        let (outcome, number) = self.hand_over(id, payload).await?;
        let outcome = timeout(DEADLINE, outcome).await.map_err(anyhow::Error::from).flatten();
        if outcome.is_err() {
            let mut link = self.link.lock().await;
            // Another event may have found out before, and opened the next one.
            if link.number == number {
                link.open = None;
            }
        }
        Ok(outcome?.is_accepted())
    }
}

impl Send for Sender1 {
    async fn send(&self, id: &str, _: u32, payload: Vec<u8>) -> bool {
        self.publish(id, &payload).await.unwrap_or(false)
    }
}
