//! Delivering to outside: many events on their way at once, each tried until its fate is known. The same for every kind of
//! endpoint, which implements one try ([`Target`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::{DeliveryConfig, Ordering, RetryConfig};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::outbound::OutboundTargets;
use crate::backoff::Backoff;
use crate::books::Outcome;
use crate::endpoint::LinkState;
use crate::event::{Delivery, Sink};
use crate::mesh::Mesh;

/// One try at delivering an event.
pub trait Target: Send + Sync + 'static {
    /// Ends well when the other side has confirmed the event.
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>>;

    /// Whether events keep their order with many on their way at once, because the client itself tries again in order.
    /// Otherwise `ordering: PerSource` has one event of a subject on its way at a time.
    ///
    /// Such a target answers [`Failure::Lost`] to everything it is given between the loss of a connection and the moment at
    /// which all that were on their way have been answered, so that none of them is overtaken on the next connection.
    fn keeps_order(&self) -> bool {
        false
    }
}

/// Why a try failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection went away, and the other side may or may not have the event. This is no try.
    Lost,
    /// It may work later; with `after`, not before that.
    Later { problem: String, after: Option<Duration> },
    /// It will never work as it is.
    Refused(String),
}

impl Failure {
    pub fn later(problem: impl Into<String>) -> Self {
        Self::Later { problem: problem.into(), after: None }
    }
}

/// What a dispatcher needs to know.
pub struct Dispatch {
    pub delivery: DeliveryConfig,
    pub mesh: Mesh,
    pub targets: Arc<OutboundTargets>,
    pub endpoint: watch::Receiver<LinkState>,
}

/// The entrance to a dispatcher.
pub struct Dispatcher {
    queue: mpsc::UnboundedSender<Delivery>,
    stop: CancellationToken,
}

impl Dispatcher {
    #[must_use]
    pub fn start(target: Arc<dyn Target>, settings: Dispatch) -> Arc<Self> {
        let (queue, deliveries) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ordered = settings.delivery.ordering == Ordering::PerSource;
        let (lanes, lost) = match (ordered, target.keeps_order()) {
            (true, true) => (None, Some(BTreeMap::new())),
            (true, false) => (Some(BTreeMap::new()), None),
            (false, _) => (None, None),
        };
        let work = Work { target, settings, lanes, lost };
        tokio::spawn(async move {
            tokio::select! {
                () = work.run(deliveries) => {},
                // What is held is dropped, and so given back.
                () = stopped.cancelled() => {},
            }
        });
        Arc::new(Self { queue, stop })
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Sink for Dispatcher {
    fn send(&self, delivery: Delivery) {
        // A dispatcher that is gone gives the delivery back by dropping it.
        let _ = self.queue.send(delivery);
    }
}

type Flight = BoxFuture<'static, (Delivery, Result<(), Failure>)>;

struct Work {
    target: Arc<dyn Target>,
    settings: Dispatch,
    /// With `ordering: PerSource`: what waits behind the event of the same subject that is on its way.
    lanes: Option<BTreeMap<String, VecDeque<Delivery>>>,
    /// With `ordering: PerSource` and a target that keeps order: what lost its connection, by route and number in the stream.
    /// All of it leaves again, in order, before anything new does.
    lost: Option<BTreeMap<(String, u64), Delivery>>,
}

impl Work {
    async fn run(mut self, mut deliveries: mpsc::UnboundedReceiver<Delivery>) {
        let window = self.settings.delivery.max_in_flight as usize;
        let mut flying: FuturesUnordered<Flight> = FuturesUnordered::new();
        let mut resting: FuturesUnordered<BoxFuture<'static, Delivery>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                // Answers first: what was lost must be known before anything new leaves.
                biased;
                Some((delivery, result)) = flying.next() => {
                    let Some((delivery, result)) = self.set_aside(delivery, result) else { continue };
                    let lane = self.lanes.is_some().then(|| delivery.origin.clone());
                    match self.conclude(delivery, result) {
                        Some(rest) => resting.push(rest),
                        None => flying.extend(lane.and_then(|lane| self.next_of(&lane)).map(|next| self.fly(next))),
                    }
                }
                Some(delivery) = resting.next() => flying.push(self.fly(delivery)),
                () = self.reopened(), if flying.is_empty() && self.has_lost() => {
                    let lost = self.lost.as_mut().map(std::mem::take).unwrap_or_default();
                    flying.extend(lost.into_values().map(|delivery| self.fly(delivery)));
                }
                delivery = deliveries.recv(), if flying.len() < window && !self.has_lost() => match delivery {
                    Some(delivery) => flying.extend(self.enter(delivery).map(|delivery| self.fly(delivery))),
                    None => return,
                },
            }
        }
    }

    fn fly(&self, delivery: Delivery) -> Flight {
        if !self.settings.mesh.may_carry() {
            return Box::pin(std::future::ready((delivery, Err(Failure::Lost))));
        }
        let tried = self.target.deliver(&delivery);
        Box::pin(async move { (delivery, tried.await) })
    }

    fn has_lost(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| !lost.is_empty())
    }

    /// Keeps an event whose connection was lost until the others on their way have been answered; gives back all else.
    fn set_aside(
        &mut self,
        delivery: Delivery,
        result: Result<(), Failure>,
    ) -> Option<(Delivery, Result<(), Failure>)> {
        match (&mut self.lost, result) {
            (Some(lost), Err(Failure::Lost)) => {
                lost.insert((delivery.receipt.books().name.clone(), delivery.sequence), delivery);
                None
            }
            (_, result) => Some((delivery, result)),
        }
    }

    /// Until events may leave again.
    async fn reopened(&self) {
        let mut endpoint = self.settings.endpoint.clone();
        let _ = endpoint.wait_for(|state| state.connected).await;
        self.settings.mesh.until_allowed().await;
    }

    /// Gives the event back when its turn is now.
    fn enter(&mut self, delivery: Delivery) -> Option<Delivery> {
        let Some(lanes) = &mut self.lanes else { return Some(delivery) };
        if let Some(lane) = lanes.get_mut(&delivery.origin) {
            lane.push_back(delivery);
            return None;
        }
        lanes.insert(delivery.origin.clone(), VecDeque::new());
        Some(delivery)
    }

    fn next_of(&mut self, lane: &str) -> Option<Delivery> {
        let lanes = self.lanes.as_mut()?;
        let next = lanes.get_mut(lane).and_then(VecDeque::pop_front);
        if next.is_none() {
            lanes.remove(lane);
        }
        next
    }

    /// Settles the event, or tells when it is tried again.
    fn conclude(&self, delivery: Delivery, result: Result<(), Failure>) -> Option<BoxFuture<'static, Delivery>> {
        match result {
            Ok(()) => {
                delivery.receipt.settle(Outcome::Delivered);
                None
            }
            // Another pod, or this one later, gets it from the mesh again; but then it would come after later ones.
            Err(Failure::Lost) if self.lanes.is_none() => None,
            Err(Failure::Lost) => {
                let (mut endpoint, mesh) = (self.settings.endpoint.clone(), self.settings.mesh.clone());
                Some(Box::pin(async move {
                    let _ = endpoint.wait_for(|state| state.connected).await;
                    mesh.until_allowed().await;
                    delivery
                }))
            }
            Err(Failure::Later { problem, after }) => self.again(delivery, &problem, after),
            Err(Failure::Refused(problem)) => {
                let delivery = self.settings.targets.undeliverable(&self.settings.mesh, delivery, &problem)?;
                Some(self.rest(delivery, Some(HELD_AT_LEAST)))
            }
        }
    }

    fn again(
        &self,
        mut delivery: Delivery,
        problem: &str,
        after: Option<Duration>,
    ) -> Option<BoxFuture<'static, Delivery>> {
        let attempts = self.settings.delivery.retry.attempts;
        if delivery.receipt.at_most_once() || (attempts > 0 && delivery.tries + 1 >= attempts) {
            delivery.tries = delivery.tries.saturating_add(1);
            let delivery = self.settings.targets.undeliverable(&self.settings.mesh, delivery, problem)?;
            return Some(self.rest(delivery, after));
        }
        delivery.receipt.held_up(problem);
        Some(self.rest(delivery, after))
    }

    /// The longer, the more often it was tried.
    fn rest(&self, mut delivery: Delivery, at_least: Option<Duration>) -> BoxFuture<'static, Delivery> {
        delivery.receipt.books().retried(1);
        let wait = pause(self.settings.delivery.retry, delivery.tries).max(at_least.unwrap_or_default());
        delivery.tries = delivery.tries.saturating_add(1);
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            delivery
        })
    }
}

/// An event that only a change at the other side can help is not tried more often than this.
const HELD_AT_LEAST: Duration = Duration::from_secs(1);

fn pause(retry: RetryConfig, tries: u32) -> Duration {
    Backoff::from(retry).after(tries).next_wait()
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
