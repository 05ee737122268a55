//! The events of one topic on their way to Kafka, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::RetryConfig;
use krafka::error::ErrorCode;
use krafka::producer::DeliveryHandle;
use krafka::{KrafkaError, ProtocolErrorKind, Record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::target::Writer;
use crate::backoff::Backoff;
use crate::books::Books;
use crate::route::dispatch::Failure;

/// An event that is not confirmed after this time holds its route up, so that someone looks.
const SLOW: Duration = Duration::from_secs(10);

/// One event, and who waits for what becomes of it.
pub struct Job {
    record: Record,
    books: Arc<Books>,
    held: Option<Held>,
    tries: u32,
    /// Where it is among the events of its lane.
    number: u64,
    /// To be written by itself.
    alone: bool,
    answer: oneshot::Sender<Result<(), Failure>>,
}

/// The event is in the way of its route until this is dropped.
struct Held(Arc<Books>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl Job {
    pub fn new(record: Record, books: Arc<Books>, answer: oneshot::Sender<Result<(), Failure>>) -> Self {
        Self { record, books, held: None, tries: 0, number: 0, alone: false, answer }
    }

    fn held_up(&mut self, problem: &str) {
        if self.held.is_some() {
            self.books.note(problem);
        } else {
            self.books.hold_up(problem);
            self.held = Some(Held(Arc::clone(&self.books)));
        }
    }

    fn end(self, result: Result<(), Failure>) {
        // Nobody waits any more when the dispatcher has ended.
        let _ = self.answer.send(result);
    }
}

/// What an error means for the event that met it.
enum Meaning {
    /// Kafka is away or slow; that says nothing about the event.
    Away(String),
    Later(String),
    /// It is, or a batch that it was in. The client halves such a batch a few times, and then gives up all that is left in it.
    TooLarge(String),
    Refused(String),
    Lost,
}

/// An event that the client has, until Kafka has confirmed it.
struct Unconfirmed {
    job: Job,
    handle: DeliveryHandle,
    since: Instant,
}

pub struct Lane {
    topic: String,
    writer: Arc<Writer>,
    retry: RetryConfig,
    at_most_once: bool,
    /// In the order in which they were given to the client.
    unconfirmed: VecDeque<Unconfirmed>,
    /// To be tried before anything new, in order.
    again: VecDeque<Job>,
    /// Events so far.
    number: u64,
    /// Failures in a row.
    failures: u32,
}

impl Lane {
    pub fn new(topic: String, writer: Arc<Writer>, retry: RetryConfig, at_most_once: bool) -> Self {
        let (unconfirmed, again) = (VecDeque::new(), VecDeque::new());
        Self { topic, writer, retry, at_most_once, unconfirmed, again, number: 0, failures: 0 }
    }

    /// Until the connection is given up; what is left is lost to it then, which dropping tells.
    pub async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let broken = self.writer.broken.clone();
        tokio::select! {
            () = self.carry(&mut jobs) => {},
            () = broken.cancelled() => {},
        }
    }

    async fn carry(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        loop {
            if let Some(job) = self.again.pop_front() {
                if job.alone {
                    self.write_alone(job).await;
                } else {
                    self.write(job).await;
                }
                continue;
            }
            let slow =
                self.unconfirmed.front().filter(|first| first.job.held.is_none()).map(|first| first.since + SLOW);
            tokio::select! {
                biased;
                result = confirmed(&mut self.unconfirmed) => self.conclude(result).await,
                job = jobs.recv() => match job {
                    Some(mut job) => {
                        self.number += 1;
                        job.number = self.number;
                        self.write(job).await;
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(slow.unwrap_or_else(Instant::now)), if slow.is_some() => self.say_slow(),
            }
        }
    }

    /// Gives an event to the client. One that it does not take goes before all others.
    async fn write(&mut self, job: Job) {
        let taken = match self.writer.producer().await {
            Ok(producer) => producer.enqueue(job.record.clone()).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(handle) => {
                self.unconfirmed.push_back(Unconfirmed { job, handle, since: Instant::now() });
            }
            Err(error) => {
                if let Some(job) = self.failed(job, &error) {
                    self.again.push_front(job);
                    self.rest().await;
                }
            }
        }
    }

    /// Gives an event to the client while it has no other, so that it can not be refused for the batch that it is in.
    async fn write_alone(&mut self, job: Job) {
        self.confirm_all().await;
        // One before it may have to be tried again first.
        let place = self.again.partition_point(|other| other.number < job.number);
        if place > 0 {
            return self.again.insert(place, job);
        }
        self.write(job).await;
        self.confirm_all().await;
    }

    async fn confirm_all(&mut self) {
        while !self.unconfirmed.is_empty() {
            let result = confirmed(&mut self.unconfirmed).await;
            self.conclude(result).await;
        }
    }

    /// The first of the unconfirmed has its answer. When it is to be tried again, all behind it are waited for first, so that
    /// those that failed too are tried after it, and before all others.
    async fn conclude(&mut self, result: krafka::Result<()>) {
        let mut result = Some(result);
        let mut failed = VecDeque::new();
        while let Some(first) = self.unconfirmed.pop_front() {
            let outcome = match result.take() {
                Some(outcome) => outcome,
                None => first.handle.await.map(drop),
            };
            match outcome {
                Ok(()) => {
                    self.failures = 0;
                    first.job.end(Ok(()));
                }
                Err(error) => failed.extend(self.failed(first.job, &error)),
            }
            if failed.is_empty() {
                return;
            }
        }
        let troubled = failed.iter().any(|job| job.held.is_some());
        failed.append(&mut self.again);
        self.again = failed;
        if troubled {
            self.rest().await;
        }
    }

    /// Gives the event back when it is to be tried again.
    fn failed(&mut self, mut job: Job, error: &KrafkaError) -> Option<Job> {
        if error.is_fatal() {
            self.writer.broken.cancel();
        }
        match meaning(error, &self.topic, job.record.timestamp.is_some()) {
            Meaning::TooLarge(_) if !job.alone => {
                job.alone = true;
                return Some(job);
            }
            Meaning::TooLarge(problem) => job.end(Err(Failure::Refused(problem))),
            Meaning::Lost => job.end(Err(Failure::Lost)),
            Meaning::Refused(problem) => job.end(Err(Failure::Refused(problem))),
            Meaning::Away(problem) | Meaning::Later(problem) if self.at_most_once => {
                job.end(Err(Failure::later(problem)));
            }
            Meaning::Away(problem) => {
                job.held_up(&problem);
                return Some(job);
            }
            Meaning::Later(problem) => {
                job.tries += 1;
                if self.retry.attempts > 0 && job.tries >= self.retry.attempts {
                    let problem = format!("{problem} (tried {} times)", job.tries);
                    job.end(Err(Failure::Refused(problem)));
                    return None;
                }
                job.books.retried(1);
                job.held_up(&problem);
                return Some(job);
            }
        }
        None
    }

    async fn rest(&mut self) {
        let wait = Backoff::from(self.retry).after(self.failures.min(16)).next_wait();
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(wait).await;
    }

    fn say_slow(&mut self) {
        let problem = format!(
            "Kafka has not confirmed an event for topic `{}` for {} s; check that its partitions have a leader and enough replicas in sync (min.insync.replicas), and that brokers have room on their disks",
            self.topic,
            SLOW.as_secs()
        );
        if let Some(first) = self.unconfirmed.front_mut() {
            first.job.held_up(&problem);
        }
    }
}

/// The answer for the first of them; never while there is none.
async fn confirmed(unconfirmed: &mut VecDeque<Unconfirmed>) -> krafka::Result<()> {
    match unconfirmed.front_mut() {
        Some(first) => (&mut first.handle).await.map(drop),
        None => std::future::pending().await,
    }
}

fn meaning(error: &KrafkaError, topic: &str, has_time: bool) -> Meaning {
    let later = |advice: &str| Meaning::Later(format!("Kafka does not take events for topic `{topic}`: {advice}"));
    let refused =
        |advice: &str| Meaning::Refused(format!("Kafka does not take the event for topic `{topic}`: {advice}"));
    let code = match error {
        KrafkaError::Broker { code, .. } => *code,
        KrafkaError::UnknownTopic { .. } => ErrorCode::UnknownTopicOrPartition,
        KrafkaError::Protocol { kind: ProtocolErrorKind::FrameTooLarge, .. } => ErrorCode::MessageTooLarge,
        KrafkaError::Closed { .. } | KrafkaError::Fenced { .. } => return Meaning::Lost,
        KrafkaError::Config { message } | KrafkaError::Serialization { message } => return refused(message),
        KrafkaError::Network(_) | KrafkaError::Timeout { .. } | KrafkaError::DeliveryTimeout { .. } => {
            return Meaning::Away(format!("Kafka takes no events for topic `{topic}`: {error}"));
        }
        other => return later(&other.to_string()),
    };
    match code {
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => Meaning::TooLarge(format!(
            "Kafka does not take the event for topic `{topic}`: it is too large; raise the topic's max.message.bytes"
        )),
        ErrorCode::InvalidRecord => refused("it is not valid there; a compacted topic wants a key in each event"),
        ErrorCode::InvalidTimestamp if has_time => {
            refused("the timestamp it carries is too far from the broker's clock")
        }
        // The time is that at which the bridge sends it, so nothing is wrong with the event.
        ErrorCode::InvalidTimestamp => later(
            "the clock of the bridge's node is too far from the broker's; set it, or raise the topic's message.timestamp.after.max.ms",
        ),
        ErrorCode::InvalidTopic => refused("no topic can have this name"),
        ErrorCode::PolicyViolation => refused(&format!("a policy of the brokers forbids it: {error}")),
        ErrorCode::UnknownTopicOrPartition => later(
            "there is no such topic, or the bridge's user may not describe it; create it, or allow Describe and Write",
        ),
        ErrorCode::TopicAuthorizationFailed => later("its user may not write there; allow it Write on the topic"),
        ErrorCode::ClusterAuthorizationFailed => {
            later("its user may not write idempotently; allow it IdempotentWrite on the cluster")
        }
        _ => later(&error.to_string()),
    }
}
