//! JetStream's management API: one function a call, JSON in and out.
//!
//! Configurations travel as JSON objects and not as typed structures, so that a setting this release does not know
//! survives an update.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json, value::RawValue};

/// A JSON object that configures a stream or a consumer.
pub type Config = Map<String, Value>;

/// An object literal as a configuration; anything but an object is an empty one.
#[must_use]
pub fn object(value: Value) -> Config {
    match value {
        Value::Object(map) => map,
        _ => Config::new(),
    }
}

/// How long one call may take; in a cluster the meta leader answers after a round of consensus.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker answered and refused.
    #[error("{description} (broker error {code})")]
    Refused { code: u64, description: String },
    /// No answer: no connection, no JetStream leader, or too slow.
    #[error("broker did not answer: {0}")]
    Unavailable(String),
    /// The answer could not be read.
    #[error("unexpected answer of the broker: {0}")]
    Decode(#[from] serde_json::Error),
}

/// JetStream error codes that are handled and not only shown.
pub mod code {
    pub const STREAM_NOT_FOUND: u64 = 10059;
    pub const STREAM_NAME_IN_USE: u64 = 10058;
    pub const CONSUMER_NOT_FOUND: u64 = 10014;
    pub const MESSAGE_NOT_FOUND: u64 = 10037;
    pub const CONSUMER_EXISTS: u64 = 10148;
    /// JetStream is there but has no leader yet.
    pub const TEMPORARILY_UNAVAILABLE: u64 = 10008;
    pub const INSUFFICIENT_RESOURCES: u64 = 10023;
    pub const NO_SUITABLE_PEERS: u64 = 10005;
}

impl BrokerError {
    #[must_use]
    pub fn is_code(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    /// Whether the broker has looked at the request and said no.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code != code::TEMPORARILY_UNAVAILABLE)
    }

    /// Whether the same call may succeed later without any change by the user.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Refused { code, .. } => {
                matches!(*code, code::TEMPORARILY_UNAVAILABLE | code::NO_SUITABLE_PEERS | code::INSUFFICIENT_RESOURCES)
            }
            Self::Decode(_) => false,
        }
    }
}

/// What the broker says of a stream.
#[derive(Debug, Deserialize)]
pub struct StreamInfo {
    /// The configuration as JSON text: parsed only when it is compared.
    pub config: Box<RawValue>,
    #[serde(default)]
    pub state: StreamState,
}

/// Numbers of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StreamState {
    pub messages: u64,
    pub bytes: u64,
    pub first_ts: String,
    pub last_ts: String,
    pub last_seq: u64,
    pub consumer_count: u64,
}

/// What the broker says of a consumer.
#[derive(Debug, Deserialize)]
pub struct ConsumerInfo {
    pub stream_name: String,
    pub name: String,
    pub config: Box<RawValue>,
    #[serde(flatten)]
    pub state: ConsumerState,
}

/// Numbers of a consumer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConsumerState {
    pub num_pending: u64,
    pub num_ack_pending: u64,
    pub num_redelivered: u64,
    pub delivered: Delivered,
}

/// Position of a consumer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Delivered {
    pub last_active: Option<String>,
}

#[derive(Deserialize)]
struct NamedConfig<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
}

impl StreamInfo {
    pub fn name(&self) -> Result<String, BrokerError> {
        let NamedConfig { name } = serde_json::from_str(self.config.get())?;
        Ok(name.into_owned())
    }
}

/// Whether a consumer is to be made or changed; the broker refuses the other case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsumerAction {
    Create,
    Update,
}

/// The calls, on one connection.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
}

impl Api {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub async fn create_stream(&self, name: &str, config: &Config) -> Result<StreamInfo, BrokerError> {
        self.call(format!("$JS.API.STREAM.CREATE.{name}"), config).await
    }

    pub async fn update_stream(&self, name: &str, config: &Config) -> Result<StreamInfo, BrokerError> {
        self.call(format!("$JS.API.STREAM.UPDATE.{name}"), config).await
    }

    /// Deletes a stream with its events; one that is not there counts as deleted.
    pub async fn delete_stream(&self, name: &str) -> Result<(), BrokerError> {
        ignore(code::STREAM_NOT_FOUND, self.call::<_, Value>(format!("$JS.API.STREAM.DELETE.{name}"), &json!({})).await)
    }

    /// The stream, or `None` when there is none of this name.
    pub async fn stream(&self, name: &str) -> Result<Option<StreamInfo>, BrokerError> {
        optional(code::STREAM_NOT_FOUND, self.call(format!("$JS.API.STREAM.INFO.{name}"), &json!({})).await)
    }

    /// One page of all streams.
    pub async fn streams(&self, offset: usize) -> Result<StreamPage, BrokerError> {
        self.call("$JS.API.STREAM.LIST".to_owned(), &json!({ "offset": offset })).await
    }

    pub async fn put_consumer(
        &self,
        stream: &str,
        name: &str,
        config: &Config,
        action: ConsumerAction,
    ) -> Result<ConsumerInfo, BrokerError> {
        let request = json!({ "stream_name": stream, "config": config, "action": action });
        self.call(format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), &request).await
    }

    /// Stops a consumer's deliveries until a time, or lets them go on. An update of the consumer does not change this.
    pub async fn pause_consumer(&self, stream: &str, name: &str, until: Option<&str>) -> Result<(), BrokerError> {
        let subject = format!("$JS.API.CONSUMER.PAUSE.{stream}.{name}");
        let request = until.map_or_else(|| json!({}), |until| json!({ "pause_until": until }));
        self.call::<_, Value>(subject, &request).await.map(|_| ())
    }

    /// Deletes a consumer; one that is not there, or whose stream is not there, counts as deleted.
    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), BrokerError> {
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{name}");
        let answer = self.call::<_, Value>(subject, &json!({})).await;
        ignore(code::STREAM_NOT_FOUND, ignore(code::CONSUMER_NOT_FOUND, answer).map(|()| Value::Null))
    }

    /// The consumer, or `None` when there is none of this name.
    pub async fn consumer(&self, stream: &str, name: &str) -> Result<Option<ConsumerInfo>, BrokerError> {
        let answer = self.call(format!("$JS.API.CONSUMER.INFO.{stream}.{name}"), &json!({})).await;
        match optional(code::CONSUMER_NOT_FOUND, answer) {
            Err(error) if error.is_code(code::STREAM_NOT_FOUND) => Ok(None),
            other => other,
        }
    }

    /// One page of the consumers of a stream.
    pub async fn consumers(&self, stream: &str, offset: usize) -> Result<ConsumerPage, BrokerError> {
        self.call(format!("$JS.API.CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await
    }

    pub(super) async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: String,
        request: &Q,
    ) -> Result<A, BrokerError> {
        let payload = Bytes::from(serde_json::to_vec(request)?);
        let request = async_nats::Request::new().payload(payload).timeout(Some(TIMEOUT));
        let answer = self.client.send_request(subject, request).await.map_err(|error| {
            BrokerError::Unavailable(match error.kind() {
                RequestErrorKind::TimedOut => format!("no answer within {} s", TIMEOUT.as_secs()),
                RequestErrorKind::NoResponders => "JetStream is not ready".to_owned(),
                _ => error.to_string(),
            })
        })?;
        decode(&answer.payload)
    }
}

/// A page of streams; `total` counts all.
#[derive(Debug, Deserialize)]
pub struct StreamPage {
    #[serde(default)]
    pub total: usize,
    #[serde(default)]
    pub streams: Option<Vec<StreamInfo>>,
}

/// A page of consumers; `total` counts all.
#[derive(Debug, Deserialize)]
pub struct ConsumerPage {
    #[serde(default)]
    pub total: usize,
    #[serde(default)]
    pub consumers: Option<Vec<ConsumerInfo>>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<RefusalBody>,
}

#[derive(Deserialize)]
struct RefusalBody {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn decode<A: DeserializeOwned>(payload: &[u8]) -> Result<A, BrokerError> {
    if let Refusal { error: Some(error) } = serde_json::from_slice(payload)? {
        return Err(BrokerError::Refused { code: error.err_code, description: error.description });
    }
    Ok(serde_json::from_slice(payload)?)
}

fn optional<A>(absent: u64, answer: Result<A, BrokerError>) -> Result<Option<A>, BrokerError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_code(absent) => Ok(None),
        Err(error) => Err(error),
    }
}

fn ignore<A>(absent: u64, answer: Result<A, BrokerError>) -> Result<(), BrokerError> {
    optional(absent, answer).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_code_and_text() {
        let answer = br#"{"type":"x","error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        let error = decode::<StreamInfo>(answer).expect_err("refused");
        assert!(error.is_code(code::STREAM_NOT_FOUND));
        assert_eq!(error.to_string(), "stream not found (broker error 10059)");
        assert!(!error.is_temporary());
    }

    #[test]
    fn a_stream_info_is_read() {
        let answer = br#"{"config":{"name":"a_b","max_age":0},"state":{"messages":3,"bytes":10,"consumer_count":1}}"#;
        let info = decode::<StreamInfo>(answer).expect("read");
        assert_eq!(info.name().expect("a name"), "a_b");
        assert_eq!((info.state.messages, info.state.consumer_count), (3, 1));
    }
}
