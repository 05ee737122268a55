//! What brokers have stopped storing because they could not write, mostly since their volume is full.
//!
//! A broker does not say so by itself, and does not come back to it when there is room again: it goes on without that
//! copy, or without storage at all, until it is restarted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::Deserialize;

use super::{BrokerError, MeshBroker, system::ask_all};

/// How long another answer is awaited.
const PATIENCE: Duration = Duration::from_secs(3);
/// Names that a message shows; the others are counted.
const NAMED: usize = 3;

/// What one broker has stopped storing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    /// It stores nothing at all.
    pub everything: bool,
    /// Streams of which its copy stands still.
    pub streams: BTreeSet<String>,
    /// In the broker's words.
    pub why: String,
}

/// By the names of brokers that have stopped storing something.
pub type StoppedByBroker = BTreeMap<String, Stopped>;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.everything {
            return write!(f, "stores nothing any more: {}", self.why);
        }
        let more = self.streams.len().saturating_sub(NAMED);
        let named = self.streams.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        write!(f, "has stopped storing {named}{more}: {}", self.why)
    }
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    data: Option<Healthz>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
}

#[derive(Deserialize)]
struct Healthz {
    #[serde(default)]
    errors: Vec<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    stream: String,
    error: String,
}

impl MeshBroker {
    /// Asks these brokers now.
    pub async fn stopped(&self, brokers: &BTreeSet<String>) -> Result<StoppedByBroker, BrokerError> {
        let (mut silent, mut stopped) = (brokers.clone(), StoppedByBroker::new());
        let asked = ask_all(self, "$SYS.REQ.SERVER.PING.HEALTHZ", r#"{"details":true}"#.into(), |message| {
            let answer = message.and_then(|message| serde_json::from_slice::<Answer>(&message.payload).ok());
            if let Some(Answer { server, data }) = answer {
                silent.remove(&server.name);
                stopped.extend(data.and_then(read).map(|what| (server.name, what)));
            }
            (!silent.is_empty()).then_some(PATIENCE)
        });
        asked.await.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        Ok(stopped)
    }
}

/// Absent where it stores everything. That a copy is not up to date is no failure: it catches up.
fn read(health: Healthz) -> Option<Stopped> {
    let mut stopped = Stopped::default();
    for Failure { stream, error } in health.errors {
        let is_off = error.contains("JetStream not enabled");
        if !is_off && !error.contains("write error") {
            continue;
        }
        // Errors of the metadata name no stream, and without the metadata a broker takes part in nothing new.
        stopped.everything |= stream.is_empty();
        stopped.streams.extend(Some(stream).filter(|stream| !stream.is_empty()));
        stopped.why = error;
    }
    (!stopped.why.is_empty()).then_some(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server 2.15.2 says it.
    fn said(errors: &str) -> Option<Stopped> {
        let answer = format!(r#"{{"server": {{"name": "a"}}, "data": {{"status": "error", "errors": [{errors}]}}}}"#);
        serde_json::from_str::<Answer>(&answer).expect("an answer").data.and_then(read)
    }

    const COPY: &str = r#"{"type": "STREAM", "account": "A", "stream": "s", "error": "JetStream stream 'A > s' is not current: stream write error: expected sequence does not match store"}"#;

    #[test]
    fn a_copy_that_stands_still_is_named() {
        let stopped = said(COPY).expect("stopped");
        assert!(!stopped.everything && stopped.streams.contains("s"));
        assert!(stopped.to_string().starts_with("has stopped storing s: JetStream stream"), "{stopped}");
    }

    #[test]
    fn a_broker_without_storage_stores_nothing() {
        for error in ["JetStream not enabled", "JetStream meta layer write error: no space left on device"] {
            let stopped = said(&format!(r#"{{"type": "JETSTREAM", "error": "{error}"}}"#)).expect("stopped");
            assert_eq!(stopped.to_string(), format!("stores nothing any more: {error}"));
        }
    }

    #[test]
    fn what_catches_up_is_no_failure() {
        let late = COPY.replace("stream write error: expected sequence does not match store", "stream catching up");
        assert_eq!(said(&late), None);
        assert_eq!(said(""), None);
    }
}
