//! What is said to the far side, and what its answers mean.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, StatusCode};
use eventmesh_wire::copy::{HEADER_ID, HEADER_PLACE, Place, event_subject, last_subject};
use serde::Deserialize;

use crate::event::{Headers, headers_of};
use crate::jetstream::{ApiError, PullError};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
const EXPECTED: &str = "Nats-Expected-Last-Sequence";
/// The copy has another last event than the sender thinks.
const MOVED_ON: u64 = 10_071;

/// The last event of a copy: its number there, and where it comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Last {
    pub number: u64,
    pub place: Option<Place>,
}

/// Asks the copy for its last event; `None` when it holds none.
pub(super) async fn last(client: &Client, stream: &str) -> Result<Option<Last>, PullError> {
    let request = Request::new().payload(r#"{"last_by_subj":">"}"#.into()).timeout(Some(ANSWER));
    let answer = client.send_request(last_subject(stream), request).await;
    read_last(&answer.map_err(|error| unanswered(error.kind(), "", stream))?)
}

fn read_last(answer: &Message) -> Result<Option<Last>, PullError> {
    let strange =
        |problem: &str| PullError::failed(format_args!("the far side does not tell where the copy stands: {problem}"));
    if answer.status == Some(StatusCode::NOT_FOUND) {
        return Ok(None);
    }
    let value = |name: &str| answer.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
    let number = value("Nats-Sequence").and_then(|number| number.parse().ok());
    let said = || answer.description.clone().unwrap_or_else(|| "it answers something else".to_owned());
    let number = number.ok_or_else(|| strange(&said()))?;
    Ok(Some(Last { number, place: value(HEADER_PLACE).and_then(|place| Place::parse(&place)) }))
}

/// An event of the Topic as the copy stores it.
pub(super) fn request(
    message: &Message,
    place: &Place,
    expected: Option<u64>,
    most: usize,
) -> Result<Request, PullError> {
    let mut headers = HeaderMap::new();
    let mut size = message.payload.len() + "NATS/1.0\r\n\r\n".len();
    for (name, value) in kept(headers_of(message), place, expected) {
        size += name.len() + value.len() + ": \r\n".len();
        headers.append(name.as_str(), value.as_str());
    }
    if size > most {
        return Err(PullError::blocked(&format!(
            "event {} needs {size} bytes with the headers of a copy, and brokers take {most}: raise brokers.settings.maxPayload of both meshes",
            place.number
        )));
    }
    Ok(Request::new().headers(headers).payload(message.payload.clone()).timeout(Some(ANSWER)))
}

/// The headers of an event of a copy. Those by which brokers are told something were for the brokers here.
fn kept(headers: Headers, place: &Place, expected: Option<u64>) -> Headers {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let id = headers.iter().find(|(name, _)| is(name, "Nats-Msg-Id")).map(|(_, id)| (HEADER_ID.to_owned(), id.clone()));
    let ours = |name: &str| is(name, HEADER_PLACE) || (id.is_some() && is(name, HEADER_ID));
    let brokers = |name: &str| name.get(..5).is_some_and(|start| is(start, "nats-"));
    let mut kept: Headers = headers.into_iter().filter(|(name, _)| !ours(name) && !brokers(name)).collect();
    kept.push((HEADER_PLACE.to_owned(), place.to_string()));
    kept.extend(id);
    kept.extend(expected.map(|expected| (EXPECTED.to_owned(), expected.to_string())));
    kept
}

/// Sends an event; gives its number in the copy once it is stored there.
pub(super) async fn store(client: Client, stream: String, subject: String, request: Request) -> Result<u64, PullError> {
    let answer = client.send_request(event_subject(&stream, &subject), request).await;
    read_stored(&answer.map_err(|error| unanswered(error.kind(), &subject, &stream))?.payload)
}

fn read_stored(answer: &[u8]) -> Result<u64, PullError> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<ApiError>,
        seq: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(PullError::failed)?;
    match (answer.error, answer.seq) {
        (None, Some(number)) => Ok(number),
        (Some(error), _) if error.err_code == MOVED_ON => Err(PullError::blocked(&format!(
            "the copy is not where it was expected: {}; it is asked again",
            error.description
        ))),
        (Some(error), _) => Err(PullError::blocked(&format!(
            "the far side's Topic refuses an event: {} ({})",
            error.description, error.err_code
        ))),
        (None, None) => Err(PullError::failed("what answered at the far side is no Topic")),
    }
}

fn unanswered(kind: RequestErrorKind, subject: &str, stream: &str) -> PullError {
    let what = if subject.is_empty() { String::new() } else { format!(" whose subjects hold `{subject}`") };
    match kind {
        RequestErrorKind::NoResponders => PullError::blocked(&format!(
            "nobody at the far side takes copies of stream {stream}: the link is down, or there is no Topic with spec.mirror for it{what}"
        )),
        _ => PullError::blocked("the far side of the link does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn place(number: u64) -> Place {
        Place { stream: "plant_orders".to_owned(), created: "t".to_owned(), number }
    }

    fn headers(all: &[(&str, &str)]) -> Headers {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_was_said_to_brokers_stays_with_them() {
        let event = headers(&[
            ("ce-id", "1"),
            ("Nats-Msg-Id", "m"),
            ("Nats-Batch-Id", "b"),
            ("nats-expected-last-sequence", "7"),
            ("Nats-Rollup", "all"),
        ]);
        let expected = [("ce-id", "1"), (HEADER_PLACE, "plant_orders/t/4"), (HEADER_ID, "m"), (EXPECTED, "9")];
        assert_eq!(kept(event, &place(4), Some(9)), headers(&expected));
    }

    #[test]
    fn a_copy_of_a_copy_tells_its_own_place_and_the_first_id() {
        let event = headers(&[(HEADER_PLACE, "a_b/t/1"), (HEADER_ID, "first")]);
        let expected = [(HEADER_ID, "first"), (HEADER_PLACE, "plant_orders/t/4")];
        assert_eq!(kept(event, &place(4), None), headers(&expected));
    }

    fn answer(status: Option<u16>, headers: &[(&str, &str)]) -> Message {
        let headers = headers.iter().fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(*name, *value);
            all
        });
        Message {
            subject: "s".into(),
            reply: None,
            payload: bytes::Bytes::new(),
            headers: Some(headers),
            status: status.map(|code| StatusCode::from_u16(code).expect("a status")),
            description: None,
            length: 0,
        }
    }

    #[test]
    fn the_last_event_tells_where_the_copy_stands() {
        let last = read_last(&answer(None, &[("Nats-Sequence", "7"), (HEADER_PLACE, "plant_orders/t/12")]));
        assert_eq!(last.expect("an answer"), Some(Last { number: 7, place: Some(place(12)) }));
        let bare = read_last(&answer(None, &[("Nats-Sequence", "3")])).expect("an answer");
        assert_eq!(bare, Some(Last { number: 3, place: None }));
        assert_eq!(read_last(&answer(Some(404), &[])).expect("an answer"), None);
        assert!(read_last(&answer(Some(408), &[])).is_err() && read_last(&answer(None, &[])).is_err());
    }

    #[rstest]
    #[case(r#"{"stream":"s","seq":5}"#, "5")]
    #[case(
        r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"}}"#,
        "wrong last sequence: 3"
    )]
    #[case(
        r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#,
        "maximum bytes exceeded"
    )]
    #[case("{}", "no Topic")]
    fn an_answer_is_a_fate(#[case] answer: &str, #[case] expected: &str) {
        let found = read_stored(answer.as_bytes()).map_or_else(|error| error.message, |number| number.to_string());
        assert!(found.contains(expected), "{found}");
    }
}
