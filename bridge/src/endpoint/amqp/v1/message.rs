//! Messages of AMQP 1.0 to events of the mesh, and back.

use bytes::Bytes;
use eventmesh_wire::config::Guarantee;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Body, Data, Header, Message, MessageId, Priority, Properties,
};
use fe2o3_amqp::types::primitives::{Binary, SimpleValue, Symbol, Value};

use crate::cloudevents::{AMQP, CONTENT_TYPE};
use crate::endpoint::amqp::properties::{
    CONTENT_ENCODING, CORRELATION_ID, MESSAGE_ID, PRIORITY, REPLY_TO, SUBJECT, TIMESTAMP, USER_ID, split,
};
use crate::event::Headers;

/// What a message says beside its body, in the mesh's words.
pub fn headers<B>(message: &Message<B>) -> Headers {
    let mut headers = Headers::new();
    let mut add = |name: &str, value: Option<String>| headers.extend(value.map(|value| (name.to_owned(), value)));
    if let Some(properties) = &message.properties {
        add(CONTENT_TYPE, properties.content_type.as_ref().map(|symbol| symbol.0.clone()));
        add(CONTENT_ENCODING, properties.content_encoding.as_ref().map(|symbol| symbol.0.clone()));
        add(CORRELATION_ID, properties.correlation_id.as_ref().and_then(id_text));
        add(MESSAGE_ID, properties.message_id.as_ref().and_then(id_text));
        add(REPLY_TO, properties.reply_to.clone());
        add(SUBJECT, properties.subject.clone());
        add(USER_ID, properties.user_id.as_ref().and_then(|id| String::from_utf8(id.to_vec()).ok()));
        add(TIMESTAMP, properties.creation_time.as_ref().map(|time| time.milliseconds().to_string()));
    }
    // The default of the protocol says nothing.
    let priority = message.header.as_ref().map(|header| header.priority);
    add(PRIORITY, priority.filter(|priority| *priority != Priority::default()).map(|priority| priority.0.to_string()));
    for (name, value) in message.application_properties.iter().flat_map(|properties| properties.0.iter()) {
        headers.extend(simple_text(value).map(|value| (name.clone(), value)));
    }
    AMQP.to_mesh(headers)
}

fn id_text(id: &MessageId) -> Option<String> {
    match id {
        MessageId::Ulong(number) => Some(number.to_string()),
        MessageId::String(text) => Some(text.clone()),
        MessageId::Binary(bytes) => String::from_utf8(bytes.to_vec()).ok(),
        MessageId::Uuid(uuid) => Some(hex(uuid.as_inner())),
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The text of a value that has one.
fn simple_text(value: &SimpleValue) -> Option<String> {
    match value {
        SimpleValue::String(text) => Some(text.clone()),
        SimpleValue::Symbol(text) => Some(text.0.clone()),
        SimpleValue::Bool(value) => Some(value.to_string()),
        SimpleValue::Ubyte(value) => Some(value.to_string()),
        SimpleValue::Ushort(value) => Some(value.to_string()),
        SimpleValue::Uint(value) => Some(value.to_string()),
        SimpleValue::Ulong(value) => Some(value.to_string()),
        SimpleValue::Byte(value) => Some(value.to_string()),
        SimpleValue::Short(value) => Some(value.to_string()),
        SimpleValue::Int(value) => Some(value.to_string()),
        SimpleValue::Long(value) => Some(value.to_string()),
        SimpleValue::Float(value) => Some(value.to_string()),
        SimpleValue::Double(value) => Some(value.to_string()),
        SimpleValue::Char(value) => Some(value.to_string()),
        SimpleValue::Timestamp(time) => Some(time.milliseconds().to_string()),
        SimpleValue::Uuid(uuid) => Some(hex(uuid.as_inner())),
        SimpleValue::Null => Some(String::new()),
        _ => None,
    }
}

/// The data of an event: data sections joined, a text or bytes as they are, anything else as JSON.
pub fn payload(body: Body<Value>) -> Bytes {
    match body {
        Body::Data(parts) => {
            let mut parts: Vec<Data> = parts.into_iter().collect();
            match parts.len() {
                1 => parts.remove(0).0.into_vec().into(),
                _ => parts.into_iter().flat_map(|part| part.0.into_vec()).collect::<Vec<u8>>().into(),
            }
        }
        Body::Value(value) => match value.0 {
            Value::String(text) => text.into_bytes().into(),
            Value::Binary(bytes) => bytes.into_vec().into(),
            Value::Null => Bytes::new(),
            other => json(&other).to_string().into(),
        },
        Body::Sequence(parts) => {
            let items = parts.into_iter().flat_map(|part| part.0).map(|value| json(&value)).collect();
            serde_json::Value::Array(items).to_string().into()
        }
        Body::Empty => Bytes::new(),
    }
}

/// As a JSON value; what JSON has no word for, as its text.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Ubyte(value) => (*value).into(),
        Value::Ushort(value) => (*value).into(),
        Value::Uint(value) => (*value).into(),
        Value::Ulong(value) => (*value).into(),
        Value::Byte(value) => (*value).into(),
        Value::Short(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Long(value) => (*value).into(),
        Value::Float(value) => f64::from(value.into_inner()).into(),
        Value::Double(value) => value.into_inner().into(),
        Value::Char(value) => value.to_string().into(),
        Value::Timestamp(time) => time.milliseconds().into(),
        Value::Uuid(uuid) => hex(uuid.as_inner()).into(),
        Value::String(text) => text.as_str().into(),
        Value::Symbol(text) => text.0.as_str().into(),
        Value::Binary(bytes) => data_encoding::BASE64.encode(bytes).into(),
        Value::List(items) => items.iter().map(json).collect::<Vec<_>>().into(),
        Value::Array(items) => items.0.iter().map(json).collect::<Vec<_>>().into(),
        Value::Map(entries) => {
            let name = |key: &Value| match json(key) {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            entries.iter().map(|(key, value)| (name(key), json(value))).collect::<serde_json::Map<_, _>>().into()
        }
        other => format!("{other:?}").into(),
    }
}

/// A message for an address; `id` where the headers name none.
pub fn message(
    address: &str,
    headers: &Headers,
    payload: &Bytes,
    id: String,
    guarantee: Guarantee,
) -> Message<Body<Value>> {
    let (mut own, rest) = split(AMQP.from_mesh(headers));
    let priority = own.remove(PRIORITY).and_then(|text| text.parse().ok()).map(Priority).unwrap_or_default();
    let mut application = ApplicationProperties::default();
    for (name, value) in rest {
        if application.get(&name).is_none() {
            application.insert(name, SimpleValue::String(value));
        }
    }
    let mut take = |name: &str| own.remove(name);
    let properties = Properties {
        message_id: Some(MessageId::String(take(MESSAGE_ID).unwrap_or(id))),
        to: Some(address.to_owned()),
        subject: take(SUBJECT),
        reply_to: take(REPLY_TO),
        correlation_id: take(CORRELATION_ID).map(MessageId::String),
        content_type: take(CONTENT_TYPE).map(Symbol::from),
        content_encoding: take(CONTENT_ENCODING).map(Symbol::from),
        ..Properties::default()
    };
    let durable = guarantee == Guarantee::AtLeastOnce;
    Message::builder()
        .header(Header { durable, priority, ..Header::default() })
        .properties(properties)
        .application_properties(application)
        .body(Body::Data(vec![Data(Binary::from(payload.to_vec()))].into()))
        .build()
}
