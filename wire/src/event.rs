//! The `CloudEvents` view of an event that filters and transforms see, whatever the endpoint.

#![expect(clippy::disallowed_types, reason = "CEL values are made from hash maps; nothing is iterated or rendered")]

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value;

/// What an expression may look at, borrowed from the event on its way.
#[derive(Debug, Clone, Default)]
pub struct EventView<'a> {
    /// The `CloudEvents` `id`, else empty.
    pub id: &'a str,
    /// The `CloudEvents` `source`, else empty.
    pub source: &'a str,
    /// The `CloudEvents` `type`, else empty.
    pub kind: &'a str,
    /// The address the event came in on: an MQTT topic, or a mesh subject.
    pub subject: &'a str,
    /// The `CloudEvents` `time`, else empty.
    pub time: &'a str,
    pub headers: &'a [(String, String)],
    pub data: &'a [u8],
}

impl EventView<'_> {
    /// `event` as CEL sees it; `data` is looked at only when the expression does.
    #[must_use]
    pub fn to_value(&self, with_data: bool) -> Value {
        let text = |value: &str| Value::String(Arc::new(value.to_owned()));
        let headers: HashMap<String, Value> =
            self.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let attributes: HashMap<String, Value> = self
            .headers
            .iter()
            .filter_map(|(name, value)| Some((attribute_name(name)?.to_ascii_lowercase(), text(value))))
            .collect();
        let mut event: HashMap<String, Value> = HashMap::with_capacity(8);
        event.insert("id".into(), text(self.id));
        event.insert("source".into(), text(self.source));
        event.insert("type".into(), text(self.kind));
        event.insert("subject".into(), text(self.subject));
        event.insert("time".into(), text(self.time));
        event.insert("headers".into(), headers.into());
        event.insert("attributes".into(), attributes.into());
        if with_data {
            event.insert("data".into(), data_value(self.data));
        }
        event.into()
    }
}

/// The `CloudEvents` attribute that a header of the mesh carries, extensions included.
#[must_use]
pub fn attribute_name(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(3)?;
    if prefix.eq_ignore_ascii_case("ce-") {
        return Some(name);
    }
    header.eq_ignore_ascii_case("content-type").then_some("datacontenttype")
}

/// JSON as what it holds, other text as a string, anything else as bytes.
fn data_value(data: &[u8]) -> Value {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(data) {
        return json_value(json);
    }
    match std::str::from_utf8(data) {
        Ok(text) => Value::String(Arc::new(text.to_owned())),
        Err(_) => Value::Bytes(Arc::new(data.to_owned())),
    }
}

fn json_value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(value),
            (None, Some(value)) => Value::UInt(value),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text)),
        serde_json::Value::Array(items) => Value::List(Arc::new(items.into_iter().map(json_value).collect())),
        serde_json::Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, json_value(value))).collect::<HashMap<String, Value>>().into()
        }
    }
}
