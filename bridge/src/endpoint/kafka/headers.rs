//! What a Kafka record says beside its value, as headers of the mesh, and back.
//!
//! Kafka's header values and keys are bytes; the mesh's headers are text. What is no text crosses as base64 under a name that
//! says so, and becomes bytes again on the way out.

use bytes::Bytes;
use data_encoding::BASE64;
use krafka::{ConsumerRecord, Record};

use crate::cloudevents;
use crate::event::{Headers, header};

pub const KEY: &str = "kafka-key";
pub const KEY_BASE64: &str = "kafka-key-base64";
/// Before the name of a header whose value is no text.
pub const BASE64_HEADER: &str = "kafka-base64-";
/// Milliseconds since 1970.
pub const TIMESTAMP: &str = "kafka-timestamp";
/// `true`: the record has no value at all, which tells a compacted topic to forget its key.
pub const TOMBSTONE: &str = "kafka-tombstone";
pub const PARTITION: &str = "kafka-partition";
pub const OFFSET: &str = "kafka-offset";

/// The headers of a record, as the mesh has them.
pub fn to_mesh(record: &ConsumerRecord) -> Headers {
    let mut headers = Headers::with_capacity(record.headers.len() + 5);
    for (name, value) in &record.headers {
        headers.push(text_or_base64(name, BASE64_HEADER, value.as_deref().unwrap_or_default()));
    }
    let mut headers = cloudevents::KAFKA.to_mesh(headers);
    if let Some(key) = &record.key {
        headers.push(match text(key) {
            Some(key) => (KEY.to_owned(), key.to_owned()),
            None => (KEY_BASE64.to_owned(), BASE64.encode(key)),
        });
    }
    if record.value.is_none() {
        headers.push((TOMBSTONE.to_owned(), "true".to_owned()));
    }
    headers.push((TIMESTAMP.to_owned(), record.timestamp.to_string()));
    headers.push((PARTITION.to_owned(), record.partition.to_string()));
    headers.push((OFFSET.to_owned(), record.offset.to_string()));
    headers
}

fn text_or_base64(name: &str, prefix: &str, value: &[u8]) -> (String, String) {
    match text(value) {
        Some(text) => (name.to_owned(), text.to_owned()),
        None => (format!("{prefix}{name}"), BASE64.encode(value)),
    }
}

/// Bytes as the value of a header in the mesh, where they can be one as they are.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(['\r', '\n', '\0']) && text.trim() == *text)
}

/// A record for an event of the mesh. `key`: what the route makes of it, where it says so.
pub fn to_record(topic: &str, mesh: &Headers, payload: Bytes, key: Option<Vec<u8>>) -> Record {
    let empty_and_marked = payload.is_empty() && header(mesh, TOMBSTONE).is_some_and(|mark| mark == "true");
    let mut record = Record::new(topic, payload);
    if empty_and_marked {
        record = record.without_value();
    }
    if let Some(key) = key.or_else(|| source_key(mesh)) {
        record = record.key(key);
    }
    if let Some(time) = header(mesh, TIMESTAMP).and_then(|time| time.parse().ok()).filter(|time| *time >= 0) {
        record = record.timestamp(time);
    }
    for (name, value) in cloudevents::KAFKA.from_mesh(mesh) {
        if is_own(&name) {
            continue;
        }
        let bytes = strip_prefix(&name, BASE64_HEADER)
            .and_then(|name| Some((name.to_owned(), BASE64.decode(value.as_bytes()).ok()?)));
        record = match bytes {
            Some((name, bytes)) => record.header(name, bytes),
            None => record.header(name, value.into_bytes()),
        };
    }
    record
}

/// The key that an event had in the Kafka it comes from, or that `CloudEvents` gives it.
fn source_key(mesh: &Headers) -> Option<Vec<u8>> {
    if let Some(encoded) = header(mesh, KEY_BASE64)
        && let Ok(key) = BASE64.decode(encoded.as_bytes())
    {
        return Some(key);
    }
    header(mesh, KEY).or_else(|| header(mesh, "ce-partitionkey")).map(|key| key.as_bytes().to_vec())
}

/// What is no header of a record, but a part of it.
fn is_own(name: &str) -> bool {
    [KEY, KEY_BASE64, TIMESTAMP, TOMBSTONE, PARTITION, OFFSET].iter().any(|own| own.eq_ignore_ascii_case(name))
}

fn strip_prefix<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    (start.eq_ignore_ascii_case(prefix) && !rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crossed(mut record: ConsumerRecord, headers: &[(&str, &[u8])]) -> (Headers, Record) {
        record.headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), Some(Bytes::copy_from_slice(value)))).collect();
        record.timestamp = 1_700_000_000_000;
        let mesh = to_mesh(&record);
        let out = to_record("t", &mesh, record.value.unwrap_or_default(), None);
        (mesh, out)
    }

    #[test]
    fn a_record_comes_out_as_it_went_in() {
        let record = ConsumerRecord::new("t", 3, 7, Some(Bytes::from_static(b"k\xff")), Some(Bytes::from_static(b"v")));
        let (mesh, out) = crossed(record, &[("plain", b"text"), ("binary", b"\x00\xff"), ("ce_type", b"a.b")]);
        assert_eq!(header(&mesh, "kafka-key-base64"), Some("a/8="));
        assert_eq!(header(&mesh, "kafka-base64-binary"), Some("AP8="));
        assert_eq!(header(&mesh, "ce-type"), Some("a.b"));
        assert_eq!(header(&mesh, "kafka-offset"), Some("7"));
        assert_eq!(out.key.as_deref(), Some(b"k\xff".as_slice()));
        assert_eq!(out.timestamp, Some(1_700_000_000_000));
        let headers: Vec<_> =
            out.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref().unwrap_or_default())).collect();
        assert_eq!(headers, [("plain", b"text".as_slice()), ("binary", b"\x00\xff"), ("ce_type", b"a.b")]);
    }

    #[test]
    fn a_tombstone_is_no_empty_value() {
        let key = || Some(Bytes::from_static(b"k"));
        let (mesh, out) = crossed(ConsumerRecord::new("t", 0, 0, key(), None), &[]);
        assert_eq!(header(&mesh, TOMBSTONE), Some("true"));
        assert_eq!(out.value, None);
        let (mesh, out) = crossed(ConsumerRecord::new("t", 0, 0, key(), Some(Bytes::new())), &[]);
        assert_eq!(header(&mesh, TOMBSTONE), None);
        assert_eq!(out.value, Some(Bytes::new()));
    }

    #[test]
    fn the_key_of_the_route_goes_first_and_that_of_cloudevents_last() {
        let mesh: Headers = vec![("ce-partitionkey".to_owned(), "p".to_owned())];
        let key = |mesh: &Headers, key| to_record("t", mesh, Bytes::new(), key).key;
        assert_eq!(key(&mesh, None).as_deref(), Some(b"p".as_slice()));
        assert_eq!(key(&mesh, Some(b"r".to_vec())).as_deref(), Some(b"r".as_slice()));
        assert_eq!(key(&Headers::new(), None), None);
    }
}
