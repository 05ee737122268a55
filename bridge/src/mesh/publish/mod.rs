//! Publishing into a stream: many events on their way at once, each settled by the stream's own acknowledgement.
//!
//! An event that comes alone leaves at once. Under load, what gathered while earlier batches were on their way leaves as
//! one batch, so batches grow with load and no timer holds an event back. What a stream does not allow, or refuses as a
//! batch, goes one by one.

mod answer;
mod flight;
mod frame;
mod pipeline;

use std::sync::Arc;

use eventmesh_wire::config::{Ingest, RetryConfig};
use tokio::sync::mpsc;

use crate::books::Books;
use crate::dead_letter::DeadLetters;
use crate::event::{Delivery, Sink};
use crate::mesh::Mesh;

/// What a publisher needs to know.
pub struct Settings {
    pub stream: String,
    pub ingest: Ingest,
    /// Single publishes on their way at once.
    pub window: usize,
    pub retry: RetryConfig,
    pub dead_letters: Option<Arc<DeadLetters>>,
}

/// The entrance to the publisher of one route; the publisher ends when it is dropped and all is settled.
pub struct Publisher {
    queue: mpsc::UnboundedSender<Delivery>,
    pub task: tokio::task::JoinHandle<()>,
}

impl Publisher {
    #[must_use]
    pub fn start(mesh: Mesh, books: Arc<Books>, settings: Settings) -> Self {
        let (queue, deliveries) = mpsc::unbounded_channel();
        let task = tokio::spawn(pipeline::run(mesh, books, settings, deliveries));
        Self { queue, task }
    }
}

impl Sink for Publisher {
    fn send(&self, delivery: Delivery) {
        // A publisher that is gone gives the delivery back by dropping it.
        let _ = self.queue.send(delivery);
    }
}

