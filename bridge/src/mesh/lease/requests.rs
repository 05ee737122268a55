//! What a lease asks of the mesh: to read its record, and to replace it if it is still the one that was seen.

use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, RequestErrorKind, StatusCode};
use eventmesh_wire::names::{LEASE_STREAM, lease_read_subject, lease_subject};
use serde::Deserialize;

use super::term::{Record, Seen};
use crate::jetstream::ApiError;
use crate::mesh::Mesh;

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Under this number.
    Stored(u64),
    /// There is another record by now.
    Refused,
}

/// Error codes of a record that is another one by now; the second is that of a cluster that has another under way.
const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];

pub(super) struct Requests {
    mesh: Mesh,
    write: String,
    read: String,
    patience: Duration,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    error: Option<ApiError>,
}

impl Requests {
    pub(super) fn new(mesh: Mesh, namespace: &str, bridge: &str, patience: Duration) -> Self {
        let (write, read) = (lease_subject(namespace, bridge), lease_read_subject(namespace, bridge));
        Self { mesh, write, read, patience }
    }

    pub(super) async fn read(&self) -> Result<Seen, String> {
        seen(&self.ask(self.read.clone(), Request::new()).await?)
    }

    /// Replaces the record of this number; 0: there must be none.
    pub(super) async fn write(&self, expected: u64, record: &Record) -> Result<Written, String> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string().as_str());
        let payload = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        let request = Request::new().headers(headers).payload(payload.into());
        written(&self.ask(self.write.clone(), request).await?.payload)
    }

    async fn ask(&self, subject: String, request: Request) -> Result<Message, String> {
        let _pass = self.mesh.pass();
        let answer = self.mesh.client.send_request(subject, request.timeout(Some(self.patience))).await;
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => format!(
                "nobody answers for the lease: its brokers are choosing a leader, or the mesh has no stream `{LEASE_STREAM}`, which the operator makes"
            ),
            RequestErrorKind::TimedOut => "the mesh did not answer in time for the lease".to_owned(),
            _ => format!("can not ask for the lease: {error}"),
        })
    }
}

fn written(payload: &[u8]) -> Result<Written, String> {
    let answer: Answer = serde_json::from_slice(payload).map_err(|_| unreadable())?;
    match answer.error {
        Some(error) if WRONG_LAST_SEQUENCE.contains(&error.err_code) => Ok(Written::Refused),
        Some(error) => Err(format!("the mesh refused the lease: {} ({})", error.description, error.err_code)),
        None => Ok(Written::Stored(answer.seq)),
    }
}

fn seen(message: &Message) -> Result<Seen, String> {
    if message.status == Some(StatusCode::NOT_FOUND) {
        return Ok(Seen { sequence: 0, record: None });
    }
    let sequence = message.headers.as_ref().and_then(|headers| headers.get("Nats-Sequence")?.as_str().parse().ok());
    // One that can not be read is somebody's all the same.
    let record = serde_json::from_slice(&message.payload).ok();
    sequence.map(|sequence| Seen { sequence, record }).ok_or_else(unreadable)
}

fn unreadable() -> String {
    "the mesh answered with something that is no lease".to_owned()
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_a_write() {
        assert_eq!(written(br#"{"stream":"EM_leases","seq":7}"#), Ok(Written::Stored(7)));
        let refused = |code: u64| written(format!(r#"{{"error":{{"err_code":{code}}},"seq":0}}"#).as_bytes());
        assert_eq!((refused(10_071), refused(10_164)), (Ok(Written::Refused), Ok(Written::Refused)));
        assert!(refused(10_077).is_err(), "a full stream tells nothing of who holds it");
        assert!(written(b"?").is_err());
    }

    #[test]
    fn answers_to_a_look() {
        let message = |status: Option<StatusCode>, sequence: Option<&str>, payload: &str| {
            let mut headers = HeaderMap::new();
            if let Some(sequence) = sequence {
                headers.insert("Nats-Sequence", sequence);
            }
            Message {
                subject: "s".into(),
                reply: None,
                payload: payload.to_owned().into(),
                headers: Some(headers),
                status,
                description: None,
                length: 0,
            }
        };
        let found = seen(&message(None, Some("4"), r#"{"holder":"p","token":"t","ttlMs":2000}"#)).unwrap();
        assert_eq!((found.sequence, found.record.unwrap().holder), (4, "p".to_owned()));
        assert_eq!(seen(&message(None, Some("5"), "?")).unwrap(), Seen { sequence: 5, record: None });
        assert_eq!(seen(&message(Some(StatusCode::NOT_FOUND), None, "")).unwrap().sequence, 0);
        assert!(seen(&message(None, None, "?")).is_err());
    }
}
