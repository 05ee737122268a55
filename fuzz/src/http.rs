//! What comes by HTTP: any request is read or refused, what is read can be sent on and reads the same again, and no signature
//! is believed that was not made with a secret.

use arbitrary::{Result, Unstructured};
use eventmesh_bridge::endpoint::http::{
    events::{self, Event},
    outgoing::{Origin, Outgoing},
    path, retry_after,
    signature::{self, Refusal},
};
use eventmesh_wire::config::http::{HttpMode, HttpUrl};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::input::text;

const NAMES: [&str; 12] = [
    "content-type",
    "content-encoding",
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-subject",
    "ce-data",
    "ce-a-b",
    "webhook-id",
    "em-bridge",
    "x-key",
];

const PIECES: [&str; 30] = [
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/cloudevents",
    "application/json",
    "text/plain",
    "; charset=utf-8",
    "1.0",
    "%20",
    "%0A",
    "%2F",
    "%2e",
    "%",
    "\"",
    "\\",
    "/",
    "..",
    "https://",
    "http://",
    ":",
    "@",
    "[::1]",
    "8080",
    "v1,",
    "sha256=",
    "00",
    " ",
    ",",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "120",
    "a",
];

pub fn run(data: &[u8]) {
    check_structured(data);
    let _ = structured(&mut Unstructured::new(data));
}

fn structured(input: &mut Unstructured<'_>) -> Result<()> {
    let mut headers = HeaderMap::new();
    for _ in 0..input.int_in_range(0..=8)? {
        let name = HeaderName::from_static(input.choose(&NAMES)?);
        if let Ok(value) = HeaderValue::from_bytes(text(input, &PIECES, 4)?.as_bytes()) {
            headers.append(name, value);
        }
    }
    let (word, other) = (text(input, &PIECES, 8)?, text(input, &PIECES, 8)?);
    check_words(&word, &other);
    check_request(&headers, input.bytes(input.len())?);
    Ok(())
}

fn check_structured(body: &[u8]) {
    for kind in ["application/cloudevents+json", "application/cloudevents-batch+json"] {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(kind));
        check_request(&headers, body);
    }
}

fn check_request(headers: &HeaderMap, body: &[u8]) {
    let Ok(found) = events::parse(headers, body.to_vec().into()) else { return };
    for event in found {
        for (name, value) in &event.headers {
            assert!(!value.contains(['\r', '\n', '\0']), "{name}: {value:?} would be another header");
        }
        for mode in [HttpMode::Binary, HttpMode::Structured] {
            check_sent_on(&event, mode);
        }
    }
}

fn check_sent_on(event: &Event, mode: HttpMode) {
    let origin = Origin { source: "/n/b", subject: "s", stream: "st", sequence: 1 };
    let out = Outgoing::new(&event.headers, &event.payload, &origin, mode);
    let is_event = event.headers.iter().any(|(name, _)| name == "ce-specversion");
    let Ok(again) = events::parse(&out.headers, out.body) else {
        // A webhook may say of itself that it is of another version, or of a format, that nobody can read.
        assert!(!is_event, "an event is refused when it comes again");
        return;
    };
    assert_eq!(again.len(), 1, "one event became another number of them");
    // White space around a JSON document is not part of it.
    assert_eq!(again[0].payload.trim_ascii(), event.payload.trim_ascii(), "{mode:?}");
}

fn check_words(word: &str, other: &str) {
    if let Some(address) = path::address(word) {
        assert!(address.starts_with('/') && !address.contains(char::is_control));
    }
    assert!(path::path(word).bytes().all(|byte| byte.is_ascii_graphic()));
    if let Ok(url) = HttpUrl::parse(word) {
        assert_eq!(HttpUrl::parse(&format!("{}{}", url.origin(), url.path)), Ok(url));
    }
    let _ = retry_after::parse(word, std::time::UNIX_EPOCH);
    let keys = signature::plain_keys(&["a secret".into()]);
    assert!(signature::verify_github(&keys, Some(word), other.as_bytes()).is_err());
    let headers = (Some("id"), Some("0"), Some(word));
    assert_eq!(signature::verify_webhook(&keys, headers, other.as_bytes(), 0), Err(Refusal::Wrong));
}
