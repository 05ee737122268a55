//! Publishing into a stream: many events on their way at once, each settled by the stream's own acknowledgement.
//!
//! An event that comes alone leaves at once. Under load, what gathered while earlier batches were on their way leaves as
//! one batch, so batches grow with load and no timer holds an event back. What a stream does not allow, or refuses as a
//! batch, goes one by one.

mod answer;
mod flight;
mod frame;
mod pipeline;
mod whereabouts;

use std::sync::{Arc, Mutex, PoisonError};

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
    /// Events are stored in the order in which they came, those that are tried again included.
    pub ordered: bool,
    /// What is refused is dropped, and counted so.
    pub at_most_once: bool,
    pub dead_letters: Option<Arc<DeadLetters>>,
}

/// The entrance to the publisher of one route; the publisher ends when it is dropped and all is settled.
pub struct Publisher {
    queue: mpsc::UnboundedSender<Delivery>,
    /// Events that nothing can deliver: kept, so that their source is not told otherwise.
    held: Mutex<Vec<Delivery>>,
}

impl Publisher {
    #[must_use]
    pub fn start(mesh: Mesh, books: Arc<Books>, settings: Settings) -> Self {
        let (queue, deliveries) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let abandoned = mesh.clone();
            tokio::select! {
                () = pipeline::run(mesh, books, settings, deliveries) => {},
                // What it holds is given back: the source gives it to those who use the new connection.
                () = abandoned.abandoned() => {},
            }
        });
        Self { queue, held: Mutex::default() }
    }

    /// Keeps an event that nothing can deliver in flight, until the route ends.
    pub fn hold(&self, delivery: Delivery) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    }
}

impl Sink for Publisher {
    fn send(&self, delivery: Delivery) {
        // A publisher that is gone gives the delivery back by dropping it.
        let _ = self.queue.send(delivery);
    }
}
