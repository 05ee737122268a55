//! From the mesh to addresses: a session and a sending link for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::{DetachError, LinkStateError, SendError, SenderAttachError};
use fe2o3_amqp::session::{BeginError, SessionHandle};
use fe2o3_amqp::types::definitions::{AmqpError, ErrorCondition};
use fe2o3_amqp::types::messaging::{Body, Message, Outcome};
use fe2o3_amqp::types::primitives::Value;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::{Sessions, inbound::advice, message, said};
use crate::books::Books;
use crate::endpoint::amqp::properties::message_id;
use crate::endpoint::amqp::{CONNECT_TIMEOUT, Publish, Shared, Trouble};
use crate::event::Delivery;
use crate::route::dispatch::Failure;

/// Addresses with a link at once; the one that was not used for longest gives way.
const LINKS: usize = 64;
/// How long an event waits for credit before its route says so.
const NO_CREDIT: Duration = Duration::from_secs(5);

const ENDED: &str = "the AMQP broker ended the link and does not say why; was the address deleted?";

/// An event for an address.
struct Job {
    message: Message<Body<Value>>,
    books: Arc<Books>,
    answer: oneshot::Sender<Result<(), Failure>>,
}

#[derive(Default)]
struct Links {
    /// By address: its link's task, and when it was used last.
    open: BTreeMap<String, (mpsc::UnboundedSender<Job>, u64)>,
    uses: u64,
}

/// Publishes on one connection.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    sessions: Arc<Sessions>,
    links: Mutex<Links>,
}

impl Publisher {
    pub fn new(shared: Arc<Shared>, sessions: Arc<Sessions>) -> Self {
        Self { shared, sessions, links: Mutex::default() }
    }

    fn hand_over(&self, address: &str, job: Job) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.uses += 1;
        let used = links.uses;
        if !links.open.contains_key(address) {
            if links.open.len() >= LINKS {
                let oldest = links.open.iter().min_by_key(|(_, (_, used))| *used).map(|(address, _)| address.clone());
                // Its task ends when what it has is done.
                oldest.map(|address| links.open.remove(&address));
            }
            let (jobs, job_queue) = mpsc::unbounded_channel();
            let link = Link { sessions: Arc::clone(&self.sessions), address: address.to_owned() };
            let gone = self.sessions.gone.clone();
            tokio::spawn(async move {
                tokio::select! {
                    // What waits is answered by nobody then, and so goes back to the mesh.
                    () = gone.cancelled() => {},
                    () = link.run(job_queue) => {},
                }
            });
            links.open.insert(address.to_owned(), (jobs, used));
        }
        if let Some((jobs, last)) = links.open.get_mut(address) {
            *last = used;
            // A task that is gone answers nothing, which is an answer.
            let _ = jobs.send(job);
        }
    }
}

impl Publish for Publisher {
    fn publish(self: Arc<Self>, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let stream = delivery.route.as_ref().map(|route| route.stream.as_str()).unwrap_or_default();
        let id = message_id(stream, delivery.sequence);
        let guarantee = self.shared.config.delivery.guarantee;
        let message = message::message(&delivery.target, &delivery.headers, &delivery.payload, id, guarantee);
        let (answer, answered) = oneshot::channel();
        self.hand_over(&delivery.target, Job { message, books: Arc::clone(delivery.receipt.books()), answer });
        Box::pin(async move { answered.await.unwrap_or(Err(Failure::Lost)) })
    }
}

/// The link to one address.
struct Link {
    sessions: Arc<Sessions>,
    address: String,
}

type Flight = BoxFuture<'static, (oneshot::Sender<Result<(), Failure>>, Result<Outcome, SendError>)>;

impl Link {
    async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let attached = tokio::time::timeout(CONNECT_TIMEOUT, self.attach()).await;
            match attached
                .unwrap_or_else(|_| Err(Failure::later("the AMQP broker does not answer the attach of a link")))
            {
                Ok((_session, sender)) => self.serve(sender, first, &mut jobs).await,
                Err(Failure::Lost) => return,
                Err(failure) => {
                    let problem = match &failure {
                        Failure::Later { problem, .. } | Failure::Refused(problem) => problem.clone(),
                        Failure::Lost => String::new(),
                    };
                    let _ = first.answer.send(Err(failure));
                    // What waits for the same link meets the same.
                    while let Ok(job) = jobs.try_recv() {
                        let _ = job.answer.send(Err(Failure::later(problem.clone())));
                    }
                }
            }
        }
    }

    async fn attach(&self) -> Result<(SessionHandle<()>, Sender), Failure> {
        let begun = self.sessions.begin().await.ok_or(Failure::Lost)?;
        let mut session = begun.map_err(|error| match error {
            BeginError::RemoteEndedWithError(error) => Failure::later(format!("no AMQP session: {}", said(&error))),
            BeginError::LocalChannelMaxReached => Failure::later("the AMQP broker allows no further session"),
            _ => Failure::Lost,
        })?;
        let name = format!("eventmesh-{}-{:08x}", self.address, rand::random::<u32>());
        let sender = Sender::attach(&mut session, name, self.address.as_str()).await.map_err(|error| match error {
            SenderAttachError::SessionStopped(_) => Failure::Lost,
            SenderAttachError::RemoteClosedWithError(error) => {
                Failure::later(format!("`{}`: {}", self.address, advice(&error)))
            }
            error => Failure::later(format!("`{}`: no link: {error}", self.address)),
        })?;
        Ok((session, sender))
    }

    /// Sends until the link ends, or nobody has anything for it any more.
    async fn serve(&self, mut sender: Sender, first: Job, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        let mut flying: FuturesUnordered<Flight> = FuturesUnordered::new();
        let mut next = Some(first);
        loop {
            let job = if let Some(job) = next.take() {
                job
            } else {
                tokio::select! {
                    Some((answer, outcome)) = flying.next() => {
                        let _ = answer.send(self.judge(outcome));
                        continue;
                    }
                    job = jobs.recv() => match job {
                        Some(job) => job,
                        None => break,
                    },
                }
            };
            let Job { message, books, answer } = job;
            match self.send(&mut sender, message, &books, &mut flying).await {
                Ok(flight) => flying.push(Box::pin(async move { (answer, flight.await) })),
                Err(error) => {
                    let ended = !matches!(error, SendError::MessageSizeExceeded(_) | SendError::MessageEncodeError);
                    let _ = answer.send(self.judge(Err(error)));
                    if ended {
                        break;
                    }
                }
            }
        }
        while let Some((answer, outcome)) = flying.next().await {
            let _ = answer.send(self.judge(outcome));
        }
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, sender.close()).await;
    }

    /// Waits for credit, and meanwhile for what became of those before.
    async fn send(
        &self,
        sender: &mut Sender,
        message: Message<Body<Value>>,
        books: &Arc<Books>,
        flying: &mut FuturesUnordered<Flight>,
    ) -> Result<fe2o3_amqp::link::delivery::DeliveryFut<Result<Outcome, SendError>>, SendError> {
        let mut sending = Box::pin(sender.send_batchable(message));
        let mut patience = Box::pin(tokio::time::sleep(NO_CREDIT));
        let mut trouble = None;
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent,
                Some((answer, outcome)) = flying.next() => drop(answer.send(self.judge(outcome))),
                () = &mut patience, if trouble.is_none() => {
                    let problem = format!(
                        "`{}`: the AMQP broker gives no credit; the address is full, or nobody may send to it now",
                        self.address
                    );
                    trouble = Some(Trouble::new(books, problem));
                }
            }
        }
    }

    fn judge(&self, outcome: Result<Outcome, SendError>) -> Result<(), Failure> {
        let later = |problem: String| Err(Failure::later(format!("`{}`: {problem}", self.address)));
        match outcome {
            Ok(Outcome::Accepted(_)) => Ok(()),
            Ok(Outcome::Rejected(rejected)) => match rejected.error {
                Some(error) if error.condition == ErrorCondition::AmqpError(AmqpError::ResourceLimitExceeded) => {
                    later(format!("{}; the address is full: make room there", said(&error)))
                }
                Some(error) => Err(Failure::Refused(format!("`{}` rejects the event: {}", self.address, said(&error)))),
                None => Err(Failure::Refused(format!("`{}` rejects the event, and does not say why", self.address))),
            },
            Ok(Outcome::Released(_) | Outcome::Modified(_)) => {
                later("the AMQP broker does not take the event now (released)".to_owned())
            }
            Err(SendError::MessageSizeExceeded(error)) => {
                Err(Failure::Refused(format!("`{}`: {error}; raise the largest size of the address", self.address)))
            }
            Err(SendError::MessageEncodeError) => {
                Err(Failure::Refused(format!("the event for `{}` can not be written in AMQP 1.0", self.address)))
            }
            Err(SendError::LinkStateError(error)) => match error {
                LinkStateError::RemoteClosedWithError(error) | LinkStateError::RemoteDetachedWithError(error) => {
                    later(advice(&error))
                }
                LinkStateError::RemoteClosed | LinkStateError::RemoteDetached => later(ENDED.to_owned()),
                _ => Err(Failure::Lost),
            },
            Err(SendError::Detached(error)) => match error {
                DetachError::RemoteClosedWithError(error) | DetachError::RemoteDetachedWithError(error) => {
                    later(advice(&error))
                }
                DetachError::ClosedByRemote => later(ENDED.to_owned()),
                _ => Err(Failure::Lost),
            },
            Err(error) => later(error.to_string()),
        }
    }
}
