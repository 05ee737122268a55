//! Senders and receivers at a broker of AMQP 1.0 outside.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fe2o3_amqp::{
    Connection, Receiver, Sender, Session,
    connection::ConnectionHandle,
    link::receiver::CreditMode,
    sasl_profile::SaslProfile,
    session::SessionHandle,
    types::{
        messaging::{ApplicationProperties, Body, Data, Header, Message, MessageId, Outcome, Properties},
        primitives::{Binary, SimpleValue, Value},
    },
};
use futures::{StreamExt as _, stream::FuturesUnordered};

use crate::ledger::Ledger;

/// Messages on their way at once, and credit.
const WINDOW: usize = 1_000;
/// How long one event may take to come.
const PATIENCE: Duration = Duration::from_mins(1);

/// A message as these clients send and receive it.
pub type Event = Message<Body<Value>>;

/// A client outside.
pub struct Outside {
    connection: ConnectionHandle<()>,
    session: SessionHandle<()>,
}

impl Outside {
    /// `url` has no credentials.
    pub async fn connect(url: &str, username: &str, password: &str) -> Result<Self> {
        let mut connection = Connection::builder()
            .container_id(format!("outside-{}", nkeys::KeyPair::new_user().public_key()))
            .sasl_profile(SaslProfile::Plain { username: username.to_owned(), password: password.to_owned() })
            .open(url)
            .await?;
        let session = Session::begin(&mut connection).await?;
        Ok(Self { connection, session })
    }

    pub async fn sender(&mut self, address: &str) -> Result<Sender> {
        Ok(Sender::attach(&mut self.session, name("sender"), address).await?)
    }

    /// Sends, and waits until the broker has accepted.
    pub async fn send(&mut self, address: &str, event: Event) -> Result<()> {
        let mut sender = self.sender(address).await?;
        let outcome = sender.send(event).await?;
        ensure!(matches!(outcome, Outcome::Accepted(_)), "the broker did not accept an event: {outcome:?}");
        Ok(sender.close().await?)
    }

    /// Sends the events of a history as fast as they are accepted, each with its id as message id.
    pub async fn produce(&mut self, address: &str, ledger: &mut Ledger, numbers: Range<u32>) -> Result<()> {
        let mut sender = self.sender(address).await?;
        let mut flying = FuturesUnordered::new();
        for number in numbers {
            let (id, payload) = ledger.with(number);
            let sent = sender.send_batchable(event(payload.as_bytes(), Some(&id), &[])).await?;
            flying.push(async move { (number, sent.await) });
            while flying.len() >= WINDOW {
                settle(flying.next().await, ledger)?;
            }
        }
        while let Some(settled) = flying.next().await {
            settle(Some(settled), ledger)?;
        }
        Ok(sender.close().await?)
    }

    pub async fn receiver(&mut self, address: &str) -> Result<Receiver> {
        let credit = CreditMode::Auto(u32::try_from(WINDOW)?);
        let builder = Receiver::builder().name(name("receiver")).source(address).credit_mode(credit);
        Ok(builder.attach(&mut self.session).await?)
    }

    /// Takes what comes at an address until so many different events of a history have come.
    pub async fn collect(&mut self, address: &str, ledger: &mut Ledger, count: usize) -> Result<()> {
        let mut receiver = self.receiver(address).await?;
        while ledger.arrivals() < count {
            ledger.arrived(&data(&take(&mut receiver).await?));
        }
        Ok(receiver.close().await?)
    }

    pub async fn close(mut self) -> Result<()> {
        Ok(self.connection.close().await?)
    }
}

/// The next message, which is accepted.
pub async fn take(receiver: &mut Receiver) -> Result<Event> {
    let next = tokio::time::timeout(PATIENCE, receiver.recv::<Body<Value>>()).await;
    let delivery = next.context("no event came in time")??;
    receiver.accept(&delivery).await?;
    Ok(delivery.into_message())
}

/// A durable message; `headers` become application properties.
#[must_use]
pub fn event(payload: &[u8], id: Option<&str>, headers: &[(&str, &str)]) -> Event {
    let mut application = ApplicationProperties::default();
    for (name, value) in headers {
        application.insert((*name).to_owned(), SimpleValue::String((*value).to_owned()));
    }
    let properties = Properties { message_id: id.map(|id| MessageId::String(id.to_owned())), ..Properties::default() };
    Message::builder()
        .header(Header { durable: true, ..Header::default() })
        .properties(properties)
        .application_properties(application)
        .body(Body::Data(vec![Data(Binary::from(payload.to_vec()))].into()))
        .build()
}

/// The data of a message that has only data.
#[must_use]
pub fn data(event: &Event) -> Vec<u8> {
    match &event.body {
        Body::Data(parts) => parts.iter().flat_map(|part| part.0.to_vec()).collect(),
        _ => Vec::new(),
    }
}

/// The text of an application property.
#[must_use]
pub fn header(event: &Event, name: &str) -> Option<String> {
    match event.application_properties.as_ref()?.get(name)? {
        SimpleValue::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn settle<E>(settled: Option<(u32, Result<Outcome, E>)>, ledger: &mut Ledger) -> Result<()>
where
    E: std::error::Error + Send + std::marker::Sync + 'static,
{
    let Some((number, outcome)) = settled else { return Ok(()) };
    if matches!(outcome?, Outcome::Accepted(_)) {
        ledger.confirmed(number);
    }
    Ok(())
}

/// A name that no other link has.
fn name(role: &str) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("{role}-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}
