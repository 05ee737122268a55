//! What a request holds: CloudEvents in the three modes of the HTTP binding, or a webhook that knows nothing of them.

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::problem::Problem;
use crate::cloudevents;
use crate::event::{Headers, header};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
/// What every media type of CloudEvents begins with.
const FAMILY: &str = "application/cloudevents";

/// Headers that speak of one connection or one request, or prove who sent it; they say nothing of the event.
const OF_THE_REQUEST: [&str; 22] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "webhook-signature",
    "x-hub-signature",
    "x-hub-signature-256",
];

/// An event, with headers as the mesh has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub headers: Headers,
    pub payload: Bytes,
    /// What identifies it where it is no CloudEvent: the `webhook-id` of its sender.
    pub identity: Option<String>,
}

impl Event {
    /// Bytes of headers and data.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len() + self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
    }
}

/// The events of a request, at least one but for an empty batch.
///
/// # Errors
/// What to answer.
pub fn parse(headers: &HeaderMap, body: Bytes) -> Result<Vec<Event>, Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let identity = headers.get("webhook-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    if !media_type.starts_with(FAMILY) {
        let headers = of_event(headers)?;
        if header(&headers, "ce-specversion").is_some() {
            check_attributes(&headers).map_err(Problem::bad_request)?;
        }
        return Ok(vec![Event { headers, payload: body, identity }]);
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Problem::unsupported("CloudEvents with a content encoding can not be read; send them plain"));
    }
    let own = || -> Result<Headers, Problem> {
        let mut own = of_event(headers)?;
        own.retain(|(name, _)| name != CONTENT_TYPE.as_str() && !name.starts_with("ce-"));
        Ok(own)
    };
    match media_type.as_str() {
        STRUCTURED => {
            let (attributes, payload) = cloudevents::read_structured(&body).map_err(Problem::bad_request)?;
            Ok(vec![Event { headers: [own()?, attributes].concat(), payload, identity }])
        }
        BATCH => {
            let batch = cloudevents::read_batch(&body).map_err(Problem::bad_request)?;
            let own = own()?;
            let event =
                |(attributes, payload)| Event { headers: [own.clone(), attributes].concat(), payload, identity: None };
            Ok(batch.into_iter().map(event).collect())
        }
        _ => {
            let detail = format!("`{media_type}` can not be read; send {STRUCTURED}, {BATCH}, or binary mode");
            Err(Problem::unsupported(detail))
        }
    }
}

/// The headers that belong to the event, attributes decoded.
fn of_event(headers: &HeaderMap) -> Result<Headers, Problem> {
    let mut found = Headers::with_capacity(headers.len());
    for (name, value) in headers {
        let name = name.as_str();
        if OF_THE_REQUEST.contains(&name) || name.starts_with("x-forwarded-") {
            continue;
        }
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else { continue };
        let value = if name.starts_with("ce-") { attribute(value) } else { Some(value.to_owned()) };
        match value.filter(|value| !value.contains(['\r', '\n', '\0'])) {
            Some(value) => found.push((name.to_owned(), value)),
            None => return Err(Problem::bad_request(format!("the header `{name}` can not be decoded"))),
        }
    }
    Ok(found)
}

/// HTTP binding, section 3.1.3.2: values are percent-encoded, and may be quoted.
fn attribute(value: &str) -> Option<String> {
    let value = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => value.to_owned(),
    };
    if !value.contains('%') {
        return Some(value);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(decoded) = (byte == b'%').then(|| super::path::hex_pair(after)).flatten() {
            bytes.push(decoded);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// What an event in binary mode must have.
fn check_attributes(headers: &Headers) -> Result<(), String> {
    let version = header(headers, "ce-specversion").unwrap_or_default();
    if version != "1.0" {
        return Err(format!("ce-specversion is `{version}`, and 1.0 is what can be read"));
    }
    for required in ["ce-id", "ce-source", "ce-type"] {
        if header(headers, required).is_none_or(str::is_empty) {
            return Err(format!("the header `{required}` is missing"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
    const BINARY: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("content-type", "text/plain"),
    ];

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn parsed(pairs: &[(&str, &str)], body: &str) -> Result<Vec<Event>, u16> {
        parse(&map(pairs), body.to_owned().into()).map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn the_three_modes_yield_the_same_event() {
        let binary = parsed(&[&BINARY[..4], &[("content-type", "application/json")]].concat(), r#"{"a":1}"#).unwrap();
        let structured = parsed(&[("content-type", "application/cloudevents+json; charset=utf-8")], EVENT).unwrap();
        let batch = format!("[{EVENT},{EVENT}]");
        let batch = parsed(&[("content-type", "application/CloudEvents-batch+json")], &batch).unwrap();
        assert_eq!((binary.len(), structured.len(), batch.len()), (1, 1, 2));
        for event in [&structured[0], &batch[0], &batch[1]] {
            assert_eq!(event.payload, binary[0].payload);
            for (name, value) in &binary[0].headers {
                assert_eq!(header(&event.headers, name), Some(value.as_str()), "{name}");
            }
        }
    }

    #[test]
    fn a_webhook_is_taken_as_it_is_without_what_belongs_to_the_request() {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", "Bearer secret"),
            ("cookie", "secret"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-github-event", "push"),
            ("webhook-id", "msg_1"),
        ];
        let [event] = <[Event; 1]>::try_from(parsed(&headers, "a=b").unwrap()).unwrap();
        assert_eq!((event.payload.as_ref(), event.identity.as_deref()), (&b"a=b"[..], Some("msg_1")));
        let names: Vec<&str> = event.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "x-github-event", "webhook-id"]);
    }

    #[rstest]
    #[case("application/cloudevents+avro", EVENT, 415)]
    #[case("application/cloudevents", EVENT, 415)]
    #[case("application/cloudevents-batch+protobuf", EVENT, 415)]
    #[case("application/cloudevents+json", "no json", 400)]
    #[case("application/cloudevents+json", "[]", 400)]
    #[case("application/cloudevents-batch+json", EVENT, 400)]
    #[case("application/cloudevents-batch+json", r#"[{"id":"1"}]"#, 400)]
    fn refuses(#[case] content_type: &str, #[case] body: &str, #[case] status: u16) {
        assert_eq!(parsed(&[("content-type", content_type)], body), Err(status));
        assert_eq!(parsed(&[("content-type", content_type), ("content-encoding", "gzip")], body), Err(415));
    }

    #[rstest]
    #[case(("ce-specversion", "0.3"))]
    #[case(("ce-id", ""))]
    #[case(("ce-source", ""))]
    #[case(("ce-subject", "a%0Ab"))]
    #[case(("ce-subject", "%FF"))]
    fn refuses_binary_events(#[case] (name, value): (&str, &str)) {
        let mut headers: Vec<(&str, &str)> = BINARY.into_iter().filter(|(known, _)| *known != name).collect();
        headers.push((name, value));
        assert_eq!(parsed(&headers, "x"), Err(400));
    }

    #[rstest]
    #[case("plain", "plain")]
    #[case("Euro%20%E2%82%AC", "Euro €")]
    #[case("\"a \\\" b\"", "a \" b")]
    #[case("100%", "100%")]
    fn attributes_are_decoded(#[case] value: &str, #[case] expected: &str) {
        assert_eq!(attribute(value).as_deref(), Some(expected));
    }

    #[test]
    fn an_empty_batch_is_nothing() {
        assert_eq!(parsed(&[("content-type", "application/cloudevents-batch+json")], "[]"), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn any_request_is_read_or_refused(
            mode in 0_usize..4, subject in "[ -~]{0,20}", body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let kinds = ["application/cloudevents+json", BATCH, "text/plain", "application/cloudevents+x"];
            let mut headers = map(&BINARY[..4]);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kinds[mode]));
            headers.insert("ce-subject", HeaderValue::from_str(&subject).unwrap());
            if let Ok(events) = parse(&headers, body.into()) {
                for event in events {
                    prop_assert!(event.headers.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])));
                }
            }
        }
    }
}
