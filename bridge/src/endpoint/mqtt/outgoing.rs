//! Publishing: on the connection there is, each event confirmed by its own PUBACK.

use std::sync::{Mutex, PoisonError};

use eventmesh_wire::config::Guarantee;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

use super::client::{Client, LinkError, Outgoing, PublishError, Published};
use crate::cloudevents;
use crate::event::Delivery;
use crate::route::dispatch::{Failure, Target};

/// What publishes on a connection, whatever its protocol version.
trait Publish: Send {
    fn publish(&self, message: Outgoing) -> Result<Published, LinkError>;
}

impl<C: Client> Publish for C {
    fn publish(&self, message: Outgoing) -> Result<Published, LinkError> {
        Client::publish(self, message)
    }
}

/// A connection that stands.
struct Open {
    client: Box<dyn Publish>,
    /// The largest packet that the broker takes.
    most: usize,
}

/// Where events leave: the connection there is now.
pub(super) struct Outlet {
    open: Mutex<Option<Open>>,
    guarantee: Guarantee,
}

impl Outlet {
    pub(super) fn new(guarantee: Guarantee) -> Self {
        Self { open: Mutex::default(), guarantee }
    }

    pub(super) fn open<C: Client>(&self, client: C, max_packet: Option<u32>) {
        let most = max_packet.map_or(usize::MAX, |bytes| bytes as usize);
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(Open { client: Box::new(client), most });
    }

    pub(super) fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn publish(&self, delivery: &Delivery) -> Result<Published, Failure> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Open { client, most }) = open.as_ref() else { return Err(Failure::Lost) };
        let size = packet_size(delivery);
        if size > *most {
            let problem = format!("the event needs {size} bytes, and the MQTT broker takes {most} at most");
            return Err(Failure::Refused(problem));
        }
        let message = Outgoing {
            topic: delivery.target.clone(),
            payload: delivery.payload.clone(),
            headers: cloudevents::MQTT.from_mesh(&delivery.headers),
            retain: delivery.route.as_ref().is_some_and(|route| route.retain),
            at_least_once: self.guarantee == Guarantee::AtLeastOnce,
        };
        client.publish(message).map_err(|_| Failure::Lost)
    }
}

impl Target for Outlet {
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        match self.publish(delivery) {
            Ok(published) => published
                .map(|result| {
                    result.map_err(|error| match error {
                        PublishError::Lost => Failure::Lost,
                        PublishError::Refused(problem) => Failure::Refused(problem),
                    })
                })
                .boxed(),
            Err(failure) => ready(Err(failure)).boxed(),
        }
    }
}

/// An upper bound of the PUBLISH packet's size.
fn packet_size(delivery: &Delivery) -> usize {
    let headers: usize = delivery.headers.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
    delivery.payload.len() + delivery.target.len() + headers + 32
}
