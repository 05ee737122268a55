//! Publishing to the other system: into one of its streams, which confirms each event, or to whoever listens.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, StatusCode};
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use serde::Deserialize;
use tokio::sync::watch;

use super::connection::Health;
use crate::cloudevents;
use crate::event::Delivery;
use crate::jetstream::{ApiError, begun};
use crate::route::dispatch::{Failure, Target};

/// How long the answer of a stream may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The event is larger than the stream's limit for one, or the account's.
const TOO_LARGE: [u64; 2] = [10054, 10124];
/// The stream, or the account, is full.
const FULL: [u64; 4] = [10047, 10052, 10046, 10077];

/// A connection that stands.
#[derive(Clone)]
struct Open {
    client: Client,
    health: watch::Receiver<Health>,
}

/// Where events leave: the connection there is now.
pub(super) struct Outlet {
    open: Mutex<Option<Open>>,
    /// Each event is confirmed by a stream.
    confirmed: bool,
    uid: String,
}

impl Outlet {
    pub(super) fn new(confirmed: bool, uid: String) -> Self {
        Self { open: Mutex::default(), confirmed, uid }
    }

    pub(super) fn open(&self, client: Client, health: watch::Receiver<Health>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(Open { client, health });
    }

    pub(super) fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn prepare(&self, delivery: &Delivery) -> Result<(Open, HeaderMap), Failure> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let open = open.filter(|open| open.health.borrow().connected).ok_or(Failure::Lost)?;
        let mut headers = HeaderMap::new();
        let mut size = delivery.payload.len();
        for (name, value) in cloudevents::NATS.from_mesh(&delivery.headers) {
            size += name.len() + value.len() + 4;
            headers.append(name.as_str(), value.as_str());
        }
        if self.confirmed {
            let id = identity(&self.uid, delivery);
            size += id.len() + "Nats-Msg-Id: \r\n".len();
            headers.insert("Nats-Msg-Id", id.as_str());
        }
        let (size, most) = (size + "NATS/1.0\r\n\r\n".len(), open.client.max_payload());
        if size > most {
            return Err(Failure::Refused(format!(
                "the event needs {size} bytes, and the NATS server takes {most} at most (its max_payload)"
            )));
        }
        Ok((open, headers))
    }
}

impl Target for Outlet {
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let (open, headers) = match self.prepare(delivery) {
            Ok(prepared) => prepared,
            Err(failure) => return ready(Err(failure)).boxed(),
        };
        let (subject, payload) = (delivery.target.clone(), delivery.payload.clone());
        if self.confirmed {
            let request = Request::new().headers(headers).payload(payload).timeout(Some(ANSWER));
            return begun(store(open, subject, request));
        }
        let publish = async move {
            let sent = open.client.publish_with_headers(subject, headers, payload).await;
            sent.map_err(|error| Failure::Refused(format!("it can not be published: {error}")))?;
            // Written to the socket; more than that nobody tells.
            open.client.flush().await.map_err(|_| Failure::Lost)
        };
        begun(publish)
    }
}

/// What a stream at the other side knows the event by, when it comes again within its de-duplication window. The number alone
/// would not do: a Topic that was deleted and made anew counts from 1 again.
fn identity(uid: &str, delivery: &Delivery) -> String {
    let mut hasher = DefaultHasher::new();
    (&delivery.origin, &delivery.payload).hash(&mut hasher);
    let (route, stream) =
        delivery.route.as_ref().map(|route| (route.name.as_str(), route.stream.as_str())).unwrap_or_default();
    format!("{uid}/{route}/{stream}/{}/{:x}", delivery.sequence, hasher.finish())
}

async fn store(mut open: Open, subject: String, request: Request) -> Result<(), Failure> {
    let lost = async { drop(open.health.wait_for(|health| !health.connected).await) };
    let answer = tokio::select! {
        answer = open.client.send_request(subject.clone(), request) => answer,
        () = lost => return Err(Failure::Lost),
    };
    match answer {
        Ok(answer) => read(&answer),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(nobody(&subject)),
        Err(error) if error.kind() == RequestErrorKind::TimedOut => {
            let said = open.health.borrow().said.clone().map(|said| format!("; it said: {said}")).unwrap_or_default();
            Err(Failure::later(format!("the NATS server did not confirm the event in {} s{said}", ANSWER.as_secs())))
        }
        Err(error) => Err(Failure::later(format!("can not publish: {error}"))),
    }
}

fn nobody(subject: &str) -> Failure {
    Failure::later(format!(
        "no stream of the other system takes the subject `{subject}`, or its brokers are choosing a leader; make a stream there that takes it"
    ))
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    error: Option<ApiError>,
}

fn read(message: &Message) -> Result<(), Failure> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(nobody("of the event"));
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(&message.payload) else {
        return Err(Failure::later(
            "what answered is no stream; a subscriber of the other system answers in its place",
        ));
    };
    let Some(ApiError { err_code, description }) = answer.error else {
        return if answer.stream.is_empty() {
            Err(Failure::later("what answered is no stream; a subscriber of the other system answers in its place"))
        } else {
            Ok(())
        };
    };
    let problem = format!("the stream of the other system refused the event: {description} ({err_code})");
    Err(match err_code {
        code if TOO_LARGE.contains(&code) => Failure::Refused(problem),
        code if FULL.contains(&code) => Failure::later(format!("{problem}; raise its limits, or make room there")),
        _ => Failure::later(problem),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn answer(payload: &str) -> Message {
        Message {
            subject: "s".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[rstest]
    #[case(r#"{"stream":"S","seq":1}"#, "stored")]
    #[case(r#"{"stream":"S","seq":1,"duplicate":true}"#, "stored")]
    #[case(r#"{"error":{"code":400,"err_code":10054,"description":"too large"}}"#, "refused")]
    #[case(r#"{"error":{"code":503,"err_code":10077,"description":"full"}}"#, "make room")]
    #[case(r#"{"error":{"code":400,"err_code":10060,"description":"other"}}"#, "later")]
    #[case("{}", "no stream")]
    #[case("pong", "no stream")]
    fn an_answer_is_a_fate(#[case] payload: &str, #[case] expected: &str) {
        let found = match read(&answer(payload)) {
            Ok(()) => "stored".to_owned(),
            Err(Failure::Refused(_)) => "refused".to_owned(),
            Err(Failure::Later { problem, .. }) => format!("later {problem}"),
            Err(Failure::Lost) => "lost".to_owned(),
        };
        assert!(found.contains(expected), "{found}");
    }
}
