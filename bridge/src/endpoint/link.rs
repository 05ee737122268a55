//! The far side of a link. It is reached over the connection to the mesh, so there is nothing to connect: what goes there are copies
//! ([`crate::copy`]).

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use tokio::sync::watch;

use super::{Endpoint, LinkState, Standing};
use crate::event::{Delivery, Sink};
use crate::route::inbound::Inbound;

/// Stands for as long as the bridge runs.
pub struct Far(Standing);

impl Far {
    pub(super) fn start() -> Self {
        let standing = Standing::new("the link");
        standing.up();
        Self(standing)
    }
}

impl Endpoint for Far {
    fn state(&self) -> watch::Receiver<LinkState> {
        self.0.watch()
    }

    fn set_routes(&self, _inbound: Vec<Arc<Inbound>>) {}

    fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Nowhere)
    }

    fn drain(&self) {}

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.0.ended();
        ready(()).boxed()
    }
}

/// Copies need no sink, for they wait for the event before.
struct Nowhere;

impl Sink for Nowhere {
    fn send(&self, delivery: Delivery) {
        drop(delivery);
    }
}
