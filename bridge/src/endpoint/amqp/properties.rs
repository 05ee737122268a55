//! The properties that a message of either version of AMQP has beside its headers, and what they are called in the mesh.

use std::collections::BTreeMap;

use crate::cloudevents::CONTENT_TYPE;
use crate::event::Headers;

pub const CONTENT_ENCODING: &str = "content-encoding";
pub const CORRELATION_ID: &str = "correlation-id";
pub const MESSAGE_ID: &str = "message-id";
pub const REPLY_TO: &str = "reply-to";
/// AMQP 1.0: `subject`; 0-9-1: `type`.
pub const SUBJECT: &str = "amqp-subject";
pub const PRIORITY: &str = "amqp-priority";
/// In seconds since 1970 (0-9-1), or in milliseconds (1.0, `creation-time`). Not sent: a broker sets its own.
pub const TIMESTAMP: &str = "amqp-timestamp";
pub const USER_ID: &str = "amqp-user-id";
pub const APP_ID: &str = "amqp-app-id";

/// Those that have a place of their own in a message that is sent.
const SENT: [&str; 7] = [CONTENT_TYPE, CONTENT_ENCODING, CORRELATION_ID, MESSAGE_ID, REPLY_TO, SUBJECT, PRIORITY];
/// Those that only the sender of the message in hand can say. A broker refuses another's user id.
const NOT_SENT: [&str; 3] = [TIMESTAMP, USER_ID, APP_ID];

/// Properties and other headers, of an event on its way out. The first of equal names counts.
pub fn split(headers: Headers) -> (BTreeMap<&'static str, String>, Headers) {
    let mut properties = BTreeMap::new();
    let mut rest = Headers::with_capacity(headers.len());
    for (name, value) in headers {
        if NOT_SENT.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            continue;
        }
        match SENT.iter().find(|own| name.eq_ignore_ascii_case(own)) {
            Some(own) => drop(properties.entry(*own).or_insert(value)),
            None => rest.push((name, value)),
        }
    }
    (properties, rest)
}

/// What identifies an event that the mesh sends, where its headers do not: its place in its stream, which no other event has.
pub fn message_id(stream: &str, sequence: u64) -> String {
    format!("{stream}:{sequence}")
}
