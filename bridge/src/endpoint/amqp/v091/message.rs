//! Messages of AMQP 0-9-1 to events of the mesh, and back.

use std::collections::BTreeMap;

use amq_protocol::protocol::BasicProperties;
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};

use crate::cloudevents::{AMQP, CONTENT_TYPE};
use crate::endpoint::amqp::properties::{
    APP_ID, CONTENT_ENCODING, CORRELATION_ID, MESSAGE_ID, PRIORITY, REPLY_TO, SUBJECT, TIMESTAMP, USER_ID, split,
};
use crate::event::Headers;

/// A short string has at most so many bytes.
const SHORT: usize = 255;
const PERSISTENT: u8 = 2;

/// What a message says beside its body, in the mesh's words.
pub fn headers(properties: &BasicProperties) -> Headers {
    let mut headers = Headers::new();
    let mut add = |name: &str, value: Option<String>| headers.extend(value.map(|value| (name.to_owned(), value)));
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    add(CONTENT_TYPE, text(properties.content_type()));
    add(CONTENT_ENCODING, text(properties.content_encoding()));
    add(CORRELATION_ID, text(properties.correlation_id()));
    add(MESSAGE_ID, text(properties.message_id()));
    add(REPLY_TO, text(properties.reply_to()));
    add(SUBJECT, text(properties.kind()));
    add(USER_ID, text(properties.user_id()));
    add(APP_ID, text(properties.app_id()));
    add(PRIORITY, properties.priority().as_ref().map(ToString::to_string));
    add(TIMESTAMP, properties.timestamp().as_ref().map(ToString::to_string));
    let table = properties.headers().iter().flat_map(FieldTable::inner);
    for (name, value) in table {
        headers.extend(value_text(value).map(|value| (name.to_string(), value)));
    }
    AMQP.to_mesh(headers)
}

/// The text of a value that is one; tables, lists and bytes have none.
fn value_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::Boolean(value) => Some(value.to_string()),
        AMQPValue::ShortShortInt(value) => Some(value.to_string()),
        AMQPValue::ShortShortUInt(value) => Some(value.to_string()),
        AMQPValue::ShortInt(value) => Some(value.to_string()),
        AMQPValue::ShortUInt(value) => Some(value.to_string()),
        AMQPValue::LongInt(value) => Some(value.to_string()),
        AMQPValue::LongUInt(value) => Some(value.to_string()),
        AMQPValue::LongLongInt(value) => Some(value.to_string()),
        AMQPValue::Timestamp(value) => Some(value.to_string()),
        AMQPValue::Float(value) => Some(value.to_string()),
        AMQPValue::Double(value) => Some(value.to_string()),
        AMQPValue::Void => Some(String::new()),
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::ByteArray(_) => {
            None
        }
    }
}

/// What a message says beside its body, from the mesh's words; `id` where these name none.
///
/// # Errors
/// What can not be said in AMQP 0-9-1.
pub fn properties(headers: &Headers, id: String, persistent: bool) -> Result<BasicProperties, String> {
    let (mut own, rest) = split(AMQP.from_mesh(headers));
    own.entry(MESSAGE_ID).or_insert(id);
    let mut properties = BasicProperties::default();
    if persistent {
        properties = properties.with_delivery_mode(PERSISTENT);
    }
    for (name, value) in own {
        if name == PRIORITY {
            if let Ok(priority) = value.parse() {
                properties = properties.with_priority(priority);
            }
            continue;
        }
        let value = short(name, &value)?;
        properties = match name {
            CONTENT_TYPE => properties.with_content_type(value),
            CONTENT_ENCODING => properties.with_content_encoding(value),
            CORRELATION_ID => properties.with_correlation_id(value),
            REPLY_TO => properties.with_reply_to(value),
            SUBJECT => properties.with_type(value),
            _ => properties.with_message_id(value),
        };
    }
    let mut table = BTreeMap::new();
    for (name, value) in rest {
        table.entry(short("name of a header", &name)?).or_insert_with(|| AMQPValue::LongString(value.into()));
    }
    Ok(properties.with_headers(table.into()))
}

fn short(what: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| format!("the {what} has more than the {SHORT} bytes that AMQP 0-9-1 allows"))
}

#[cfg(test)]
mod tests {
    use eventmesh_wire::names::PROPERTY_BRIDGE;

    use super::*;

    fn sample() -> Headers {
        [
            ("ce-id", "1"),
            ("ce-source", "/a"),
            ("content-type", "application/json"),
            ("correlation-id", "c"),
            ("amqp-subject", "opened"),
            ("amqp-priority", "3"),
            ("amqp-user-id", "somebody else"),
            ("x", "ä"),
            (PROPERTY_BRIDGE, "uid"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    #[test]
    fn headers_survive_the_way_out_and_in() {
        let properties = properties(&sample(), "S:7".to_owned(), true).unwrap();
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(properties.user_id(), &None);
        assert!(properties.headers().as_ref().unwrap().contains_key("cloudEvents:id"));
        let mut expected = sample();
        expected.retain(|(name, _)| name != USER_ID);
        expected.push((MESSAGE_ID.to_owned(), "S:7".to_owned()));
        let (mut found, mut expected) = (headers(&properties), expected);
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let long = vec![("correlation-id".to_owned(), "x".repeat(SHORT + 1))];
        assert!(properties(&long, "1".to_owned(), true).unwrap_err().contains("correlation-id"));
    }

    #[test]
    fn values_that_are_text_or_numbers_cross() {
        let mut table = FieldTable::default();
        table.insert("n".into(), AMQPValue::LongLongInt(-7));
        table.insert("b".into(), AMQPValue::Boolean(true));
        table.insert("list".into(), AMQPValue::FieldArray(vec![AMQPValue::Void].into()));
        let found = headers(&BasicProperties::default().with_headers(table));
        assert_eq!(found, [("b", "true"), ("n", "-7")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
