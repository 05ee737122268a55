//! The task behind a publisher: takes deliveries, keeps many on their way, reads answers, tries again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use eventmesh_wire::config::Ingest;
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::Settings;
use super::answer::Answer;
use super::flight::{Flight, Flights};
use super::frame::{self, BATCH, Place, size, too_large};
use super::whereabouts::{self, Inquiry, Whereabouts};
use crate::backoff::Backoff;
use crate::books::{Books, Obstacle, Outcome};
use crate::dead_letter;
use crate::event::Delivery;
use crate::mesh::{Mesh, Pass};

/// Batches on their way at once. While one is being synced to disk the next fills the wire; the server allows 50 a stream.
const BATCHES: usize = 2;
/// How long an answer may take on a connection that stands.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(
    mesh: Mesh,
    books: Arc<Books>,
    settings: Settings,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
) {
    let inbox = mesh.client.new_inbox();
    let answers = loop {
        match mesh.client.subscribe(format!("{inbox}.>")).await {
            Ok(answers) => {
                books.clear();
                break answers;
            }
            Err(error) => books.obstructed(Obstacle::Failed, format!("can not listen for acknowledgements: {error}")),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let backoff = Backoff::from(settings.retry);
    // A batch keeps its order, and of two batches on their way one could be refused and the other not.
    let ingest = if settings.ordered { Ingest::Atomic } else { settings.ingest };
    let pipeline = Pipeline {
        ingest,
        connected_since: Instant::now(),
        mesh,
        books,
        settings,
        inbox,
        flights: Flights::default(),
        retries: VecDeque::new(),
        put_back: Vec::new(),
        retry_at: None,
        backoff,
        batch: Vec::with_capacity(BATCH),
        inquiry: Inquiry::default(),
        pass: None,
    };
    pipeline.run(deliveries, answers).await;
}

struct Pipeline {
    mesh: Mesh,
    books: Arc<Books>,
    settings: Settings,
    /// As configured, until the stream says that it does not allow it.
    ingest: Ingest,
    inbox: String,
    flights: Flights,
    /// Refused or unanswered; they go one by one at `retry_at`, and nothing new goes before them.
    retries: VecDeque<Delivery>,
    /// Refused just now, in their order; they belong before all that waits.
    put_back: Vec<Delivery>,
    retry_at: Option<tokio::time::Instant>,
    backoff: Backoff,
    connected_since: Instant,
    batch: Vec<Delivery>,
    inquiry: Inquiry,
    /// Held while something is on its way.
    pass: Option<Pass>,
}

impl Pipeline {
    async fn run(mut self, mut deliveries: mpsc::UnboundedReceiver<Delivery>, mut answers: Subscriber) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let mut connection = self.mesh.watch();
        let mut open = true;
        loop {
            if self.settings.ordered {
                self.keep_order();
            }
            if !open && self.flights.is_empty() && self.retries.is_empty() {
                return;
            }
            if self.flights.is_empty() {
                self.pass = None;
            }
            let takes = open && self.has_room() && self.retries.is_empty() && self.mesh.is_open();
            let limit = match self.ingest {
                Ingest::Single if self.settings.ordered => 1,
                Ingest::Single => self.settings.window - self.flights.events,
                Ingest::Atomic | Ingest::Fast => BATCH,
            };
            let retry_at = self.retry_at.unwrap_or_else(tokio::time::Instant::now);
            let mut batch = std::mem::take(&mut self.batch);
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    Some(answer) => self.answered(&answer),
                    None => return,
                },
                count = deliveries.recv_many(&mut batch, limit.max(1)), if takes => {
                    open = count > 0;
                    self.depart(&mut batch).await;
                },
                () = tokio::time::sleep_until(retry_at), if self.may_retry() => self.retry().await,
                more = connection.next() => {
                    if !more {
                        return;
                    }
                    self.reconnected();
                },
                found = self.inquiry.answer() => self.learn(&found),
                _ = tick.tick() => self.check_overdue(),
            }
            self.batch = batch;
        }
    }

    fn may_retry(&self) -> bool {
        self.retry_at.is_some() && self.mesh.is_open() && (!self.settings.ordered || self.flights.is_empty())
    }

    /// What was refused just now goes before all that waits, and the next one goes when nothing is on its way.
    fn keep_order(&mut self) {
        while let Some(delivery) = self.put_back.pop() {
            self.retries.push_front(delivery);
        }
        if self.retry_at.is_none() && self.flights.is_empty() && !self.retries.is_empty() {
            self.retry_at = Some(tokio::time::Instant::now());
        }
    }

    fn has_room(&self) -> bool {
        if self.settings.ordered {
            return self.flights.is_empty();
        }
        match self.ingest {
            Ingest::Single => self.flights.events < self.settings.window,
            Ingest::Atomic | Ingest::Fast => self.flights.batches < BATCHES,
        }
    }

    /// Sends what was taken from the queue.
    async fn depart(&mut self, batch: &mut Vec<Delivery>) {
        self.on_the_way();
        batch.retain(|delivery| delivery.receipt.is_wanted());
        let most = self.mesh.client.max_payload();
        let exceeds = |delivery: &Delivery| size(delivery) > most;
        if self.settings.ordered && batch.iter().any(exceeds) {
            batch.drain(..).for_each(|delivery| self.one_by_one(delivery));
        } else if batch.iter().any(exceeds) {
            let (large, fitting): (Vec<Delivery>, Vec<Delivery>) = std::mem::take(batch).into_iter().partition(exceeds);
            *batch = fitting;
            for delivery in large {
                self.unacceptable(delivery, &too_large(most));
            }
        }
        if self.ingest == Ingest::Single || batch.len() == 1 {
            for delivery in batch.drain(..) {
                self.send_alone(delivery).await;
            }
        } else if !batch.is_empty() {
            self.send_batch(std::mem::replace(batch, Vec::with_capacity(BATCH))).await;
        }
    }

    fn on_the_way(&mut self) {
        if self.pass.is_none() {
            self.pass = Some(self.mesh.pass());
        }
    }

    async fn send_alone(&mut self, delivery: Delivery) {
        if !self.mesh.may_carry() {
            return self.not_now(delivery);
        }
        let number = self.flights.number();
        if let Err(error) = frame::alone(&self.mesh.client, &delivery, format!("{}.{number}", self.inbox)).await {
            self.again(delivery, &format!("can not publish: {error}"));
            return;
        }
        // A lone event counts as a batch where batches are the unit, so that what comes meanwhile gathers.
        self.flights.add(number, vec![delivery], self.ingest != Ingest::Single);
    }

    async fn send_batch(&mut self, deliveries: Vec<Delivery>) {
        if !self.mesh.may_carry() {
            return deliveries.into_iter().for_each(|delivery| self.not_now(delivery));
        }
        let number = self.flights.number();
        let id = number.to_string();
        // An atomic batch is named by its id in the whole stream, so by the inbox too; a fast batch by its reply subject.
        let batch = if self.ingest == Ingest::Atomic {
            format!("{}.{id}", self.inbox.trim_start_matches("_INBOX."))
        } else {
            id
        };
        for (index, delivery) in deliveries.iter().enumerate() {
            let place = Place { batch: &batch, number: index + 1, of: deliveries.len() };
            if let Err(error) = frame::member(&self.mesh.client, delivery, self.ingest, &self.inbox, place).await {
                let problem = format!("can not publish: {error}");
                for delivery in deliveries {
                    self.again(delivery, &problem);
                }
                return;
            }
        }
        self.flights.add(number, deliveries, true);
    }

    fn answered(&mut self, message: &Message) {
        let Some(number) = self.flight_number(message.subject.as_str()) else { return };
        let answer = Answer::read(message, &self.settings.stream);
        if answer == Answer::Progress {
            return;
        }
        let Some(flight) = self.flights.take(number) else { return };
        self.conclude(flight, answer);
    }

    fn conclude(&mut self, flight: Flight, answer: Answer) {
        match answer {
            Answer::Stored(count) => {
                let stored = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(flight.deliveries.len());
                let mut deliveries = flight.deliveries.into_iter();
                deliveries.by_ref().take(stored).for_each(|delivery| delivery.receipt.settle(Outcome::Delivered));
                deliveries.for_each(|delivery| self.one_by_one(delivery));
                self.inquiry.problem = None;
                if self.retries.is_empty() {
                    self.backoff.reset();
                }
            }
            Answer::BatchRefused { for_good, problem } => {
                if for_good {
                    tracing::warn!(
                        route = self.books.name,
                        stream = self.settings.stream,
                        problem,
                        "batches are not allowed; publishing one by one"
                    );
                    self.ingest = Ingest::Single;
                }
                flight.deliveries.into_iter().for_each(|delivery| self.one_by_one(delivery));
            }
            Answer::Nobody => {
                let problem =
                    self.inquiry.problem.clone().unwrap_or_else(|| whereabouts::unanswered(&self.settings.stream));
                let subject = flight.deliveries.first().map(|delivery| delivery.target.clone());
                flight.deliveries.into_iter().for_each(|delivery| self.again(delivery, &problem));
                if let Some(subject) = subject {
                    self.inquiry.ask(&self.mesh.client, &self.settings.stream, subject);
                }
            }
            Answer::Refused(problem) => {
                flight.deliveries.into_iter().for_each(|delivery| self.again(delivery, &problem));
            }
            Answer::Unacceptable(problem) if flight.batch && flight.deliveries.len() > 1 => {
                self.books.note(problem);
                flight.deliveries.into_iter().for_each(|delivery| self.one_by_one(delivery));
            }
            Answer::Unacceptable(problem) => {
                let problem = format!("{problem}; raise the Topic's limit, or give the route a dead letter Topic");
                flight.deliveries.into_iter().for_each(|delivery| self.unacceptable(delivery, &problem));
            }
            Answer::Progress => {}
        }
    }

    /// The number in `<inbox>.<number>…`; an atomic batch's reply ends with it.
    fn flight_number(&self, subject: &str) -> Option<u64> {
        let rest = subject.strip_prefix(&self.inbox)?.strip_prefix('.')?;
        let own = self.inbox.trim_start_matches("_INBOX.");
        let rest = rest.strip_prefix(own).and_then(|rest| rest.strip_prefix('.')).unwrap_or(rest);
        rest.split('.').next()?.parse().ok()
    }

    /// It waits for `retry_at`.
    fn wait(&mut self, delivery: Delivery) {
        if self.settings.ordered {
            self.put_back.push(delivery);
        } else {
            self.retries.push_back(delivery);
        }
    }

    /// Another pod could be the active one by now: the event waits until that is known.
    fn not_now(&mut self, delivery: Delivery) {
        self.wait(delivery);
        self.retry_at = Some(tokio::time::Instant::now());
    }

    /// Nothing is wrong with the event; it goes again at once, alone.
    fn one_by_one(&mut self, delivery: Delivery) {
        self.books.retried(1);
        self.wait(delivery);
        self.retry_at = Some(tokio::time::Instant::now());
    }

    /// The event was refused; it goes again later, or to the dead letters when it was tried often enough.
    fn again(&mut self, mut delivery: Delivery, problem: &str) {
        if self.settings.at_most_once {
            self.books.note(problem);
            return delivery.receipt.settle(Outcome::Dropped);
        }
        if !delivery.receipt.is_wanted() {
            return self.books.note(problem); // Its end gives it back.
        }
        delivery.tries += 1;
        let attempts = self.settings.retry.attempts;
        if let Some(dead_letters) =
            self.settings.dead_letters.as_ref().filter(|_| attempts > 0 && delivery.tries >= attempts)
        {
            self.books.note(problem);
            dead_letter::spawn(Arc::clone(dead_letters), self.mesh.clone(), delivery, problem.to_owned());
            return;
        }
        delivery.receipt.held_up(problem);
        self.books.retried(1);
        self.wait(delivery);
        if self.retry_at.is_none() {
            self.retry_at = Some(tokio::time::Instant::now() + self.backoff.next_wait());
        }
    }

    /// The event can not be delivered as things are: to the dead letters, or the route waits for things to change.
    fn unacceptable(&mut self, delivery: Delivery, problem: &str) {
        if let Some(dead_letters) = &self.settings.dead_letters {
            self.books.note(problem);
            dead_letter::spawn(Arc::clone(dead_letters), self.mesh.clone(), delivery, problem.to_owned());
        } else {
            self.again(delivery, problem);
        }
    }

    async fn retry(&mut self) {
        self.retry_at = None;
        self.on_the_way();
        let most = self.mesh.client.max_payload();
        let window = if self.settings.ordered { 1 } else { self.settings.window };
        let room = window.saturating_sub(self.flights.events).max(1);
        for _ in 0..room {
            let Some(delivery) = self.retries.pop_front() else { break };
            if !delivery.receipt.is_wanted() {
                continue;
            }
            if size(&delivery) > most {
                self.unacceptable(delivery, &too_large(most));
                // It is in the queue again; the others wait their turn behind the same pause.
                break;
            }
            self.send_alone(delivery).await;
        }
        if !self.retries.is_empty() && self.retry_at.is_none() && !self.settings.ordered {
            self.retry_at = Some(tokio::time::Instant::now() + Duration::from_millis(5));
        }
    }

    /// As soon as the stream is there, what waits goes again; else the user is told, and the brokers are asked again.
    fn learn(&mut self, found: &Whereabouts) {
        let Some(subject) = self.inquiry.close() else { return };
        if self.retries.is_empty() {
            return;
        }
        if let Some(problem) = found.problem(&self.settings.stream, &subject) {
            if self.mesh.is_connected() {
                self.books.note(problem.clone());
                self.inquiry.problem = Some(problem);
            }
            self.inquiry.ask(&self.mesh.client, &self.settings.stream, subject);
        } else {
            self.retry_at = Some(tokio::time::Instant::now());
        }
    }

    /// The connection came or went. What failed on the old one need not wait on the new one.
    fn reconnected(&mut self) {
        self.connected_since = Instant::now();
        self.backoff.reset();
        if !self.retries.is_empty() {
            self.retry_at = Some(tokio::time::Instant::now());
        }
    }

    fn check_overdue(&mut self) {
        if !self.mesh.is_connected() {
            return;
        }
        for flight in self.flights.overdue(ANSWER_TIMEOUT, self.connected_since) {
            for delivery in flight.deliveries {
                self.again(delivery, "the mesh did not acknowledge in time");
            }
        }
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
