//! One pull request: so many events of a consumer, as they come, for a short time.
//!
//! Requests are short because brokers do not take them back. Across accounts, a broker that is not the one the bridge is
//! connected to does not notice that nobody listens any more: until a request ends, it gives events to nobody, and each
//! then waits until the consumer gives it again.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::books::Obstacle;

/// How long a request lasts.
pub(super) const LASTS: Duration = Duration::from_secs(2);
/// How much later than that it must have been answered.
const GRACE: Duration = Duration::from_secs(5);

/// Where the answers to a request come in. One serves many requests, one after the other: brokers tell each other of every
/// subscription, so a new one for each request costs them more than the request.
pub(super) struct Inbox {
    subject: String,
    answers: Subscriber,
}

impl Inbox {
    pub(super) async fn open(client: &Client) -> Result<Self, PullError> {
        let subject = client.new_inbox();
        let answers = client.subscribe(subject.clone()).await.map_err(PullError::failed)?;
        Ok(Self { subject, answers })
    }
}

/// A request that may still bring events.
pub(super) struct Pull {
    inbox: Inbox,
    /// Room in the window for what is to come.
    room: OwnedSemaphorePermit,
    asked_for: usize,
    overdue: Instant,
}

/// What an answer to a request means.
#[derive(Debug, PartialEq, Eq)]
enum Status {
    Event,
    /// It is over; nothing is wrong.
    Over,
    Nothing,
    /// The brokers may be choosing a leader.
    Nobody,
    /// The next one would do no better.
    Wrong(String),
}

/// Why a consumer can not be read.
#[derive(Debug)]
pub struct PullError {
    pub obstacle: Obstacle,
    pub message: String,
}

impl PullError {
    pub fn failed(message: impl std::fmt::Display) -> Self {
        Self { obstacle: Obstacle::Failed, message: message.to_string() }
    }

    /// It may work in a moment.
    #[must_use]
    pub fn blocked(message: &str) -> Self {
        Self { obstacle: Obstacle::Blocked, message: message.to_owned() }
    }
}

impl Pull {
    /// Asks for as many events as there is room for.
    pub(super) async fn ask(
        client: &Client,
        subject: &str,
        room: OwnedSemaphorePermit,
        inbox: Inbox,
    ) -> Result<Self, PullError> {
        let asked_for = room.num_permits();
        let request = json!({"batch": asked_for, "expires": u64::try_from(LASTS.as_nanos()).unwrap_or(u64::MAX)});
        let sent =
            client.publish_with_reply(subject.to_owned(), inbox.subject.clone(), request.to_string().into()).await;
        sent.map_err(PullError::failed)?;
        Ok(Self { inbox, room, asked_for, overdue: Instant::now() + LASTS + GRACE })
    }

    /// The next event and its place in the window; `None` when there will be no more.
    pub(super) async fn next(&mut self) -> Result<Option<(Message, OwnedSemaphorePermit)>, PullError> {
        while self.room.num_permits() > 0 {
            let wait = self.overdue.saturating_duration_since(Instant::now());
            let answer = timeout(wait, self.inbox.answers.next()).await;
            let answer = answer.map_err(|_| PullError::blocked("its brokers did not answer in time"))?;
            let Some(message) = answer else { return Err(PullError::blocked("the connection has ended")) };
            match status(&message) {
                Status::Event => return Ok(self.room.split(1).map(|permit| (message, permit))),
                Status::Over => return Ok(None),
                Status::Nothing => {}
                Status::Nobody => {
                    return Err(PullError::blocked("nobody answers for it; its brokers may be choosing a leader"));
                }
                Status::Wrong(problem) => return Err(PullError::failed(problem)),
            }
        }
        Ok(None)
    }

    /// After the last event: nothing more comes to its inbox.
    pub(super) fn into_inbox(self) -> Inbox {
        self.inbox
    }

    /// Whether so much of it has come that the next should be asked for.
    pub(super) fn runs_out(&self) -> bool {
        self.room.num_permits() <= self.asked_for / 2
    }
}

fn status(message: &Message) -> Status {
    let Some(status) = message.status else { return Status::Event };
    let said = message.description.as_deref().unwrap_or_default();
    match (status, said) {
        (StatusCode::IDLE_HEARTBEAT, _) => Status::Nothing,
        (StatusCode::OK, _) => Status::Event,
        (StatusCode::TIMEOUT | StatusCode::NOT_FOUND, _) => Status::Over,
        (StatusCode::REQUEST_TERMINATED, "Leadership Change" | "Server Shutdown" | "Batch Completed") => Status::Over,
        (StatusCode::NO_RESPONDERS, _) => Status::Nobody,
        _ => Status::Wrong(format!("{said} ({status})")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, "", Status::Event)]
    #[case(Some(408), "Request Timeout", Status::Over)]
    #[case(Some(409), "Leadership Change", Status::Over)]
    #[case(Some(409), "Consumer Deleted", Status::Wrong("Consumer Deleted (409)".into()))]
    #[case(Some(503), "", Status::Nobody)]
    #[case(Some(100), "Idle Heartbeat", Status::Nothing)]
    fn reads(#[case] code: Option<u16>, #[case] said: &str, #[case] expected: Status) {
        let message = Message {
            subject: "s".into(),
            reply: None,
            payload: bytes::Bytes::new(),
            headers: None,
            status: code.map(|code| StatusCode::from_u16(code).unwrap()),
            description: Some(said.to_owned()),
            length: 0,
        };
        assert_eq!(status(&message), expected);
    }
}
