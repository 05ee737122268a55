//! One request: who sends it, what it holds, and what became of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventmesh_wire::config::Guarantee;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming as Body};
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::events::{self, Event};
use super::listener::{Settings, Shared};
use super::path;
use super::problem::Problem;
use crate::event::{Acknowledge, Receipt};
use crate::route::inbound::{Inbound, Incoming};

/// How long a client may take over the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// What is read of the body of a request that is not taken, and for how long.
const DISCARD: usize = 16 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// When a client is told to come again: after the time in which what is wrong usually is not any more.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);
/// What an event has in the mesh beside what its sender gave it: the bridge's mark, an id, a trace.
const HEADER_ROOM: usize = 2 * 1024;

/// Always an answer: whoever gets none sends again.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Body>) -> Response<Full<Bytes>> {
    let (head, mut body) = request.into_parts();
    match take(shared, &head, &mut body).await {
        Ok(()) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
        Err(problem) => {
            // Who waits for permission to send the body has not sent it.
            if !head.headers.contains_key(EXPECT) {
                discard(&mut body).await;
            }
            problem.into_response()
        }
    }
}

/// Reads what is left of a body: closing a connection with input unread resets it, and a reset takes the answer with it.
pub async fn discard(body: &mut Body) {
    let read = async {
        let mut left = DISCARD;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(length);
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(PATIENCE, read).await;
}

async fn take(shared: &Arc<Shared>, head: &Parts, body: &mut Body) -> Result<(), Problem> {
    let settings = Arc::clone(&shared.settings.borrow());
    settings.guard.check_head(&head.headers)?;
    if !matches!(head.method, Method::POST | Method::PUT) {
        return Err(Problem::method_not_allowed());
    }
    let address = path::address(head.uri.path())
        .ok_or_else(|| Problem::bad_request("the path is not UTF-8, or holds control characters"))?;
    let route = route(shared, &address)?;
    check_open(shared)?;
    let (body, _room) = read(shared, &settings, body).await?;
    settings.guard.check_body(&head.headers, &body)?;
    let events = events::parse(&head.headers, body)?;
    if let Some(large) = events.iter().position(|event| event.size() + HEADER_ROOM > shared.mesh.client.max_payload()) {
        let most = shared.mesh.client.max_payload() - HEADER_ROOM;
        let detail = format!("event {large} is larger than the {most} bytes that the mesh takes, headers included");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let count = events.len();
    let most = shared.bridge.delivery.max_in_flight as usize;
    if count > most {
        let detail = format!("the batch has {count} events, and {most} may be on their way at once");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let places = (0..count).map_while(|_| Arc::clone(&shared.window).try_acquire_owned().ok()).collect::<Vec<_>>();
    if places.len() < count {
        return Err(Problem::unavailable("as many events are on their way as may be", SOON));
    }
    if let Some(Err(wait)) = settings.rate.as_ref().map(|bucket| bucket.take(count, tokio::time::Instant::now())) {
        return Err(Problem::too_many(wait));
    }
    check_open(shared)?;
    store(shared, &settings, &route, &address, events.into_iter().zip(places)).await
}

fn route(shared: &Shared, address: &str) -> Result<Arc<Inbound>, Problem> {
    let routes = shared.routes.borrow();
    let found = routes.iter().find_map(|route| Some((route, route.map.map(address)?)));
    match found {
        Some((route, Ok(_))) => Ok(Arc::clone(route)),
        Some((_, Err(unmappable))) => Err(Problem::bad_request(unmappable.to_string())),
        None => Err(Problem::new(StatusCode::NOT_FOUND, format!("no route takes events at {address}"))),
    }
}

/// Whether there is any use in going on.
fn check_open(shared: &Shared) -> Result<(), Problem> {
    if shared.drain.is_cancelled() {
        return Err(Problem::unavailable("this bridge is stopping", SOON).and_close());
    }
    if !shared.mesh.is_connected() {
        return Err(Problem::unavailable("the mesh is not connected", LATER));
    }
    Ok(())
}

/// The body, and the room that it takes until the request is answered.
async fn read(shared: &Shared, settings: &Settings, body: &mut Body) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
    let most = shared.mesh.client.max_payload().min(settings.config.max_body_bytes as usize);
    let told = body.size_hint().upper();
    if told.is_some_and(|length| length > most as u64) {
        return Err(Problem::too_large(most));
    }
    let expected = told.and_then(|length| usize::try_from(length).ok()).unwrap_or(most);
    let kib = u32::try_from(expected.div_ceil(1024)).unwrap_or(u32::MAX);
    let room = Arc::clone(&shared.bodies).try_acquire_many_owned(kib);
    let room = room.map_err(|_| Problem::unavailable("too many requests at once", SOON).and_close())?;
    Ok((collect(body, most).await?, room))
}

/// The whole of a body of at most so many bytes, in time.
///
/// # Errors
/// What to answer.
pub async fn collect(body: &mut Body, most: usize) -> Result<Bytes, Problem> {
    match timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(most)),
        Ok(Err(_)) => Err(Problem::bad_request("the body ended early, or is not HTTP").and_close()),
        Err(_) => {
            let detail = format!("the body took longer than {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail).and_close())
        }
    }
}

/// Sends the events on their way, and waits until the fate of each is known, but not for ever.
async fn store(
    shared: &Shared,
    settings: &Settings,
    route: &Inbound,
    address: &str,
    events: impl ExactSizeIterator<Item = (Event, OwnedSemaphorePermit)>,
) -> Result<(), Problem> {
    let count = events.len();
    let guarantee = shared.bridge.delivery.guarantee;
    let (tell, mut told) = mpsc::unbounded_channel();
    for (event, place) in events {
        let tell = (guarantee == Guarantee::AtLeastOnce).then(|| tell.clone());
        let acknowledge = Box::new(Answer { tell, _place: place });
        let incoming = Incoming { address, headers: event.headers, payload: event.payload, identity: event.identity };
        route.accept(incoming, Receipt::new(&route.books, acknowledge, guarantee), &shared.mesh);
    }
    drop(tell);
    if guarantee == Guarantee::AtMostOnce {
        return Ok(());
    }
    let (mut stored, mut given_back) = (0, 0);
    let all = async {
        while let Some(confirmed) = told.recv().await {
            if confirmed { stored += 1 } else { given_back += 1 }
        }
    };
    let in_time = tokio::select! {
        ended = timeout(Duration::from_millis(settings.config.answer_within_ms.into()), all) => ended.is_ok(),
        () = shared.stop.cancelled() => false,
    };
    // From here on what is not stored yet is not wanted any more: see [`Answer::is_wanted`].
    drop(told);
    match (stored, given_back) {
        (stored, _) if stored == count => Ok(()),
        (0, _) => {
            let why =
                if in_time { "the mesh could not take the event" } else { "the mesh did not store the event in time" };
            Err(Problem::unavailable(format!("{why}; send it again"), LATER))
        }
        (stored, _) => {
            let detail = format!(
                "{stored} of {count} events are stored; send the batch again: those with the same source and id are not stored twice"
            );
            Err(Problem::unavailable(detail, LATER))
        }
    }
}

/// What a request waits for.
struct Answer {
    /// Absent where it waits for nothing: at most once.
    tell: Option<mpsc::UnboundedSender<bool>>,
    _place: OwnedSemaphorePermit,
}

impl Answer {
    fn tell(&self, confirmed: bool) {
        // Nobody waits for it any more where this fails.
        let _ = self.tell.as_ref().map(|tell| tell.send(confirmed));
    }
}

impl Acknowledge for Answer {
    fn confirm(&mut self) {
        self.tell(true);
    }

    fn give_back(&mut self) {
        self.tell(false);
    }

    /// When nobody waits any more, the client was told to send again, or is gone, which it takes as the same.
    fn is_wanted(&self) -> bool {
        self.tell.as_ref().is_none_or(|tell| !tell.is_closed())
    }
}
