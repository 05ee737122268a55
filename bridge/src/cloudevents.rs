//! `CloudEvents` 1.0, from each protocol's binding to the mesh's and back.
//!
//! Inside the mesh every event is in the binary mode of the NATS binding: attributes are headers `ce-<name>`, the content type of the
//! data is the header `content-type`, and the payload is the data alone. An event in structured mode is unwrapped when it comes in.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{Headers, header};

/// The header of the data's content type, inside the mesh.
pub const CONTENT_TYPE: &str = "content-type";
/// Before the name of an attribute, inside the mesh.
const PREFIX: &str = "ce-";
const STRUCTURED: &str = "application/cloudevents+json";

/// How a protocol writes attributes among its headers, in binary mode.
#[derive(Debug)]
pub struct Binding {
    /// Before the name of each attribute.
    prefix: &'static str,
    /// What others are known to write instead.
    also_read: Option<&'static str>,
}

/// User properties, which are not marked as attributes: where there is `specversion`, those that the specification knows are.
pub const MQTT: Binding = Binding { prefix: "", also_read: None };

/// Message properties and headers of both versions.
pub const AMQP: Binding = Binding { prefix: "cloudEvents:", also_read: Some("cloudEvents_") };
/// The Kafka binding: header values are text there too.
pub const KAFKA: Binding = Binding { prefix: "ce_", also_read: None };

/// The mesh's own.
pub const NATS: Binding = Binding { prefix: "ce-", also_read: None };

const KNOWN: [&str; 7] = ["specversion", "id", "source", "type", "subject", "time", "dataschema"];

impl Binding {
    /// Headers as the mesh has them. Those that are no attributes stay as they are.
    #[must_use]
    pub fn to_mesh(&self, mut headers: Headers) -> Headers {
        if self.prefix.is_empty() {
            if header(&headers, "specversion").is_some() {
                for (name, _) in &mut headers {
                    if KNOWN.contains(&name.as_str()) {
                        name.insert_str(0, PREFIX);
                    }
                }
            }
            return headers;
        }
        for (name, _) in &mut headers {
            let prefixes = [Some(self.prefix), self.also_read];
            if let Some(attribute) = prefixes.into_iter().flatten().find_map(|prefix| without(name, prefix)) {
                *name = format!("{PREFIX}{}", attribute.to_ascii_lowercase());
            }
        }
        headers
    }

    /// Headers as the protocol has them.
    #[must_use]
    pub fn from_mesh(&self, headers: &Headers) -> Headers {
        let outside = |name: &String| match without(name, PREFIX) {
            Some(attribute) => format!("{}{attribute}", self.prefix),
            None => name.clone(),
        };
        headers.iter().map(|(name, value)| (outside(name), value.clone())).collect()
    }
}

fn without<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    (start.eq_ignore_ascii_case(prefix) && !rest.is_empty()).then_some(rest)
}

/// Whether a content type is this one, parameters aside.
#[must_use]
pub fn is_media_type(content_type: &str, media_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|found| found.trim().eq_ignore_ascii_case(media_type))
}

/// What identifies an event in the mesh, so that it is stored once: its source and its id.
#[must_use]
pub fn identity(headers: &[(String, String)]) -> Option<String> {
    header(headers, "ce-specversion")?;
    Some(format!("{}#{}", header(headers, "ce-source")?, header(headers, "ce-id")?))
}

/// Turns an event in structured mode into one in binary mode; others stay as they are.
///
/// # Errors
/// What is wrong with the event.
pub fn unwrap_structured(headers: &mut Headers, payload: &mut Bytes) -> Result<(), String> {
    if !header(headers, CONTENT_TYPE).is_some_and(|found| is_media_type(found, STRUCTURED)) {
        return Ok(());
    }
    let (attributes, data) = read_structured(payload)?;
    // What the event says of itself goes before what the transport says of it.
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case(CONTENT_TYPE) && header(&attributes, name).is_none());
    headers.extend(attributes);
    *payload = data;
    Ok(())
}

/// Attributes, as headers of the mesh, and data of an event in the JSON event format.
///
/// # Errors
/// What is wrong with it.
pub fn read_structured(json: &[u8]) -> Result<(Headers, Bytes), String> {
    let wrong = |problem: String| format!("this is no CloudEvent in JSON: {problem}");
    let members: Members<'_> = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    read_members(members.0).map_err(wrong)
}

/// The events of a batch in the JSON batch format.
///
/// # Errors
/// What is wrong with the batch, or with which of its events.
pub fn read_batch(json: &[u8]) -> Result<Vec<(Headers, Bytes)>, String> {
    let batch: Vec<Members<'_>> =
        serde_json::from_slice(json).map_err(|error| format!("this is no batch of CloudEvents in JSON: {error}"))?;
    let numbered = batch.into_iter().enumerate();
    numbered.map(|(index, event)| read_members(event.0).map_err(|error| format!("event {index}: {error}"))).collect()
}

#[derive(Deserialize)]
struct Members<'a>(#[serde(borrow)] BTreeMap<String, &'a RawValue>);

fn read_members(mut members: BTreeMap<String, &RawValue>) -> Result<(Headers, Bytes), String> {
    let (data, base64) = (members.remove("data"), members.remove("data_base64"));
    let mut headers = Headers::new();
    for (name, value) in members {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return Err(format!("`{name}` is no name of an attribute: lowercase letters and digits only"));
        }
        let Some(value) = attribute_text(value).map_err(|problem| format!("attribute `{name}`: {problem}"))? else {
            continue;
        };
        let name = if name == "datacontenttype" { CONTENT_TYPE.to_owned() } else { format!("{PREFIX}{name}") };
        headers.push((name, value));
    }
    for required in ["ce-specversion", "ce-id", "ce-source", "ce-type"] {
        if header(&headers, required).is_none_or(str::is_empty) {
            return Err(format!("the attribute `{}` is missing", &required[PREFIX.len()..]));
        }
    }
    let version = header(&headers, "ce-specversion").unwrap_or_default();
    if version != "1.0" {
        return Err(format!("its version is `{version}`, and 1.0 is what can be read"));
    }
    let data = match (data, base64) {
        (Some(_), Some(_)) => return Err("it has both `data` and `data_base64`".to_owned()),
        (Some(data), None) => plain_data(data, &mut headers)?,
        (None, Some(text)) => {
            let text: String = serde_json::from_str(text.get()).map_err(|_| "`data_base64` is no string".to_owned())?;
            BASE64.decode(text.as_bytes()).map_err(|error| format!("`data_base64` is no base64: {error}"))?
        }
        (None, None) => Vec::new(),
    };
    Ok((headers, data.into()))
}

/// JSON stays as it was written; a string is itself the data where the content type is another than JSON.
fn plain_data(data: &RawValue, headers: &mut Headers) -> Result<Vec<u8>, String> {
    let is_json = header(headers, CONTENT_TYPE).is_none_or(|content_type| {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        media_type.ends_with("/json") || media_type.ends_with("+json")
    });
    if header(headers, CONTENT_TYPE).is_none() {
        headers.push((CONTENT_TYPE.to_owned(), "application/json".to_owned()));
    }
    if is_json || !data.get().starts_with('"') {
        return Ok(data.get().as_bytes().to_vec());
    }
    serde_json::from_str::<String>(data.get()).map(String::into_bytes).map_err(|error| error.to_string())
}

/// An attribute's value as text; `None` for null, which is the same as no attribute.
fn attribute_text(value: &RawValue) -> Result<Option<String>, String> {
    let text = match serde_json::from_str(value.get()).map_err(|error| error.to_string())? {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::String(text) => text,
        other @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => other.to_string(),
        _ => return Err("its value is an object or a list".to_owned()),
    };
    if text.contains(['\r', '\n', '\0']) {
        return Err("its value has a line break or NUL".to_owned());
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn mqtt_attributes_are_known_by_their_names() {
        let event = headers(&[("specversion", "1.0"), ("id", "1"), ("traceparent", "t"), ("shop", "7")]);
        let inside = MQTT.to_mesh(event.clone());
        assert_eq!(inside, headers(&[("ce-specversion", "1.0"), ("ce-id", "1"), ("traceparent", "t"), ("shop", "7")]));
        assert_eq!(MQTT.from_mesh(&inside), event);
        assert_eq!(MQTT.to_mesh(headers(&[("id", "1")])), headers(&[("id", "1")]), "no CloudEvent");
    }

    #[test]
    fn prefixes_are_read_whatever_their_case() {
        let binding = Binding { prefix: "cloudEvents:", also_read: Some("cloudEvents_") };
        let inside = binding.to_mesh(headers(&[("CloudEvents:id", "1"), ("cloudEvents_Type", "t"), ("x", "y")]));
        assert_eq!(inside, headers(&[("ce-id", "1"), ("ce-type", "t"), ("x", "y")]));
        let outside = headers(&[("cloudEvents:id", "1"), ("cloudEvents:type", "t"), ("x", "y")]);
        assert_eq!(binding.from_mesh(&inside), outside);
    }

    const EVENT: &str = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;

    #[rstest]
    #[case(r#","data":{"a": 1.50}"#, r#"{"a": 1.50}"#, Some("application/json"))]
    #[case(r#","data":"text""#, r#""text""#, Some("application/json"))]
    #[case(r#","datacontenttype":"text/plain","data":"a\nb""#, "a\nb", Some("text/plain"))]
    #[case(r#","datacontenttype":"a/b","data_base64":"AAE=""#, "\0\u{1}", Some("a/b"))]
    #[case("", "", None)]
    fn structured_events_become_binary_ones(
        #[case] rest: &str,
        #[case] data: &str,
        #[case] content_type: Option<&str>,
    ) {
        let mut found = headers(&[("content-type", "application/cloudevents+json; charset=utf-8"), ("k", "v")]);
        let mut payload = Bytes::from(format!("{{{EVENT},\"shop\":7{rest}}}"));
        unwrap_structured(&mut found, &mut payload).unwrap();
        assert_eq!(payload, data);
        assert_eq!(header(&found, CONTENT_TYPE), content_type);
        let expected = [("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-shop", "7"), ("k", "v")];
        for (name, value) in expected {
            assert_eq!(header(&found, name), Some(value));
        }
    }

    #[rstest]
    #[case("no json".to_owned(), "expected")]
    #[case("[]".to_owned(), "invalid type")]
    #[case(r#"{"specversion":"1.0","id":"1","source":"/s"}"#.to_owned(), "`type` is missing")]
    #[case(format!("{{{},\"Shop\":1}}", EVENT), "no name of an attribute")]
    #[case(format!("{{{},\"shop\":[]}}", EVENT), "an object or a list")]
    #[case(format!("{{{},\"shop\":\"a\\nb\"}}", EVENT), "line break")]
    #[case(format!("{{{},\"data\":1,\"data_base64\":\"\"}}", EVENT), "both")]
    #[case(format!("{{{},\"data_base64\":\"?\"}}", EVENT), "no base64")]
    #[case(EVENT.replace("1.0", "0.3").replace("\"specversion", "{\"specversion") + "}", "version is `0.3`")]
    fn what_is_no_event_is_told(#[case] json: String, #[case] problem: &str) {
        let error = read_structured(json.as_bytes()).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }

    #[test]
    fn a_batch_tells_which_event_is_wrong() {
        let batch = format!("[{{{EVENT}}},{{\"id\":\"1\"}}]");
        assert!(read_batch(batch.as_bytes()).unwrap_err().starts_with("event 1: "));
        assert_eq!(read_batch(format!("[{{{EVENT}}}]").as_bytes()).unwrap().len(), 1);
    }
}
