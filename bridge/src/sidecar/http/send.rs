//! What publish and request have in common: one message to the mesh, and why there is no answer.
//!
//! All requests share one connection and are on their way together.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind};
use bytes::Bytes;
use eventmesh_wire::subject::Pattern;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming as Body};
use hyper::http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::timeout;

use super::{Port, Situation};
use crate::endpoint::http::events::{self, Event};
use crate::endpoint::http::problem::Problem;
use crate::endpoint::http::request::collect;
use crate::mesh::Mesh;
use crate::route::may_cross;

/// How long a request waits for a mesh that is away: long enough for a broker that restarts in a cluster, so that its
/// applications do not notice.
const PATIENCE: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(1);
/// What a message has beside payload and headers: its subject, and where the answer goes.
const ROOM: usize = 64;

/// A request of the application that is about a subject.
pub struct Call<'a> {
    pub port: &'a Port,
    pub situation: &'a Situation,
    pub head: &'a Parts,
    pub subject: &'a str,
}

/// A message, ready to be sent, and the room that its body takes until then.
pub struct Outgoing {
    pub headers: HeaderMap,
    pub payload: Bytes,
    pub event: Event,
    _room: OwnedSemaphorePermit,
}

impl Call<'_> {
    /// The connection, as soon as something may be sent over it.
    ///
    /// # Errors
    /// The mesh is away.
    pub async fn mesh(&self) -> Result<&Mesh, Problem> {
        let away = |why: String| Problem::unavailable(why, SOON);
        let mesh = self.situation.mesh.as_ref();
        let mesh = mesh.ok_or_else(|| away(self.situation.ready().err().unwrap_or_default()))?;
        if timeout(PATIENCE, mesh.until_open()).await.is_err() {
            return Err(away(self.situation.ready().err().unwrap_or_else(|| "the mesh is not connected".to_owned())));
        }
        Ok(mesh)
    }

    /// Reads the body, and makes a message of it as a listener of a Bridge would.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn read(&self, mesh: &Mesh, body: &mut Body) -> Result<Outgoing, Problem> {
        let most = mesh.client.max_payload();
        let (body, room) = self.body(body, most).await?;
        let mut parsed = events::parse(&self.head.headers, body)?;
        let (Some(event), true) = (parsed.pop(), parsed.is_empty()) else {
            return Err(Problem::unsupported("one event a request; send each of a batch by itself"));
        };
        let mut headers = HeaderMap::new();
        for (name, value) in event.headers.iter().filter(|(name, value)| may_cross(name, value)) {
            headers.append(name.as_str(), value.as_str());
        }
        let size = event.size() + ROOM;
        if size > most {
            let detail = format!("the event is {size} bytes long, and the mesh takes {most}, headers included");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        Ok(Outgoing { headers, payload: event.payload.clone(), event, _room: room })
    }

    async fn body(&self, body: &mut Body, most: usize) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let told = body.size_hint().upper();
        if told.is_some_and(|length| length > most as u64) {
            return Err(Problem::too_large(most));
        }
        let expected = told.and_then(|length| usize::try_from(length).ok()).unwrap_or(most);
        let kib = u32::try_from(expected.div_ceil(1024).clamp(1, super::BODIES)).unwrap_or(1);
        let room = timeout(PATIENCE, Arc::clone(&self.port.bodies).acquire_many_owned(kib)).await;
        let Ok(Ok(room)) = room else {
            return Err(Problem::unavailable("too many large requests at once", SOON).and_close());
        };
        Ok((collect(body, most).await?, room))
    }

    /// Sends a message that is answered, and waits for the answer.
    ///
    /// # Errors
    /// Why there is none; [`NoAnswer`] leaves to the caller what it means.
    pub async fn ask(&self, mesh: &Mesh, message: Outgoing, patience: Duration) -> Result<Message, NoAnswer> {
        // Credentials are exchanged when nobody waits for an answer.
        let _pass = mesh.pass();
        let mut denials = mesh.denials();
        let mut request = Request::new().payload(message.payload).timeout(Some(patience));
        if !message.headers.is_empty() {
            request = request.headers(message.headers);
        }
        let client: &Client = &mesh.client;
        tokio::select! {
            biased;
            answer = client.send_request(self.subject.to_owned(), request) => answer.map_err(|error| match error.kind() {
                RequestErrorKind::TimedOut => NoAnswer::InTime,
                RequestErrorKind::NoResponders => NoAnswer::Nobody,
                RequestErrorKind::MaxPayloadExceeded => {
                    NoAnswer::Problem(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))
                }
                RequestErrorKind::InvalidSubject => NoAnswer::Problem(Problem::bad_request(error.to_string())),
                RequestErrorKind::Other => NoAnswer::Lost,
            }),
            () = denied(&mut denials, self.subject) => Err(NoAnswer::Problem(self.forbidden())),
            () = mesh.until_lost() => Err(NoAnswer::Lost),
        }
    }

    /// Whether the sidecar was told that this subject is not the application's. The brokers may know better, for a while.
    #[must_use]
    pub fn is_known_to_be_forbidden(&self) -> bool {
        let Some(sidecar) = &self.situation.sidecar else { return false };
        let Ok(subject) = Pattern::parse(self.subject) else { return true };
        let covers = |pattern: &String| Pattern::parse(pattern).is_ok_and(|pattern| pattern.contains(&subject));
        !sidecar.publish.iter().any(covers)
    }

    /// The answer to who may not publish to the subject.
    #[must_use]
    pub fn forbidden(&self) -> Problem {
        let subject = self.subject;
        let detail = match &self.situation.sidecar {
            None => format!("the mesh does not allow this client to publish to `{subject}`"),
            Some(sidecar) => {
                let may = match sidecar.publish.as_slice() {
                    [] => "it may publish to nothing".to_owned(),
                    patterns => format!("it may publish to `{}`", patterns.join("`, `")),
                };
                format!(
                    "ServiceAccount {}/{} may not publish to `{subject}`: {may}; add it to `spec.grants` of the Topic, with `allow: [Publish]`",
                    sidecar.namespace, sidecar.service_account
                )
            }
        };
        Problem::new(StatusCode::FORBIDDEN, detail)
    }
}

/// Why a message was not answered.
pub enum NoAnswer {
    InTime,
    Nobody,
    /// The connection was lost, and with it an answer that may have been on its way.
    Lost,
    Problem(Problem),
}

async fn denied(denials: &mut Receiver<Arc<str>>, subject: &str) {
    loop {
        match denials.recv().await {
            Ok(denied) if *denied == *subject => return,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
