//! Reads the consumer of a subscription while it is asked to: through losses of the mesh, and while the consumer is missing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::PullConsumer;
use eventmesh_wire::config::sidecar::PushSubscription;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::backoff::Backoff;
use crate::books::Books;
use crate::jetstream::{Held, PullError, Pulls};
use crate::mesh::{Mesh, Pass, connection::Changes};

const API: &str = "$JS.API";

/// The consumer of one subscription.
pub struct Source {
    mesh: Mesh,
    changes: Changes,
    stream: String,
    consumer: String,
    books: Arc<Books>,
    held: Arc<Held>,
    /// Room for events; there is none beyond what the window has.
    window: Arc<Semaphore>,
    size: usize,
    state: State,
    backoff: Backoff,
    /// The consumer may have changed.
    stale: bool,
    /// Its `backoff`, as the broker has it.
    waits: Vec<Duration>,
}

enum State {
    Away,
    Asking(BoxFuture<'static, Result<PullConsumer, PullError>>),
    Waiting(Pin<Box<Sleep>>),
    /// Until nothing is asked for any more, the connection is not exchanged for another.
    Open {
        pulls: Box<Pulls>,
        _pass: Pass,
    },
}

impl Source {
    #[must_use]
    pub fn new(
        mesh: &Mesh,
        config: &PushSubscription,
        books: &Arc<Books>,
        held: &Arc<Held>,
        (window, size): (&Arc<Semaphore>, usize),
    ) -> Self {
        Self {
            mesh: mesh.clone(),
            changes: mesh.watch(),
            stream: config.stream.clone(),
            consumer: config.consumer.clone(),
            books: Arc::clone(books),
            held: Arc::clone(held),
            window: Arc::clone(window),
            size,
            state: State::Away,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(15)),
            stale: false,
            waits: Vec::new(),
        }
    }

    /// The consumer may have changed, and how many events there is room for: it is looked at again as soon as no request to it is
    /// open.
    pub fn look_again(&mut self, size: usize) {
        self.size = size;
        self.stale = true;
    }

    /// The consumer's own `backoff`.
    #[must_use]
    pub fn waits(&self) -> &[Duration] {
        &self.waits
    }

    /// Whether events may come that were asked for already.
    #[must_use]
    pub fn expects_events(&self) -> bool {
        matches!(&self.state, State::Open { pulls, .. } if pulls.are_open()) && self.mesh.is_connected()
    }

    /// The next event. It asks for events only while it may `pull`; what was asked for before comes all the same. Nothing is lost when
    /// this is dropped before it ends.
    pub async fn next(&mut self, pull: bool) -> (Message, OwnedSemaphorePermit) {
        loop {
            match self.step(pull).await {
                Ok(Some(event)) => {
                    self.backoff.reset();
                    return event;
                }
                Ok(None) => {}
                Err(PullError { obstacle, message }) => {
                    self.books
                        .obstructed(obstacle, format!("can not read from consumer `{}`: {message}", self.consumer));
                    self.state = State::Waiting(Box::pin(tokio::time::sleep(self.backoff.next_wait())));
                }
            }
        }
    }

    async fn step(&mut self, pull: bool) -> Result<Option<(Message, OwnedSemaphorePermit)>, PullError> {
        match &mut self.state {
            State::Away => {
                self.mesh.until_open().await;
                self.state = State::Asking(self.ask());
            }
            State::Asking(asked) => {
                let consumer = asked.await?;
                self.open(&consumer);
            }
            State::Waiting(wait) => {
                wait.await;
                self.state = State::Away;
            }
            State::Open { pulls, .. } => {
                let rests = self.stale || !self.mesh.is_open();
                if !self.mesh.is_connected() || (rests && !pulls.are_open()) {
                    self.state = State::Away;
                    return Ok(None);
                }
                let pull = pull && !rests;
                if pull {
                    pulls.top_up().await?;
                }
                let idle = !pull && !pulls.are_open();
                tokio::select! {
                    biased;
                    more = self.changes.next() => if !more { std::future::pending::<()>().await },
                    event = pulls.next(), if !idle => return event,
                }
            }
        }
        Ok(None)
    }

    fn ask(&self) -> BoxFuture<'static, Result<PullConsumer, PullError>> {
        let context = async_nats::jetstream::new(self.mesh.client.clone());
        let (stream, consumer) = (self.stream.clone(), self.consumer.clone());
        Box::pin(async move {
            context.get_consumer_from_stream(consumer, &stream).await.map_err(|error| {
                PullError::failed(format_args!("{error}; the operator makes it, for stream `{stream}`"))
            })
        })
    }

    fn open(&mut self, consumer: &PullConsumer) {
        let info = consumer.cached_info();
        self.stale = false;
        self.waits.clone_from(&info.config.backoff);
        // With a backoff each delivery has its own time to be acknowledged.
        self.held.set_ack_wait(self.waits.iter().copied().min().unwrap_or(info.config.ack_wait));
        self.books.set_lag(Some(info.num_pending));
        self.books.clear();
        let pulls = Pulls::new(
            self.mesh.client.clone(),
            API,
            (&self.stream, &self.consumer),
            (Arc::clone(&self.window), self.size),
            // With one at a time it is the order of the consumer.
            self.size == 1,
        );
        self.state = State::Open { pulls: Box::new(pulls), _pass: self.mesh.pass() };
    }
}
