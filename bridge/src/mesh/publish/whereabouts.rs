//! Why nobody answered a publish: the stream is missing, does not take the subject, or its brokers are choosing a leader.
//!
//! A publish that nobody answers looks the same in all three cases, so the JetStream API is asked about the stream.

use std::time::{Duration, Instant};

use async_nats::Client;
use eventmesh_wire::subject::Pattern;
use futures::future::BoxFuture;
use serde::Deserialize;

/// How long the answer may take. Brokers without a leader answer late, or not at all.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is asked.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Error code of a stream that there is not.
const STREAM_NOT_FOUND: u64 = 10059;
/// Error codes of JetStream that is off, for the account or altogether: no leader is being chosen.
const OFF: [u64; 2] = [10039, 10076];

/// What is known about a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It has a leader and takes the subject.
    Here,
    Missing,
    /// It is there, and takes other subjects.
    Elsewhere(Vec<String>),
    /// It is there, and the brokers say that it can not be used now.
    Leaderless,
    /// Nobody answers for the whole of JetStream: it has no leader itself, or it is off.
    Unknown,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    config: Option<Config>,
    /// Only in a cluster.
    #[serde(default)]
    cluster: Option<Cluster>,
    #[serde(default)]
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    subjects: Vec<String>,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    leader: String,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u64,
}

/// What is asked about the stream while nobody answers for it.
#[derive(Default)]
pub(super) struct Inquiry {
    /// The subject in question, and the answer to come.
    open: Option<(String, BoxFuture<'static, Whereabouts>)>,
    last: Option<Instant>,
    /// What was found out, until an event is stored.
    pub problem: Option<String>,
}

impl Inquiry {
    /// Asks what became of the stream, unless that is being asked already.
    pub(super) fn ask(&mut self, client: &Client, stream: &str, subject: String) {
        if self.open.is_some() {
            return;
        }
        let pause = self.last.map_or(Duration::ZERO, |last| ASK_AGAIN.saturating_sub(last.elapsed()));
        let asked = resolve(client.clone(), stream.to_owned(), subject.clone());
        let answer = Box::pin(async move {
            tokio::time::sleep(pause).await;
            asked.await
        });
        self.open = Some((subject, answer));
    }

    /// Waits for the answer; for ever when nothing is asked. It must be closed then.
    pub(super) async fn answer(&mut self) -> Whereabouts {
        match &mut self.open {
            Some((_, answer)) => answer.await,
            None => std::future::pending().await,
        }
    }

    /// The subject that was asked about.
    pub(super) fn close(&mut self) -> Option<String> {
        self.last = Some(Instant::now());
        self.open.take().map(|(subject, _)| subject)
    }
}

async fn resolve(client: Client, stream: String, subject: String) -> Whereabouts {
    let asked = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into());
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok(answer)) => Whereabouts::read(&answer.payload, &subject),
        Ok(Err(_)) | Err(_) => Whereabouts::Unknown,
    }
}

impl Whereabouts {
    fn read(answer: &[u8], subject: &str) -> Self {
        let Ok(info) = serde_json::from_slice::<Info>(answer) else { return Self::Unknown };
        match (info.error, info.config) {
            (Some(error), _) if error.err_code == STREAM_NOT_FOUND => Self::Missing,
            (Some(error), _) if error.code == 503 && !OFF.contains(&error.err_code) => Self::Leaderless,
            (Some(_), _) => Self::Unknown,
            (None, Some(_)) if info.cluster.is_some_and(|cluster| cluster.leader.is_empty()) => Self::Leaderless,
            (None, Some(config)) if takes(&config.subjects, subject) => Self::Here,
            (None, Some(config)) => Self::Elsewhere(config.subjects),
            (None, None) => Self::Unknown,
        }
    }

    /// In the user's words; `None` when nothing is wrong any more.
    pub(super) fn problem(&self, stream: &str, subject: &str) -> Option<String> {
        Some(match self {
            Self::Here => return None,
            Self::Missing => {
                format!(
                    "no stream takes the subject `{subject}`: there is no stream `{stream}`; is its Topic there, and ready?"
                )
            }
            Self::Elsewhere(subjects) => format!(
                "no stream takes the subject `{subject}`: stream `{stream}` takes `{}`; let the Topic's subjects cover it",
                subjects.join("`, `")
            ),
            Self::Leaderless => {
                format!(
                    "the brokers of stream `{stream}` are choosing a leader, or too few of them are there; it is tried again"
                )
            }
            Self::Unknown => unanswered(stream),
        })
    }
}

/// The words while nothing more is known.
pub(super) fn unanswered(stream: &str) -> String {
    format!(
        "nobody takes the event: its brokers are choosing a leader, or there is no stream `{stream}` that takes the subject"
    )
}

fn takes(subjects: &[String], subject: &str) -> bool {
    let Ok(subject) = Pattern::parse(subject) else { return false };
    // A pattern that is none of ours, like a lone `>`, is given the benefit of the doubt.
    subjects.iter().any(|pattern| Pattern::parse(pattern).map_or(true, |pattern| pattern.contains(&subject)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#, "there is no stream `S`")]
    #[case(r#"{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}"#, "choosing a leader")]
    #[case(r#"{"config":{"name":"S","subjects":["a.>"]},"cluster":{"name":"c"}}"#, "choosing a leader")]
    #[case(r#"{"config":{"name":"S","subjects":["b.>"]},"cluster":{"leader":"n1"}}"#, "takes `b.>`")]
    #[case("?", "choosing a leader, or there is no stream `S`")]
    fn says_why(#[case] answer: &str, #[case] words: &str) {
        let problem = Whereabouts::read(answer.as_bytes(), "a.x").problem("S", "a.x").unwrap();
        assert!(problem.contains(words), "{problem}");
    }

    #[rstest]
    #[case(r#"{"config":{"name":"S","subjects":["a.>"]},"cluster":{"leader":"n1"}}"#)]
    #[case(r#"{"config":{"name":"S","subjects":["b","a.*"]}}"#)]
    fn is_here(#[case] answer: &str) {
        assert_eq!(Whereabouts::read(answer.as_bytes(), "a.x"), Whereabouts::Here);
    }
}
