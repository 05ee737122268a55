//! Publishing on one connection: many at once, each settled by its own PUBACK.

use std::sync::Arc;

use eventmesh_wire::config::Guarantee;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::Shared;
use super::client::{Client, Outgoing, PublishError};
use crate::books::Outcome;
use crate::event::Delivery;

/// Runs until it is aborted with its connection; what it holds then goes back to its source.
pub(super) async fn run<C: Client>(shared: Arc<Shared>, client: C, max_packet: Option<u32>) {
    let mut deliveries = shared.outgoing.lock().await;
    let at_least_once = shared.guarantee == Guarantee::AtLeastOnce;
    let most = max_packet.map_or(usize::MAX, |bytes| bytes as usize);
    let mut waiting = FuturesUnordered::new();
    let window = usize::from(shared.options.max_in_flight);
    loop {
        tokio::select! {
            Some((delivery, result)) = waiting.next() => conclude(&shared, delivery, result, at_least_once),
            delivery = deliveries.recv(), if waiting.len() < window => {
                let Some(delivery) = delivery else { return };
                let size = packet_size(&delivery);
                if size > most {
                    let problem = format!("the event needs {size} bytes, and the MQTT broker takes {most} at most");
                    shared.targets.undeliverable(&shared.mesh, delivery, &problem);
                    continue;
                }
                let message = Outgoing {
                    topic: delivery.target.clone(),
                    payload: delivery.payload.clone(),
                    headers: delivery.headers.clone(),
                    retain: delivery.retain,
                    at_least_once,
                };
                // An error means that the connection is gone: the delivery is dropped here, and so given back.
                if let Ok(published) = client.publish(message) {
                    waiting.push(async move { (delivery, published.await) });
                }
            },
        }
    }
}

fn conclude(shared: &Shared, delivery: Delivery, result: Result<(), PublishError>, at_least_once: bool) {
    match result {
        Ok(()) => {
            shared.targets.accepted(&delivery);
            delivery.receipt.settle(Outcome::Delivered);
        }
        Err(PublishError::Lost) if at_least_once => drop(delivery),
        Err(_) if !at_least_once => delivery.receipt.settle(Outcome::Dropped),
        Err(PublishError::Lost) => drop(delivery),
        Err(PublishError::Refused(problem)) => shared.targets.undeliverable(&shared.mesh, delivery, &problem),
    }
}

/// An upper bound of the PUBLISH packet's size.
fn packet_size(delivery: &Delivery) -> usize {
    let headers: usize = delivery.headers.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
    delivery.payload.len() + delivery.target.len() + headers + 32
}
