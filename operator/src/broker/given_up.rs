//! Events that the brokers have given up: the notes they leave of them, and what a dead letter needs of a broker.
//!
//! A broker tells of an event that it will not deliver again once, in an advisory, and does not care whether anybody
//! hears it. A stream of the mesh's account listens, so that the operator may be away.

use async_nats::{HeaderMap, header, jetstream};
use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    BrokerError, MeshBroker,
    api::{Config, code, object},
    overlay::overlay,
    view::StreamEntry,
};

/// The stream of notes. No Topic's: the namespace of a Topic has no capitals.
pub const NOTES: &str = "EM_dead_letters";
/// The durable consumer by which the operator reads them.
const READER: &str = "operator";
/// Notes that are kept while no operator reads them; the oldest go first. Each takes about 400 bytes.
const MOST_NOTES: i64 = 200_000;
/// How long a note may be worked on before it is handed out again: longer than all calls that one takes.
const PATIENCE_NS: i64 = 60_000_000_000;

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    pub subject: String,
    pub sequence: u64,
    /// When it was stored, in the broker's own form.
    pub time: String,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
}

impl StoredEvent {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    subject: String,
    seq: u64,
    time: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl MeshBroker {
    /// Makes sure that notes are kept from now on.
    pub async fn keep_notes(&self, replicas: i32) -> Result<(), BrokerError> {
        let wanted = notes_config(replicas);
        let found = self.view().stream(NOTES).map(StreamEntry::config).transpose()?;
        let Some(found) = found else { return self.create_stream(NOTES, &wanted).await };
        let result = overlay(&found, &wanted);
        if result.differences.is_empty() { Ok(()) } else { self.update_stream(NOTES, &result.merged).await }
    }

    /// Takes up the notes anew: those that an earlier operator was given and did not acknowledge come at once, not only
    /// when the broker's patience with it has ended. Returns the number of the newest note that may be such a one.
    pub async fn begin_notes(&self) -> Result<u64, BrokerError> {
        self.api().delete_consumer(NOTES, READER).await?;
        Ok(self.api().stream(NOTES).await?.map_or(0, |info| info.state.last_seq))
    }

    /// The notes, each until it is acknowledged.
    pub async fn notes(&self) -> Result<jetstream::consumer::pull::Stream, BrokerError> {
        let config = jetstream::consumer::pull::Config {
            durable_name: Some(READER.to_owned()),
            ack_policy: jetstream::consumer::AckPolicy::Explicit,
            ack_wait: std::time::Duration::from_nanos(PATIENCE_NS.unsigned_abs()),
            // Those that have to wait for one full Topic must not hold up the others.
            max_ack_pending: -1,
            ..Default::default()
        };
        let consumer = self.jetstream().create_consumer_on_stream(config, NOTES).await.map_err(unavailable)?;
        consumer.stream().max_messages_per_batch(100).messages().await.map_err(unavailable)
    }

    /// An event of a stream, or `None` when it is not there any more.
    pub async fn event(&self, stream: &str, sequence: u64) -> Result<Option<StoredEvent>, BrokerError> {
        self.get(stream, &json!({ "seq": sequence })).await
    }

    /// The newest event of a subject.
    pub async fn newest(&self, stream: &str, subject: &str) -> Result<Option<StoredEvent>, BrokerError> {
        self.get(stream, &json!({ "last_by_subj": subject })).await
    }

    async fn get(&self, stream: &str, query: &Value) -> Result<Option<StoredEvent>, BrokerError> {
        // Asked of the stream's leader: a copy that is behind would not know a new event.
        let answer = self.api().call::<_, Found>(format!("$JS.API.STREAM.MSG.GET.{stream}"), query).await;
        match answer {
            Ok(found) => found.message.decode().map(Some),
            Err(error) if error.is_code(code::MESSAGE_NOT_FOUND) || error.is_code(code::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores an event in this stream and no other. Returns when it is stored, and whether it was there already.
    pub async fn store(
        &self,
        stream: &str,
        subject: &str,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<bool, BrokerError> {
        headers.insert(header::NATS_EXPECTED_STREAM, stream);
        let sent = self.jetstream().publish_with_headers(subject.to_owned(), headers, payload).await;
        sent.map_err(unavailable)?.await.map(|stored| stored.duplicate).map_err(unavailable)
    }

    /// Acknowledges an event for a consumer that has given it up, so that it goes from a stream that keeps only what
    /// somebody still has to process. Returns when the broker has done it.
    pub async fn acknowledge_for(&self, stream: &str, consumer: &str, sequence: u64) -> Result<(), BrokerError> {
        // Deliveries, sequence, the consumer's own sequence, time and pending: only the second counts for one that is
        // no longer under way.
        let subject = format!("$JS.ACK.{stream}.{consumer}.1.{sequence}.0.0.0");
        self.client.request(subject, "+ACK".into()).await.map(drop).map_err(unavailable)
    }

    /// Largest message that the brokers take, headers included.
    pub fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }
}

fn notes_config(replicas: i32) -> Config {
    object(json!({
        "name": NOTES,
        "description": "Notes of the brokers about events that were given up; the operator moves them to dead-letter Topics",
        "subjects": ["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"],
        "retention": "workqueue",
        "storage": "file",
        "discard": "old",
        "max_msgs": MOST_NOTES,
        "num_replicas": replicas,
    }))
}

impl RawMessage {
    fn decode(self) -> Result<StoredEvent, BrokerError> {
        let bytes = |text: &str| {
            let decoded = BASE64.decode(text.as_bytes());
            decoded.map_err(|error| BrokerError::Unavailable(format!("a stored event cannot be read: {error}")))
        };
        Ok(StoredEvent {
            headers: parse_headers(&String::from_utf8_lossy(&bytes(&self.hdrs)?)),
            payload: bytes(&self.data)?.into(),
            subject: self.subject,
            sequence: self.seq,
            time: self.time,
        })
    }
}

/// The block of headers as it is stored: a line with the version, then a line a header.
fn parse_headers(block: &str) -> Vec<(String, String)> {
    let lines = block.split("\r\n").skip(1);
    let headers = lines.filter_map(|line| line.split_once(':'));
    headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn unavailable(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_event_is_read_with_its_headers() {
        let raw: RawMessage = serde_json::from_value(json!({
            "subject": "a.b", "seq": 7, "time": "2026-11-24T08:00:00.1Z",
            "hdrs": BASE64.encode(b"NATS/1.0\r\nk: v\r\nk: w\r\nempty:\r\nurl: http://x:1/\r\n\r\n"),
            "data": BASE64.encode(&[0, 255, 10]),
        }))
        .expect("a message");
        let event = raw.decode().expect("readable");
        let pairs: Vec<(&str, &str)> = event.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("k", "v"), ("k", "w"), ("empty", ""), ("url", "http://x:1/")]);
        assert_eq!(
            (event.sequence, event.header("url"), &event.payload[..]),
            (7, Some("http://x:1/"), &[0, 255, 10][..])
        );
    }

    #[test]
    fn an_event_without_headers_has_none() {
        assert!(parse_headers("").is_empty());
    }
}
