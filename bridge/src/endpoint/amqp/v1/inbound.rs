//! From addresses into the mesh: a session and a receiving link for each route.

use std::sync::Arc;

use eventmesh_wire::config::Guarantee;
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::delivery::{Delivery, DeliveryInfo};
use fe2o3_amqp::link::{
    CreditMode, DispositionError, LinkStateError, MessageDecodeError, ReceiverAttachError, RecvError,
};
use fe2o3_amqp::session::{BeginError, SessionHandle};
use fe2o3_amqp::types::definitions::{AmqpError, Error, ErrorCondition};
use fe2o3_amqp::types::messaging::{Body, Modified};
use fe2o3_amqp::types::primitives::Value;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::{Sessions, message, said};
use crate::backoff::Backoff;
use crate::books::Obstacle;
use crate::endpoint::amqp::properties::MESSAGE_ID;
use crate::endpoint::amqp::routes::{self, End};
use crate::endpoint::amqp::{AGAIN, CONNECT_TIMEOUT, REST, Shared};
use crate::event::{Acknowledge, Receipt, header};
use crate::route::inbound::{Inbound, Incoming};
use crate::running::DRAIN;

/// How many acknowledgements leave together.
const TOGETHER: usize = 256;

/// Keeps a receiver for each route, until the link is to stop.
pub(super) async fn serve(shared: &Arc<Shared>, sessions: &Arc<Sessions>) {
    let start = |route, end| Reader { shared: Arc::clone(shared), sessions: Arc::clone(sessions), route, end }.run();
    routes::serve(shared, start).await;
}

/// Why a receiver ended.
enum Ended {
    /// With its session or connection.
    Lost,
    /// The broker does not let it read.
    Refused(String),
}

struct Reader {
    shared: Arc<Shared>,
    sessions: Arc<Sessions>,
    route: Arc<Inbound>,
    end: End,
}

/// What became of a delivery: accepted, or given back.
type Settled = (DeliveryInfo, bool);

impl Reader {
    async fn run(self) {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            match self.read(&mut backoff).await {
                Ok(()) => return,
                Err(Ended::Lost) => {}
                Err(Ended::Refused(problem)) => {
                    let from = &self.route.config.from;
                    let message = format!("`{from}`: {problem}; the bridge tries again by itself");
                    self.route.books.obstructed(Obstacle::Failed, message);
                }
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

    async fn read(&self, backoff: &mut Backoff) -> Result<(), Ended> {
        let attached = tokio::time::timeout(CONNECT_TIMEOUT, self.attach()).await;
        let too_late = || Err(Ended::Refused("the broker does not answer the attach of a link".to_owned()));
        let (_session, mut receiver) = attached.unwrap_or_else(|_| too_late())?;
        self.route.books.clear();
        backoff.reset();
        let (settle, mut settled) = mpsc::unbounded_channel::<Settled>();
        let mut resting = FuturesUnordered::new();
        let mut batch = Vec::new();
        let mut drained = false;
        loop {
            tokio::select! {
                arrival = receiver.recv::<Body<Value>>(), if !drained => match arrival {
                    Ok(delivery) => self.receive(delivery, &settle),
                    Err(RecvError::MessageDecode(error)) => self.put_aside(&receiver, error).await?,
                    Err(error) => return Err(recv_failed(error)),
                },
                _ = settled.recv_many(&mut batch, TOGETHER) => {
                    let (accepted, returned) = sort(&mut batch);
                    resting.extend(returned.into_iter().map(rest));
                    accept(&receiver, accepted).await?;
                }
                Some(info) = resting.next() => receiver.release(info).await.map_err(disposition_failed)?,
                () = self.shared.drain.cancelled(), if !drained => {
                    drained = true;
                    let _ = receiver.set_credit(0).await;
                }
                () = self.shared.stop.cancelled() => return self.leave(receiver, settled, false).await,
                () = self.end.replaced.cancelled() => return self.leave(receiver, settled, true).await,
                () = self.end.removed.cancelled() => return self.leave(receiver, settled, true).await,
            }
        }
    }

    async fn attach(&self) -> Result<(SessionHandle<()>, Receiver), Ended> {
        let begun = self.sessions.begin().await.ok_or(Ended::Lost)?;
        let mut session = begun.map_err(|error| match error {
            BeginError::RemoteEndedWithError(error) => Ended::Refused(format!("no session: {}", said(&error))),
            BeginError::LocalChannelMaxReached => Ended::Refused("the broker allows no further session".to_owned()),
            _ => Ended::Lost,
        })?;
        let bridge = &self.shared.config.bridge;
        let most = self.shared.endpoint.prefetch.map_or(self.shared.config.delivery.max_in_flight, u32::from);
        // Credit is given anew when half of it is used up, to the full: so much less is asked for.
        let credit = (most / 3 * 2).max(1);
        let receiver = Receiver::builder()
            .name(format!("eventmesh-{}-{}-{}", bridge.namespace, bridge.name, self.route.config.name))
            .source(self.route.config.from.as_str())
            .credit_mode(CreditMode::Auto(credit))
            .attach(&mut session)
            .await
            .map_err(attach_failed)?;
        Ok((session, receiver))
    }

    fn receive(&self, delivery: Delivery<Body<Value>>, settle: &mpsc::UnboundedSender<Settled>) {
        let (info, message) = delivery.into_parts();
        let address = self.route.config.from.as_str();
        let headers = message::headers(&message);
        let usable = |id: &&str| !id.is_empty() && !id.contains(char::is_control);
        let identity = header(&headers, MESSAGE_ID).filter(usable).map(|id| format!("amqp:{address}#{id}"));
        let guarantee = self.shared.config.delivery.guarantee;
        let mut slot = Slot { settle: settle.clone(), info: Some(info) };
        if guarantee == Guarantee::AtMostOnce {
            slot.confirm();
        }
        let receipt = Receipt::new(&self.route.books, Box::new(slot), guarantee);
        let incoming = Incoming { address, headers, payload: message::payload(message.body), identity };
        self.route.accept(incoming, receipt, &self.shared.mesh);
    }

    /// What can not be read stays at its address, for somebody who can: rejecting it would let many brokers drop it.
    async fn put_aside(&self, receiver: &Receiver, error: MessageDecodeError) -> Result<(), Ended> {
        self.route.books.note(format!("a message can not be read ({}); it stays where it is", error.source));
        let modified = Modified { delivery_failed: None, undeliverable_here: Some(true), message_annotations: None };
        receiver.modify(error.info, modified).await.map_err(disposition_failed)
    }

    /// Takes nothing more and acknowledges what is stored, with what is on its way where that is worth waiting for.
    async fn leave(
        &self,
        mut receiver: Receiver,
        mut settled: mpsc::UnboundedReceiver<Settled>,
        finish: bool,
    ) -> Result<(), Ended> {
        let mut batch = Vec::new();
        if finish {
            let _ = receiver.set_credit(0).await;
            let mut done = Box::pin(tokio::time::timeout(DRAIN, self.route.books.settled()));
            loop {
                tokio::select! {
                    _ = settled.recv_many(&mut batch, TOGETHER) => accept(&receiver, sort(&mut batch).0).await?,
                    _ = &mut done => break,
                }
            }
        }
        while let Ok(one) = settled.try_recv() {
            batch.push(one);
        }
        accept(&receiver, sort(&mut batch).0).await?;
        let _ = receiver.close().await;
        Ok(())
    }
}

fn sort(batch: &mut Vec<Settled>) -> (Vec<DeliveryInfo>, Vec<DeliveryInfo>) {
    let (accepted, returned): (Vec<_>, Vec<_>) = batch.drain(..).partition(|(_, accepted)| *accepted);
    let infos = |all: Vec<Settled>| all.into_iter().map(|(info, _)| info).collect();
    (infos(accepted), infos(returned))
}

async fn accept(receiver: &Receiver, infos: Vec<DeliveryInfo>) -> Result<(), Ended> {
    if infos.is_empty() {
        return Ok(());
    }
    receiver.accept_all(infos).await.map_err(disposition_failed)
}

async fn rest(info: DeliveryInfo) -> DeliveryInfo {
    tokio::time::sleep(REST).await;
    info
}

/// A message that the broker waits to hear of.
struct Slot {
    settle: mpsc::UnboundedSender<Settled>,
    /// Gone once it is settled.
    info: Option<DeliveryInfo>,
}

impl Slot {
    fn settle(&mut self, accepted: bool) {
        if let Some(info) = self.info.take() {
            // Without its link the broker gives it again by itself.
            let _ = self.settle.send((info, accepted));
        }
    }
}

impl Acknowledge for Slot {
    fn confirm(&mut self) {
        self.settle(true);
    }

    /// Released after a rest: the broker would give it again at once.
    fn give_back(&mut self) {
        self.settle(false);
    }
}

/// What a broker says, and what to do about it.
pub(super) fn advice(error: &Error) -> String {
    let advice = match &error.condition {
        ErrorCondition::AmqpError(AmqpError::NotFound) => "create the address",
        ErrorCondition::AmqpError(AmqpError::ResourceDeleted) => "the address was deleted; create it again",
        ErrorCondition::AmqpError(AmqpError::UnauthorizedAccess) => "give the user the right to it",
        ErrorCondition::AmqpError(AmqpError::ResourceLocked) => "another has the address for itself",
        _ => "the broker's log may say more",
    };
    format!("{}; {advice}", said(error))
}

fn attach_failed(error: ReceiverAttachError) -> Ended {
    match error {
        ReceiverAttachError::SessionStopped(_) => Ended::Lost,
        ReceiverAttachError::RemoteClosedWithError(error) => Ended::Refused(advice(&error)),
        error => Ended::Refused(error.to_string()),
    }
}

fn recv_failed(error: RecvError) -> Ended {
    match error {
        RecvError::LinkStateError(error) => link_ended(error),
        error => Ended::Refused(error.to_string()),
    }
}

fn link_ended(error: LinkStateError) -> Ended {
    match error {
        LinkStateError::SessionStopped(_) => Ended::Lost,
        LinkStateError::RemoteClosedWithError(error) | LinkStateError::RemoteDetachedWithError(error) => {
            Ended::Refused(advice(&error))
        }
        LinkStateError::RemoteClosed | LinkStateError::RemoteDetached => {
            Ended::Refused("the broker ended the link; was the address deleted?".to_owned())
        }
        // With the session, or the connection.
        _ => Ended::Lost,
    }
}

/// A disposition fails with its session only.
fn disposition_failed(_: DispositionError) -> Ended {
    Ended::Lost
}
