//! From queues into the mesh: a channel and a consumer for each route.

use std::sync::Arc;

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use eventmesh_wire::config::Guarantee;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::client::{Channel, Closed, Connection, Consumed, Message};
use super::message;
use crate::backoff::Backoff;
use crate::books::Obstacle;
use crate::endpoint::amqp::properties::MESSAGE_ID;
use crate::endpoint::amqp::routes::{self, End};
use crate::endpoint::amqp::{AGAIN, REST, Shared};
use crate::event::{Acknowledge, Receipt, header};
use crate::route::inbound::{Inbound, Incoming};
use crate::running::DRAIN;

/// Keeps a consumer for each route, until the link is to stop.
pub(super) async fn serve(shared: &Arc<Shared>, connection: &Arc<Connection>) {
    let start = |route: Arc<Inbound>, end: End| {
        let source = Source::of(shared, &route);
        Consumer { shared: Arc::clone(shared), connection: Arc::clone(connection), source, route, end }.run()
    };
    routes::serve(shared, start).await;
}

/// Where the events of a route come from.
enum Source {
    /// A queue that somebody else made.
    Queue(String),
    /// A queue of the route's own, bound to an exchange.
    Binding { exchange: String, key: String, queue: String },
}

impl Source {
    fn of(shared: &Shared, route: &Inbound) -> Self {
        match route.config.from.split_once('/') {
            None => Self::Queue(route.config.from.clone()),
            Some(("", queue)) => Self::Queue(queue.to_owned()),
            Some((exchange, key)) => {
                let bridge = &shared.config.bridge;
                let queue = format!("eventmesh-{}-{}-{}", bridge.namespace, bridge.name, route.config.name);
                Self::Binding { exchange: exchange.to_owned(), key: key.to_owned(), queue }
            }
        }
    }

    fn queue(&self) -> &str {
        match self {
            Self::Queue(queue) | Self::Binding { queue, .. } => queue,
        }
    }
}

struct Consumer {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    source: Source,
    route: Arc<Inbound>,
    end: End,
}

impl Consumer {
    async fn run(self) {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            match self.consume(&mut backoff).await {
                Ok(()) => return,
                // The connection ends, and this task with it.
                Err(closed) if closed.code == 0 => return,
                Err(closed) => self.route.books.obstructed(Obstacle::Failed, self.words(&closed)),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {},
                () = self.end.replaced.cancelled() => return,
                () = self.end.removed.cancelled() => return,
                () = self.shared.drain.cancelled() => return,
                () = self.shared.stop.cancelled() => return,
            }
        }
    }

    /// Runs until the route ends; `Err` when the broker ends it.
    async fn consume(&self, backoff: &mut Backoff) -> Result<(), Closed> {
        let channel = self.prepare().await?;
        let most = u32::from(u16::MAX).min(self.shared.config.delivery.max_in_flight);
        let prefetch = self.shared.endpoint.prefetch.unwrap_or(u16::try_from(most).unwrap_or(u16::MAX));
        channel.prefetch(prefetch).await?;
        let mut consumed = channel.consume(self.source.queue()).await?;
        self.route.books.clear();
        backoff.reset();
        let (returned, mut returns) = mpsc::unbounded_channel();
        let mut resting = FuturesUnordered::new();
        let mut drained = false;
        loop {
            tokio::select! {
                what = consumed.recv() => match what {
                    Some(Consumed::Message(_)) if drained => {}
                    Some(Consumed::Message(message)) => self.receive(message, &channel, &returned),
                    Some(Consumed::Cancelled) => return Err(Closed { code: Closed::NOT_FOUND, text: CANCELLED.to_owned() }),
                    Some(Consumed::Closed(closed)) => return Err(closed),
                    None => return Err(Closed::lost()),
                },
                Some(tag) = returns.recv() => resting.push(rest(tag)),
                Some(tag) = resting.next() => channel.give_back(tag),
                () = self.shared.drain.cancelled(), if !drained => {
                    drained = true;
                    channel.cancel().await?;
                }
                () = self.shared.stop.cancelled() => return Ok(()),
                () = self.end.replaced.cancelled() => return self.leave(&channel).await,
                () = self.end.removed.cancelled() => {
                    self.leave(&channel).await?;
                    return self.forget().await;
                }
            }
        }
    }

    /// A channel on which the queue is there.
    async fn prepare(&self) -> Result<Arc<Channel>, Closed> {
        let channel = self.connection.channel().await?;
        let Source::Binding { exchange, key, queue } = &self.source else { return Ok(channel) };
        let mut arguments = FieldTable::default();
        let kind = AMQPValue::LongString("classic".into());
        arguments.insert(ShortString::try_new("x-queue-type").unwrap_or_default(), kind);
        let channel = match channel.declare_queue(queue, Some(arguments)).await {
            // It is there, and somebody made it as they want it.
            Err(closed) if closed.code == Closed::PRECONDITION_FAILED => {
                let channel = self.connection.channel().await?;
                channel.declare_queue(queue, None).await?;
                channel
            }
            declared => declared.map(|()| channel)?,
        };
        channel.bind(queue, exchange, key).await?;
        Ok(channel)
    }

    fn receive(&self, message: Box<Message>, channel: &Arc<Channel>, returned: &mpsc::UnboundedSender<u64>) {
        let Message { tag, key, properties, body } = *message;
        let address = match &self.source {
            Source::Queue(_) => self.route.config.from.clone(),
            Source::Binding { exchange, .. } => format!("{exchange}/{key}"),
        };
        let headers = message::headers(&properties);
        let usable = |id: &&str| !id.is_empty() && !id.contains(char::is_control);
        let id = header(&headers, MESSAGE_ID).filter(usable);
        let identity = id.map(|id| format!("amqp:{}#{id}", self.source.queue()));
        let guarantee = self.shared.config.delivery.guarantee;
        if guarantee == Guarantee::AtMostOnce {
            channel.acknowledge(tag);
        }
        let slot = Slot {
            channel: Arc::clone(channel),
            tag,
            acknowledges: guarantee == Guarantee::AtLeastOnce,
            returned: returned.clone(),
        };
        let receipt = Receipt::new(&self.route.books, Box::new(slot), guarantee);
        let incoming = Incoming { address: &address, headers, payload: body, identity };
        self.route.accept(incoming, receipt, &self.shared.mesh);
    }

    /// Takes nothing more, finishes what is on its way, and lets the broker have the rest back.
    async fn leave(&self, channel: &Channel) -> Result<(), Closed> {
        channel.cancel().await?;
        let _ = tokio::time::timeout(DRAIN, self.route.books.settled()).await;
        channel.close().await
    }

    /// Undoes what was made for the route. Events that wait in its queue stay there: they outlive the route.
    async fn forget(&self) -> Result<(), Closed> {
        let Source::Binding { exchange, key, queue } = &self.source else { return Ok(()) };
        let channel = self.connection.channel().await?;
        channel.unbind(queue, exchange, key).await?;
        let successor = |route: &Arc<Inbound>| route.config.name == self.route.config.name;
        if self.shared.inbound().iter().any(successor) {
            return Ok(());
        }
        match channel.delete_empty_queue(queue).await {
            Err(closed) if closed.code == Closed::PRECONDITION_FAILED => {
                tracing::warn!(queue, "the queue of a route that is gone still holds events; it stays");
                Ok(())
            }
            deleted => deleted,
        }
    }

    fn words(&self, closed: &Closed) -> String {
        let advice = match (closed.code, &self.source) {
            (Closed::NOT_FOUND, Source::Queue(_)) => "create the queue",
            (Closed::NOT_FOUND, Source::Binding { .. }) => "create the exchange",
            (Closed::ACCESS_REFUSED, Source::Queue(_)) => "give the user the right to read the queue",
            (Closed::ACCESS_REFUSED, Source::Binding { .. }) => {
                "give the user the rights to make, read and bind queues that begin with `eventmesh-`, and to read the exchange"
            }
            (Closed::LOCKED, _) => "another connection has the queue for itself",
            _ => "the broker's log may say more",
        };
        format!(
            "`{}`: {} ({}); {advice}; the bridge tries again by itself",
            self.route.config.from, closed.text, closed.code
        )
    }
}

const CANCELLED: &str = "the broker ended the consumer: the queue was deleted, or its node is gone";

async fn rest(tag: u64) -> u64 {
    tokio::time::sleep(REST).await;
    tag
}

/// A message that the broker waits to hear of.
struct Slot {
    channel: Arc<Channel>,
    tag: u64,
    acknowledges: bool,
    returned: mpsc::UnboundedSender<u64>,
}

impl Acknowledge for Slot {
    fn confirm(&mut self) {
        if self.acknowledges {
            self.channel.acknowledge(self.tag);
        }
    }

    /// Not at once: the broker would give it again at once. Without its task the channel gives it back by ending.
    fn give_back(&mut self) {
        if self.acknowledges {
            let _ = self.returned.send(self.tag);
        }
    }
}
