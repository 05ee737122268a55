//! From the mesh to exchanges and queues: a channel for each exchange, so that a missing one gets in nobody else's way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use eventmesh_wire::config::{Guarantee, OutboundRoute};
use futures::future::BoxFuture;

use super::client::{Channel, Closed, Confirmation, Connection};
use super::message;
use crate::books::Books;
use crate::endpoint::amqp::properties::message_id;
use crate::endpoint::amqp::{Publish, Shared, Trouble};
use crate::event::{Delivery, Headers};
use crate::route::dispatch::Failure;

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Channel>>>>;

/// Publishes on one connection.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    channels: Mutex<BTreeMap<String, Slot>>,
}

/// What one try needs of an event.
struct Job {
    exchange: String,
    key: String,
    id: String,
    headers: Headers,
    payload: Bytes,
    books: Arc<Books>,
}

impl Publisher {
    pub fn new(shared: Arc<Shared>, connection: Arc<Connection>) -> Self {
        Self { shared, connection, channels: Mutex::default() }
    }

    async fn send(&self, job: Job) -> Result<(), Failure> {
        let persistent = self.shared.config.delivery.guarantee == Guarantee::AtLeastOnce;
        let properties = message::properties(&job.headers, job.id, persistent).map_err(Failure::Refused)?;
        let mut blocked = self.connection.blocked();
        if let Some(reason) = blocked.borrow_and_update().as_deref() {
            return Err(Failure::later(full(reason)));
        }
        let closed = |closed: Closed| failure(&job.exchange, job.payload.len(), &closed);
        let channel = self.channel(&job.exchange).await.map_err(closed)?;
        let mut answered = channel.publish(&job.exchange, &job.key, properties, &job.payload).map_err(closed)?;
        let mut trouble = None;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answered => break answer,
                Ok(()) = blocked.changed() => {
                    trouble = blocked.borrow_and_update().as_deref().map(|reason| Trouble::new(&job.books, full(reason)));
                }
            }
        };
        drop(trouble);
        match answer {
            Ok(Confirmation::Stored) => Ok(()),
            Ok(Confirmation::NotTaken) => Err(Failure::later(format!(
                "the AMQP broker does not take the event for `{}` (basic.nack): a queue is full and rejects, or its node is in \
                 trouble; make room, or raise the queue's limit",
                job.key
            ))),
            Ok(Confirmation::Returned(reason)) => Err(Failure::Refused(format!(
                "no queue takes what is sent to exchange `{}` with the routing key `{}` ({reason}); bind one, or create the queue",
                job.exchange, job.key
            ))),
            Ok(Confirmation::Closed(why)) => Err(closed(why)),
            Err(_) => Err(Failure::Lost),
        }
    }

    /// The channel for an exchange. That the exchange is there is known before anything is sent to it.
    async fn channel(&self, exchange: &str) -> Result<Arc<Channel>, Closed> {
        let slot = {
            let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(channels.entry(exchange.to_owned()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(channel) = slot.as_ref().filter(|channel| !channel.is_closed()) {
            return Ok(Arc::clone(channel));
        }
        let channel = self.connection.channel().await?;
        channel.select_confirms().await?;
        if !exchange.is_empty() {
            channel.find_exchange(exchange).await?;
        }
        Ok(Arc::clone(slot.insert(channel)))
    }
}

impl Publish for Publisher {
    fn publish(self: Arc<Self>, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let (exchange, key) = place(delivery.route.as_deref(), &delivery.target);
        let stream = delivery.route.as_ref().map(|route| route.stream.as_str()).unwrap_or_default();
        let job = Job {
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            id: message_id(stream, delivery.sequence),
            headers: delivery.headers.clone(),
            payload: delivery.payload.clone(),
            books: Arc::clone(delivery.receipt.books()),
        };
        Box::pin(async move { self.send(job).await })
    }
}

/// Exchange and routing key. It is the route that says whether there is an exchange: a queue's name may hold a `/` that
/// comes from an event.
fn place<'t>(route: Option<&OutboundRoute>, target: &'t str) -> (&'t str, &'t str) {
    let named = route.is_some_and(|route| route.to.contains('/'));
    target.split_once('/').filter(|_| named).unwrap_or(("", target))
}

fn failure(exchange: &str, size: usize, closed: &Closed) -> Failure {
    let Closed { code, text } = closed;
    match *code {
        0 => Failure::Lost,
        _ if closed.too_large().is_some() => Failure::Refused(format!(
            "the event has {size} bytes, more than the AMQP broker takes ({text}); raise its max_message_size"
        )),
        Closed::NOT_FOUND => {
            Failure::later(format!("{text}; create the exchange `{exchange}`, or correct the route's `to`"))
        }
        Closed::ACCESS_REFUSED => Failure::later(format!("{text}; give the user the right to write there")),
        code => Failure::later(format!("the AMQP broker closed the channel with {code} ({text})")),
    }
}

fn full(reason: &str) -> String {
    format!("the AMQP broker takes nothing in ({reason}); free memory or disk there")
}
