//! An event as the head and body of a request: CloudEvents in binary or structured mode of the HTTP binding.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use eventmesh_wire::config::http::HttpMode;
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, Entry, HeaderName, HeaderValue};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::cloudevents;
use crate::event::{Delivery, Headers, header};

/// Where an event comes from that does not say so itself.
pub struct Origin<'a> {
    /// `/<namespace>/<bridge>`.
    pub source: &'a str,
    pub subject: &'a str,
    pub stream: &'a str,
    pub sequence: u64,
}

/// A request without what the target's configuration adds.
#[derive(Debug)]
pub struct Outgoing {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The event's id, as a header can hold it.
    pub id: String,
}

/// Headers that are the connection's, or prove who sends: the event has no say in them.
const NOT_THE_EVENTS: [&str; 15] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

impl Outgoing {
    #[must_use]
    pub fn of(delivery: &Delivery, source: &str, mode: HttpMode) -> Self {
        let stream = delivery.route.as_ref().map_or("", |route| route.stream.as_str());
        let origin = Origin { source, subject: &delivery.origin, stream, sequence: delivery.sequence };
        Self::new(&delivery.headers, &delivery.payload, &origin, mode)
    }

    #[must_use]
    pub fn new(event: &Headers, payload: &Bytes, origin: &Origin<'_>, mode: HttpMode) -> Self {
        // The JSON format can not say that its data is compressed.
        let mode = if header(event, "content-encoding").is_some() { HttpMode::Binary } else { mode };
        let headers = binary(event.iter().map(|(name, value)| (name.as_str(), value.as_str())), origin);
        let id = headers.get(ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        match mode {
            HttpMode::Binary => Self { headers, body: payload.clone(), id },
            HttpMode::Structured => {
                let attributes = attributes(event, origin);
                let body = structured(attributes, header(event, cloudevents::CONTENT_TYPE), payload);
                Self { headers: without_event(&headers), body: body.into(), id }
            }
        }
    }
}

const SPEC_VERSION: HeaderName = HeaderName::from_static("ce-specversion");
const ID: HeaderName = HeaderName::from_static("ce-id");
const SOURCE: HeaderName = HeaderName::from_static("ce-source");
const TYPE: HeaderName = HeaderName::from_static("ce-type");
const SUBJECT: HeaderName = HeaderName::from_static("ce-subject");

/// The head of an event in binary mode, the required attributes filled in where it has none.
pub fn binary<'e>(event: impl Iterator<Item = (&'e str, &'e str)>, origin: &Origin<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(event.size_hint().0 + 12);
    for (name, value) in event {
        // What is no header in HTTP is left out.
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        let attribute = attribute_name(name.as_str()).is_some();
        let once = attribute || name == CONTENT_TYPE;
        if (once && headers.contains_key(&name))
            || (attribute && value.is_empty())
            || NOT_THE_EVENTS.contains(&name.as_str())
        {
            continue;
        }
        let value = if attribute { attribute_value(value) } else { HeaderValue::from_bytes(value.as_bytes()).ok() };
        if let Some(value) = value {
            headers.append(name, value);
        }
    }
    let is_event = headers.contains_key(SPEC_VERSION);
    headers.entry(SPEC_VERSION).or_insert(HeaderValue::from_static("1.0"));
    let mut fill = |name: HeaderName, value: &str| {
        if let (Entry::Vacant(place), Some(value)) = (headers.entry(name), attribute_value(value)) {
            place.insert(value);
        }
    };
    fill(SOURCE, origin.source);
    fill(TYPE, "dev.eventmesh.event");
    if !is_event {
        fill(SUBJECT, origin.subject);
    }
    if !headers.contains_key(ID)
        && let Some(id) = attribute_value(&format!("{}/{}", origin.stream, origin.sequence))
    {
        headers.insert(ID, id);
    }
    headers
}

/// What a request in structured mode keeps of the head: the event is in its body.
fn without_event(headers: &HeaderMap) -> HeaderMap {
    let mut rest = HeaderMap::with_capacity(headers.len());
    rest.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json; charset=utf-8"));
    for (name, value) in headers {
        if attribute_name(name.as_str()).is_none() && name != CONTENT_TYPE {
            rest.append(name, value.clone());
        }
    }
    rest
}

/// The attribute that a header, in lowercase, carries.
fn attribute_name(header: &str) -> Option<&str> {
    let name = header.strip_prefix("ce-")?;
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    // These are members of the JSON format that are no attributes, or that have a header of their own.
    (named && !matches!(name, "data" | "datacontenttype")).then_some(name)
}

/// The event's attributes, the required ones filled in where it has none.
fn attributes(event: &Headers, origin: &Origin<'_>) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    for (name, value) in event {
        if let Some(name) = attribute_name(&name.to_ascii_lowercase()).filter(|_| !value.is_empty()) {
            attributes.entry(name.to_owned()).or_insert_with(|| value.clone());
        }
    }
    let is_event = attributes.contains_key("specversion");
    let mut fill = |name: &str, value: String| {
        attributes.entry(name.to_owned()).or_insert(value);
    };
    fill("specversion", "1.0".to_owned());
    fill("id", format!("{}/{}", origin.stream, origin.sequence));
    fill("source", origin.source.to_owned());
    fill("type", "dev.eventmesh.event".to_owned());
    if !is_event {
        fill("subject", origin.subject.to_owned());
    }
    attributes
}

/// The JSON event format.
fn structured(attributes: BTreeMap<String, String>, content_type: Option<&str>, payload: &Bytes) -> String {
    let mut event: Map<String, Value> =
        attributes.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    if let Some(content_type) = content_type {
        event.insert("datacontenttype".to_owned(), content_type.into());
    }
    let media_type = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
    let is_json = media_type.ends_with("/json") || media_type.ends_with("+json");
    let json = is_json.then(|| serde_json::from_slice::<&RawValue>(payload).ok()).flatten();
    let text = media_type.starts_with("text/").then(|| std::str::from_utf8(payload).ok()).flatten();
    match (json, text) {
        _ if payload.is_empty() => {}
        // As it was written: a number keeps its digits.
        (Some(json), _) => {
            let mut document = Value::Object(event).to_string();
            document.pop();
            return format!("{document},\"data\":{json}}}");
        }
        (None, Some(text)) => drop(event.insert("data".to_owned(), text.into())),
        (None, None) => drop(event.insert("data_base64".to_owned(), BASE64.encode(payload).into())),
    }
    Value::Object(event).to_string()
}

fn stays(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%')
}

/// HTTP binding, section 3.1.3.2: what a header can not hold is percent-encoded.
fn attribute_value(value: &str) -> Option<HeaderValue> {
    if value.bytes().all(stays) {
        return HeaderValue::from_str(value).ok();
    }
    HeaderValue::try_from(encoded(value)).ok()
}

/// The text of it.
pub fn encoded(value: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if stays(byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::events;
    use super::*;

    const ORIGIN: Origin<'_> =
        Origin { source: "/shop/hooks", subject: "orders.7", stream: "shop_orders", sequence: 12 };

    fn event(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn sent(pairs: &[(&str, &str)], payload: &str, mode: HttpMode) -> Outgoing {
        Outgoing::new(&event(pairs), &payload.to_owned().into(), &ORIGIN, mode)
    }

    #[test]
    fn what_is_no_cloud_event_becomes_one() {
        let out = sent(&[("content-type", "text/plain"), ("X-Shop", "7")], "hello", HttpMode::Binary);
        let of = |name: &str| out.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((of("ce-specversion"), of("ce-id")), (Some("1.0"), Some("shop_orders/12")));
        assert_eq!((of("ce-source"), of("ce-type")), (Some("/shop/hooks"), Some("dev.eventmesh.event")));
        assert_eq!((of("ce-subject"), of("x-shop")), (Some("orders.7"), Some("7")));
        assert_eq!(
            (of("content-type"), out.body.as_ref(), out.id.as_str()),
            (Some("text/plain"), &b"hello"[..], "shop_orders/12")
        );
    }

    #[test]
    fn the_attributes_of_an_event_are_its_own() {
        let pairs =
            [("ce-specversion", "1.0"), ("ce-id", "a"), ("ce-source", "s"), ("ce-type", "t"), ("Ce-Shop", "Zürich")];
        let out = sent(&pairs, "", HttpMode::Binary);
        assert_eq!(out.headers.get("ce-id").unwrap(), "a");
        assert_eq!(out.headers.get("ce-shop").unwrap(), "Z%C3%BCrich");
        assert_eq!(out.headers.get("ce-subject"), None);
    }

    #[test]
    fn an_event_has_no_say_in_the_connection() {
        let pairs =
            [("Authorization", "x"), ("Host", "x"), ("Transfer-Encoding", "x"), ("webhook-id", "x"), ("bad name", "x")];
        let out = sent(&pairs, "", HttpMode::Structured);
        let names: Vec<&str> = out.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type"]);
    }

    #[test]
    fn compressed_data_is_sent_as_it_is() {
        let out =
            sent(&[("content-type", "application/json"), ("content-encoding", "gzip")], "x", HttpMode::Structured);
        assert_eq!(
            (out.body.as_ref(), &out.headers["content-type"]),
            (&b"x"[..], &HeaderValue::from_static("application/json"))
        );
    }

    #[test]
    fn what_is_no_attribute_spoils_no_event() {
        let pairs = [("ce-data", "x"), ("ce-datacontenttype", "x"), ("ce-a-b", "x"), ("ce-id", "1"), ("Ce-Id", "2")];
        let out = sent(&pairs, "[1]", HttpMode::Structured);
        let event: Value = serde_json::from_slice(&out.body).unwrap();
        assert_eq!(
            (&event["data"], &event["id"], event.get("a-b")),
            (&serde_json::json!([1]), &Value::from("1"), None)
        );
        cloudevents::read_structured(&out.body).unwrap();
    }

    #[rstest]
    #[case(Some("application/json"), r#"{"n": 1.50}"#, r#""data":{"n": 1.50}"#)]
    #[case(None, "[1]", r#""data":[1]"#)]
    #[case(Some("application/json"), "no json", r#""data_base64":"bm8ganNvbg==""#)]
    #[case(Some("text/plain"), "a\"b", r#""data":"a\"b""#)]
    #[case(Some("image/png"), "x", r#""data_base64":"eA==""#)]
    fn structured_data(#[case] content_type: Option<&str>, #[case] payload: &str, #[case] expected: &str) {
        let headers: Vec<(&str, &str)> = content_type.map(|value| ("content-type", value)).into_iter().collect();
        let body = sent(&headers, payload, HttpMode::Structured).body;
        assert!(String::from_utf8_lossy(&body).contains(expected), "{body:?}");
    }

    /// As a member of a JSON object a value has no white space around it.
    fn expected<'p>(payload: &'p [u8], content_type: &str, mode: HttpMode) -> &'p [u8] {
        let is_member = mode == HttpMode::Structured && content_type == "application/json";
        if is_member && serde_json::from_slice::<Value>(payload).is_ok() { payload.trim_ascii() } else { payload }
    }

    proptest! {
        /// What one bridge sends another one reads as the same event.
        #[test]
        fn both_modes_survive_the_way(
            id in "[!-~]{1,20}", shop in "\\PC{1,20}", payload in proptest::collection::vec(any::<u8>(), 0..60), kind in 0_usize..3,
        ) {
            let kinds = ["text/plain", "application/json", "application/octet-stream"];
            let pairs = [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-source", "s"), ("ce-type", "t"), ("ce-shop", &shop), ("content-type", kinds[kind])];
            let headers = event(&pairs);
            for mode in [HttpMode::Binary, HttpMode::Structured] {
                let out = Outgoing::new(&headers, &payload.clone().into(), &ORIGIN, mode);
                let read = events::parse(&out.headers, out.body).unwrap();
                prop_assert_eq!(read[0].payload.as_ref(), expected(&payload, kinds[kind], mode));
                for (name, value) in &headers {
                    prop_assert_eq!(header(&read[0].headers, name), Some(value.as_str()), "{} {:?}", name, mode);
                }
            }
        }
    }
}
