//! `POST /publish/{subject}`: an event into a stream, or at most once to whoever listens.

use std::time::Duration;

use async_nats::Message;
use hyper::StatusCode;
use hyper::body::Incoming as Body;
use serde::Deserialize;
use serde_json::json;

use super::answer::{self, Answer};
use super::query;
use super::send::{Call, NoAnswer};
use crate::cloudevents;
use crate::endpoint::http::problem::Problem;
use crate::jetstream::ApiError;

/// How long a stream may take to store an event.
const STORED_WITHIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(1);
/// By which streams know an event that they have.
const ID: &str = "Nats-Msg-Id";
/// The event is larger than the stream's or the account's limit for one.
const TOO_LARGE: [u64; 2] = [10054, 10124];

/// # Errors
/// What to answer.
pub async fn answer(call: &Call<'_>, body: &mut Body) -> Result<Answer, Problem> {
    let waits = query::waits(call.head.uri.query())?;
    let mesh = call.mesh().await?;
    let mut message = call.read(mesh, body).await?;
    let named = call.head.headers.get(ID).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let identity = named.or_else(|| cloudevents::identity(&message.event.headers)).or(message.event.identity.take());
    if let Some(id) = identity.filter(|id| !id.is_empty() && !id.contains(['\r', '\n', '\0'])) {
        message.headers.insert(ID, id.as_str());
    }
    if waits {
        return stored(&call.ask(mesh, message, STORED_WITHIN).await.map_err(|why| explain(call.subject, why))?);
    }
    // Nobody waits for what the broker says, so what is known must do.
    if call.is_known_to_be_forbidden() {
        return Err(call.forbidden());
    }
    let sent = mesh.client.publish_with_headers(call.subject.to_owned(), message.headers, message.payload).await;
    sent.map_err(|error| Problem::unavailable(format!("the event could not be sent: {error}"), SOON))?;
    Ok(answer::empty(StatusCode::ACCEPTED))
}

fn explain(subject: &str, why: NoAnswer) -> Problem {
    let again = "send it again, with the same id";
    match why {
        NoAnswer::Problem(problem) => problem,
        NoAnswer::InTime => {
            let detail =
                format!("the mesh did not say within {} s that it stored the event; {again}", STORED_WITHIN.as_secs());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, detail)
        }
        NoAnswer::Lost => {
            Problem::unavailable(format!("the connection to the mesh was lost before it said anything; {again}"), SOON)
        }
        NoAnswer::Nobody => Problem::unavailable(
            format!(
                "no stream stores `{subject}`: there is no Topic with this subject, or its brokers are choosing a leader; where nothing has to be stored, add ?wait=none"
            ),
            SOON,
        ),
    }
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    error: Option<ApiError>,
}

/// The answer of a stream, as the application gets it.
fn stored(message: &Message) -> Result<Answer, Problem> {
    let text = read(&message.payload)?;
    Ok(answer::json(StatusCode::OK, text))
}

fn read(payload: &[u8]) -> Result<String, Problem> {
    let ack = serde_json::from_slice::<Ack>(payload).ok();
    match ack {
        Some(Ack { error: Some(error), .. }) => {
            let detail = format!("the stream does not take the event: {} ({})", error.description, error.err_code);
            Err(if TOO_LARGE.contains(&error.err_code) {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            } else {
                Problem::unavailable(detail, SOON)
            })
        }
        Some(Ack { stream: Some(stream), seq, duplicate, .. }) => {
            let mut text = json!({"stream": stream, "sequence": seq});
            if duplicate {
                text["duplicate"] = json!(true);
            }
            Ok(text.to_string())
        }
        _ => {
            let detail = "somebody answered, and it is no stream: use /request for what is answered, or ?wait=none";
            Err(Problem::new(StatusCode::BAD_GATEWAY, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"stream":"S","seq":7}"#, Ok(r#"{"sequence":7,"stream":"S"}"#))]
    #[case(r#"{"stream":"S","seq":7,"duplicate":true}"#, Ok(r#"{"duplicate":true,"sequence":7,"stream":"S"}"#))]
    #[case(r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"},"stream":"S","seq":0}"#, Err(413))]
    #[case(
        r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}"#,
        Err(503)
    )]
    #[case("hello", Err(502))]
    #[case("{}", Err(502))]
    fn what_a_stream_answers_is_told(#[case] payload: &str, #[case] expected: Result<&str, u16>) {
        let found = read(payload.as_bytes()).map_err(|problem| problem.status.as_u16());
        assert_eq!(found, expected.map(str::to_owned));
    }
}
