//! A dead letter: the event as it was, with why it is here; in parts when it is larger than a message. Pure.
//!
//! The headers are those that bridges give to their dead letters, so that one program can read both.

use async_nats::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;

use super::advisory::GivenUp;
use crate::broker::given_up::StoredEvent;

/// Room for the headers that explain a dead letter.
const HEADER_ROOM: usize = 4 * 1024;
/// Longest text of one such header.
const LONGEST: usize = 1024;

const NUMBER: &str = "Em-Dead-Number";
const TIME: &str = "Em-Dead-Time";
const PART: &str = "Em-Part";

/// What is to be stored for one event.
#[must_use]
pub fn letters(
    given_up: &GivenUp,
    event: &StoredEvent,
    number: u64,
    now: &str,
    max_payload: usize,
) -> Vec<(HeaderMap, Bytes)> {
    let own: usize = event.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let fit = own <= max_payload / 2;
    let mut headers = if fit { original(event) } else { HeaderMap::new() };
    let (namespace, name) = &given_up.subscription;
    headers.insert("Em-Dead-Cause", text(&given_up.to_string()));
    headers.insert("Em-Dead-Subscription", text(&format!("{namespace}/{name}")));
    headers.insert("Em-Dead-Tries", text(&given_up.tries.to_string()));
    headers.insert(TIME, text(now));
    headers.insert("Em-Dead-Origin", text(&event.subject));
    headers.insert("Em-Dead-Stream", text(&given_up.stream));
    headers.insert("Em-Dead-Sequence", text(&given_up.sequence.to_string()));
    headers.insert("Em-Dead-Stored", text(&event.time));
    headers.insert(NUMBER, text(&number.to_string()));
    if !fit {
        headers.insert("Em-Dead-Headers", text(&format!("left out: {own} bytes")));
    }
    let most = max_payload.saturating_sub(HEADER_ROOM + if fit { own } else { 0 }).max(1024);
    let parts = event.payload.len().div_ceil(most).max(1);
    let part = |index: usize| {
        let mut headers = headers.clone();
        if parts > 1 {
            headers.insert(PART, text(&format!("{}/{parts}", index + 1)));
        }
        headers.insert(header::NATS_MESSAGE_ID, text(&format!("{}{}.{index}", event_id(given_up), event.time)));
        let end = event.payload.len().min((index + 1) * most);
        (headers, event.payload.slice(index * most..end))
    };
    (0..parts).map(part).collect()
}

/// The event's own headers. Those of the broker speak to the stream that the event was meant for: here its
/// de-duplication id would swallow parts, and an expected sequence would be refused.
fn original(event: &StoredEvent) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &event.headers {
        let broker = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
        if let (false, Ok(name), Ok(value)) = (broker, name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    headers
}

/// How the de-duplication ids of an event's letters begin. What follows tells apart events of two streams that have had
/// the same name.
fn event_id(given_up: &GivenUp) -> String {
    format!("dead.{}.{}.{}.", given_up.stream, given_up.consumer, given_up.sequence)
}

/// A letter that has been found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub number: u64,
    pub time: String,
    /// How many parts of the event are stored with it, and of how many.
    pub parts: (usize, usize),
    /// Whether it is of this event.
    pub same_event: bool,
}

/// Reads a stored event as a dead letter of the same Subscription.
#[must_use]
pub fn read(stored: &StoredEvent, given_up: &GivenUp) -> Option<Found> {
    let (namespace, name) = &given_up.subscription;
    if stored.header("Em-Dead-Subscription") != Some(&format!("{namespace}/{name}")) {
        return None;
    }
    let parts = stored.header(PART).and_then(|part| {
        let (part, of) = part.split_once('/')?;
        Some((part.parse().ok()?, of.parse().ok()?))
    });
    Some(Found {
        number: stored.header(NUMBER)?.parse().ok()?,
        time: stored.header(TIME)?.to_owned(),
        parts: parts.unwrap_or((1, 1)),
        same_event: stored.header("Nats-Msg-Id").is_some_and(|id| id.starts_with(&event_id(given_up))),
    })
}

/// A text as a header can carry it.
fn text(text: &str) -> HeaderValue {
    let mut clean = String::new();
    for character in text.chars().map(|character| if character.is_control() { ' ' } else { character }) {
        if clean.len() + character.len_utf8() > LONGEST {
            break;
        }
        clean.push(character);
    }
    HeaderValue::from(clean)
}

#[cfg(test)]
mod tests {
    use super::{super::advisory::Cause, *};

    const NOW: &str = "2026-11-24T08:00:00Z";

    fn given_up() -> GivenUp {
        GivenUp {
            stream: "shop_accounts".into(),
            consumer: "sub_shop_ledger".into(),
            sequence: 7,
            tries: 3,
            cause: Cause::Terminated("too\r\nlarge".into()),
            subscription: ("shop".into(), "ledger".into()),
        }
    }

    fn event(length: usize) -> StoredEvent {
        StoredEvent {
            subject: "accounts.opened".into(),
            sequence: 7,
            time: "2026-11-24T07:59:00.123Z".into(),
            headers: [("ce-id", "1"), ("ce-id", "2"), ("NATS-Msg-Id", "theirs"), ("traceparent", "00-1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            payload: (0..length).map(|n| u8::try_from(n % 251).expect("a byte")).collect::<Vec<u8>>().into(),
        }
    }

    /// A letter as the broker would give it back.
    fn stored((headers, payload): &(HeaderMap, Bytes)) -> StoredEvent {
        let pairs = headers.iter().flat_map(|(name, all)| all.iter().map(move |value| (name, value)));
        StoredEvent {
            subject: "dead".into(),
            sequence: 1,
            time: NOW.into(),
            headers: pairs.map(|(name, value)| (name.to_string(), value.as_str().to_owned())).collect(),
            payload: payload.clone(),
        }
    }

    #[test]
    fn a_letter_is_the_event_and_why_it_is_here() {
        let made = letters(&given_up(), &event(10), 4, NOW, 1 << 20);
        let [(headers, payload)] = &made[..] else { panic!("one letter") };
        assert_eq!(*payload, event(10).payload);
        let ids: Vec<&str> = headers.get_all("ce-id").map(HeaderValue::as_str).collect();
        assert_eq!(ids, ["1", "2"]);
        insta::assert_debug_snapshot!({
            let mut all = stored(&made[0]).headers;
            all.sort();
            all
        });
    }

    #[test]
    fn a_large_event_is_kept_whole_in_parts() {
        let made = letters(&given_up(), &event(40_000), 4, NOW, 24 * 1024);
        let joined: Vec<u8> = made.iter().flat_map(|(_, part)| part.to_vec()).collect();
        assert_eq!(joined, event(40_000).payload);
        let size = |(headers, payload): &(HeaderMap, Bytes)| {
            let own: usize = headers
                .iter()
                .map(|(k, all)| all.iter().map(|v| k.to_string().len() + v.as_str().len() + 4).sum::<usize>())
                .sum();
            own + payload.len()
        };
        assert!(made.len() == 2 && made.iter().all(|letter| size(letter) < 24 * 1024));
        let (first, second) = (stored(&made[0]), stored(&made[1]));
        assert_eq!((first.header(PART), second.header(PART)), (Some("1/2"), Some("2/2")));
        assert_ne!(
            first.header("Nats-Msg-Id"),
            second.header("Nats-Msg-Id"),
            "else the second would count as the first"
        );
    }

    #[test]
    fn headers_that_leave_no_room_are_left_out_and_it_says_so() {
        let mut event = event(10);
        event.headers.push(("long".into(), "x".repeat(3000)));
        let made = letters(&given_up(), &event, 1, NOW, 4096);
        let letter = stored(&made[0]);
        assert_eq!((letter.header("long"), letter.header("Em-Dead-Headers")), (None, Some("left out: 3068 bytes")));
    }

    #[test]
    fn a_stored_letter_is_known_again() {
        let letter = stored(&letters(&given_up(), &event(10), 4, NOW, 1 << 20)[0]);
        let found = Found { number: 4, time: NOW.into(), parts: (1, 1), same_event: true };
        assert_eq!(read(&letter, &given_up()), Some(found.clone()));
        let next = GivenUp { sequence: 70, ..given_up() };
        assert_eq!(read(&letter, &next), Some(Found { same_event: false, ..found }), "7 is not 70");
        let other = GivenUp { subscription: ("shop".into(), "audit".into()), ..given_up() };
        assert_eq!(read(&letter, &other), None);
        let part = stored(&letters(&given_up(), &event(40_000), 4, NOW, 24 * 1024)[0]);
        assert_eq!(read(&part, &given_up()).map(|found| found.parts), Some((1, 2)));
    }
}
