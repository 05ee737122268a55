//! Publishing on one connection: many at once, each settled by its own PUBACK.

use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::Guarantee;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::Shared;
use super::client::{Client, Outgoing, PublishError, Published};
use crate::backoff::Backoff;
use crate::books::Outcome;
use crate::event::Delivery;

/// How long an event rests that the broker refused: at first, and at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What follows from a try.
enum Next {
    /// Wait for its PUBACK.
    Fly(Delivery, Published),
    /// Try again after a rest.
    Rest(Delivery),
    Settled,
}

/// Runs until it is aborted with its connection; what it holds then goes back to its source.
pub(super) async fn run<C: Client>(shared: Arc<Shared>, client: C, max_packet: Option<u32>) {
    let mut deliveries = shared.outgoing.lock().await;
    let window = usize::from(shared.options.max_in_flight);
    let (mut flying, mut resting) = (FuturesUnordered::new(), FuturesUnordered::new());
    let sender = Sender { shared: &shared, client, most: max_packet.map_or(usize::MAX, |bytes| bytes as usize) };
    loop {
        let next = tokio::select! {
            Some((delivery, result)) = flying.next() => sender.conclude(delivery, result),
            Some(delivery) = resting.next() => sender.send(delivery),
            delivery = deliveries.recv(), if flying.len() < window => match delivery {
                Some(delivery) => sender.send(delivery),
                None => return,
            },
        };
        match next {
            Next::Fly(delivery, published) => flying.push(async move { (delivery, published.await) }),
            Next::Rest(delivery) => resting.push(rest(delivery)),
            Next::Settled => {}
        }
    }
}

/// The longer, the more often it was refused.
async fn rest(mut delivery: Delivery) -> Delivery {
    delivery.receipt.books().retried(1);
    let mut backoff = Backoff::new(REST.0, REST.1);
    for _ in 0..delivery.tries.min(8) {
        backoff.next_wait();
    }
    delivery.tries = delivery.tries.saturating_add(1);
    tokio::time::sleep(backoff.next_wait()).await;
    delivery
}

struct Sender<'a, C> {
    shared: &'a Shared,
    client: C,
    /// The largest packet that the broker takes.
    most: usize,
}

impl<C: Client> Sender<'_, C> {
    fn send(&self, delivery: Delivery) -> Next {
        let size = packet_size(&delivery);
        if size > self.most {
            let problem = format!("the event needs {size} bytes, and the MQTT broker takes {} at most", self.most);
            return self.refused(delivery, &problem);
        }
        let message = Outgoing {
            topic: delivery.target.clone(),
            payload: delivery.payload.clone(),
            headers: delivery.headers.clone(),
            retain: delivery.retain,
            at_least_once: self.shared.guarantee == Guarantee::AtLeastOnce,
        };
        match self.client.publish(message) {
            Ok(published) => Next::Fly(delivery, published),
            // The connection is gone: the delivery is dropped here, and so given back.
            Err(_) => Next::Settled,
        }
    }

    fn conclude(&self, delivery: Delivery, result: Result<(), PublishError>) -> Next {
        match result {
            Ok(()) => {
                delivery.receipt.settle(Outcome::Delivered);
                Next::Settled
            }
            // As above.
            Err(PublishError::Lost) => Next::Settled,
            Err(PublishError::Refused(problem)) => self.refused(delivery, &problem),
        }
    }

    fn refused(&self, delivery: Delivery, problem: &str) -> Next {
        self.shared.targets.undeliverable(&self.shared.mesh, delivery, problem).map_or(Next::Settled, Next::Rest)
    }
}

/// An upper bound of the PUBLISH packet's size.
fn packet_size(delivery: &Delivery) -> usize {
    let headers: usize = delivery.headers.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
    delivery.payload.len() + delivery.target.len() + headers + 32
}
