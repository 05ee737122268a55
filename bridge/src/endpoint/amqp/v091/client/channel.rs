//! One channel: calls and their answers, publications and their confirmations, deliveries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, confirm, exchange, queue};
use amq_protocol::types::{FieldTable, ShortString};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::confirms::{Confirmation, Confirms, Fingerprint};
use super::frames::Outbox;
use super::{Closed, Settings};

/// A message that a consumer was given.
#[derive(Debug)]
pub struct Message {
    pub tag: u64,
    pub key: String,
    pub properties: BasicProperties,
    pub body: Bytes,
}

/// What happens to a consumer.
#[derive(Debug)]
pub enum Consumed {
    Message(Box<Message>),
    /// The broker ended the consumer: its queue was deleted, or the node that had it is gone.
    Cancelled,
    Closed(Closed),
}

/// What a message's content belongs to.
enum Purpose {
    Deliver(basic::Deliver),
    Return(basic::Return),
}

/// Content that comes in parts.
struct Content {
    purpose: Purpose,
    properties: BasicProperties,
    size: usize,
    body: Vec<u8>,
}

#[derive(Default)]
struct State {
    answers: VecDeque<oneshot::Sender<Result<AMQPClass, Closed>>>,
    confirms: Confirms,
    consumer: Option<mpsc::UnboundedSender<Consumed>>,
    content: Option<Content>,
    closed: Option<Closed>,
}

/// A channel. It stays closed once it was.
pub struct Channel {
    id: u16,
    settings: Arc<Settings>,
    outbox: Arc<Outbox>,
    state: Mutex<State>,
}

/// What the broker said was not what it can say now.
#[derive(Debug)]
pub struct Unexpected(pub &'static str);

impl Channel {
    pub(super) fn new(id: u16, settings: Arc<Settings>, outbox: Arc<Outbox>) -> Self {
        Self { id, settings, outbox, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_closed(&self) -> bool {
        self.state().closed.is_some()
    }

    /// Sends a method that the broker answers, and waits for the answer.
    async fn call(&self, method: AMQPClass) -> Result<AMQPClass, Closed> {
        let answered = {
            let mut state = self.state();
            if let Some(closed) = &state.closed {
                return Err(closed.clone());
            }
            let (answer, answered) = oneshot::channel();
            state.answers.push_back(answer);
            self.outbox.method(self.id, method);
            answered
        };
        answered.await.unwrap_or_else(|_| Err(Closed::lost()))
    }

    pub(super) async fn open(&self) -> Result<(), Closed> {
        self.call(AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))).await.map(drop)
    }

    /// From now on the broker confirms what is published.
    pub async fn select_confirms(&self) -> Result<(), Closed> {
        let select = confirm::Select { nowait: false };
        self.call(AMQPClass::Confirm(confirm::AMQPMethod::Select(select))).await.map(drop)
    }

    /// Fails when there is no such exchange, and closes the channel.
    pub async fn find_exchange(&self, name: &str) -> Result<(), Closed> {
        let declare = exchange::Declare { exchange: short(name), passive: true, ..exchange::Declare::default() };
        self.call(AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare))).await.map(drop)
    }

    /// `None`: it has to be there already, and is used as it is.
    pub async fn declare_queue(&self, name: &str, arguments: Option<FieldTable>) -> Result<(), Closed> {
        let declare = queue::Declare {
            queue: short(name),
            durable: true,
            passive: arguments.is_none(),
            arguments: arguments.unwrap_or_default(),
            ..queue::Declare::default()
        };
        self.call(AMQPClass::Queue(queue::AMQPMethod::Declare(declare))).await.map(drop)
    }

    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), Closed> {
        let (queue, exchange, routing_key) = (short(queue), short(exchange), short(key));
        let bind = queue::Bind { queue, exchange, routing_key, ..queue::Bind::default() };
        self.call(AMQPClass::Queue(queue::AMQPMethod::Bind(bind))).await.map(drop)
    }

    pub async fn unbind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), Closed> {
        let (queue, exchange, routing_key) = (short(queue), short(exchange), short(key));
        let unbind = queue::Unbind { queue, exchange, routing_key, arguments: FieldTable::default() };
        self.call(AMQPClass::Queue(queue::AMQPMethod::Unbind(unbind))).await.map(drop)
    }

    /// Fails when the queue holds messages, and closes the channel.
    pub async fn delete_empty_queue(&self, name: &str) -> Result<(), Closed> {
        let delete = queue::Delete { queue: short(name), if_empty: true, if_unused: true, nowait: false };
        self.call(AMQPClass::Queue(queue::AMQPMethod::Delete(delete))).await.map(drop)
    }

    /// At most so many messages are unacknowledged at once.
    pub async fn prefetch(&self, count: u16) -> Result<(), Closed> {
        let qos = basic::Qos { prefetch_count: count, global: false };
        self.call(AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await.map(drop)
    }

    /// A channel has one consumer at most.
    pub async fn consume(&self, queue: &str) -> Result<mpsc::UnboundedReceiver<Consumed>, Closed> {
        let (events, received) = mpsc::unbounded_channel();
        self.state().consumer = Some(events);
        let (queue, consumer_tag) = (short(queue), short(CONSUMER));
        let consume = basic::Consume { queue, consumer_tag, ..basic::Consume::default() };
        self.call(AMQPClass::Basic(basic::AMQPMethod::Consume(consume))).await?;
        Ok(received)
    }

    /// The broker gives nothing more; what it gave can still be acknowledged.
    pub async fn cancel(&self) -> Result<(), Closed> {
        let cancel = basic::Cancel { consumer_tag: short(CONSUMER), nowait: false };
        self.call(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))).await.map(drop)
    }

    /// What was not acknowledged goes back to its queue.
    pub async fn close(&self) -> Result<(), Closed> {
        let close = channel::Close { reply_code: 200, reply_text: short("done"), ..channel::Close::default() };
        self.call(AMQPClass::Channel(channel::AMQPMethod::Close(close))).await?;
        self.state().close(&Closed::lost());
        Ok(())
    }

    pub fn acknowledge(&self, tag: u64) {
        let ack = basic::Ack { delivery_tag: tag, multiple: false };
        self.send(AMQPClass::Basic(basic::AMQPMethod::Ack(ack)));
    }

    /// Back to its queue.
    pub fn give_back(&self, tag: u64) {
        let nack = basic::Nack { delivery_tag: tag, multiple: false, requeue: true };
        self.send(AMQPClass::Basic(basic::AMQPMethod::Nack(nack)));
    }

    /// Nothing that was delivered on a channel can be acknowledged after it was closed.
    fn send(&self, method: AMQPClass) {
        if !self.is_closed() {
            self.outbox.method(self.id, method);
        }
    }

    /// Publishes; the broker returns what it can not route.
    pub fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<oneshot::Receiver<Confirmation>, Closed> {
        let id = properties.message_id().as_ref().map(ShortString::as_str).unwrap_or_default();
        let fingerprint = Fingerprint::of(exchange, key, id, body);
        let publish =
            basic::Publish { exchange: short(exchange), routing_key: short(key), mandatory: true, immediate: false };
        let header = AMQPContentHeader { class_id: BASIC, body_size: body.len() as u64, properties };
        let mut state = self.state();
        if let Some(closed) = &state.closed {
            return Err(closed.clone());
        }
        let method = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
        self.outbox.content(self.id, method, header, body, self.settings.largest_frame);
        Ok(state.confirms.publish(fingerprint, body.len()))
    }

    /// Takes a frame that came for this channel.
    pub(super) fn take(&self, frame: AMQPFrame) -> Result<(), Unexpected> {
        match frame {
            AMQPFrame::Method(_, method) => self.take_method(method),
            AMQPFrame::Header(_, header) => self.take_header(header),
            AMQPFrame::Body(_, part) => self.take_body(&part),
            _ => Err(Unexpected("a frame that is for no channel")),
        }
    }

    fn take_method(&self, method: AMQPClass) -> Result<(), Unexpected> {
        let mut state = self.state();
        match method {
            AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => state.expect(Purpose::Deliver(deliver)),
            AMQPClass::Basic(basic::AMQPMethod::Return(returned)) => state.expect(Purpose::Return(returned)),
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => {
                state.confirms.confirmed(ack.delivery_tag, ack.multiple, true);
            }
            AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => {
                state.confirms.confirmed(nack.delivery_tag, nack.multiple, false);
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(_)) => state.tell(Consumed::Cancelled),
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                let answer = channel::FlowOk { active: flow.active };
                self.outbox.method(self.id, AMQPClass::Channel(channel::AMQPMethod::FlowOk(answer)));
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                self.outbox.method(self.id, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
                state.close(&Closed { code: close.reply_code, text: close.reply_text.to_string() });
            }
            answer => {
                let caller = state.answers.pop_front().ok_or(Unexpected("an answer to nothing"))?;
                let _ = caller.send(Ok(answer));
            }
        }
        Ok(())
    }

    fn take_header(&self, header: AMQPContentHeader) -> Result<(), Unexpected> {
        let mut state = self.state();
        let content = state.content.as_mut().ok_or(Unexpected("content that belongs to nothing"))?;
        content.properties = header.properties;
        content.size = usize::try_from(header.body_size).map_err(|_| Unexpected("content larger than memory"))?;
        content.body = Vec::with_capacity(content.size.min(1 << 20));
        state.complete()
    }

    fn take_body(&self, part: &[u8]) -> Result<(), Unexpected> {
        let mut state = self.state();
        let content = state.content.as_mut().ok_or(Unexpected("content that belongs to nothing"))?;
        content.body.extend_from_slice(part);
        state.complete()
    }

    /// The connection is no more.
    pub(super) fn lost(&self) {
        self.state().close(&Closed::lost());
    }
}

impl State {
    fn expect(&mut self, purpose: Purpose) {
        let properties = BasicProperties::default();
        self.content = Some(Content { purpose, properties, size: usize::MAX, body: Vec::new() });
    }

    /// Passes content on when all of it is there.
    fn complete(&mut self) -> Result<(), Unexpected> {
        let Some(content) = self.content.take_if(|content| content.body.len() >= content.size) else { return Ok(()) };
        let Content { purpose, properties, body, .. } = content;
        match purpose {
            Purpose::Deliver(deliver) => self.tell(Consumed::Message(Box::new(Message {
                tag: deliver.delivery_tag,
                key: deliver.routing_key.into(),
                properties,
                body: body.into(),
            }))),
            Purpose::Return(returned) => {
                let id = properties.message_id().as_ref().map(ShortString::as_str).unwrap_or_default();
                let (exchange, key) = (returned.exchange.as_str(), returned.routing_key.as_str());
                let fingerprint = Fingerprint::of(exchange, key, id, &body);
                if !self.confirms.returned(fingerprint, returned.reply_text.as_str()) {
                    return Err(Unexpected("a message back that was not sent"));
                }
            }
        }
        Ok(())
    }

    fn tell(&self, what: Consumed) {
        // Without a consumer that listens the message stays unacknowledged, and goes back to its queue with the channel.
        if let Some(consumer) = &self.consumer {
            let _ = consumer.send(what);
        }
    }

    fn close(&mut self, closed: &Closed) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(closed.clone());
        self.content = None;
        for answer in self.answers.drain(..) {
            let _ = answer.send(Err(closed.clone()));
        }
        self.confirms.closed(closed);
        self.tell(Consumed::Closed(closed.clone()));
        self.consumer = None;
    }
}

const CONSUMER: &str = "eventmesh";
/// The class of messages.
const BASIC: u16 = 60;

/// Names come from a configuration or an event that was checked for their length.
fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}
