//! What a stream answers to a publish, and what follows from it.

use async_nats::{Message, StatusCode};
use serde::Deserialize;

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    stream: Option<std::borrow::Cow<'a, str>>,
    /// Events stored of a batch.
    #[serde(default)]
    count: Option<u64>,
    /// Only in the flow control of fast ingest.
    #[serde(rename = "type", default)]
    kind: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    error: Option<ApiError>,
}

#[derive(Deserialize, Debug, Clone)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// The meaning of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Stored; of a batch, this many.
    Stored(Option<u64>),
    /// Flow control of fast ingest; nothing is decided by it.
    Progress,
    /// Nothing wrong with the events; the batch as such was not wanted. `for_good`: no other batch will be either.
    BatchRefused { for_good: bool, problem: String },
    /// Nobody took it: there is no such stream, or it has no leader now.
    Nobody,
    /// It may work later.
    Refused(String),
    /// It can not work for this event.
    Unacceptable(String),
}

/// Atomic batches or fast ingest are not allowed on the stream.
const BATCHES_NOT_ALLOWED: [u64; 2] = [10174, 10205];
/// Everything else that can be wrong with a batch and not with its events.
const BATCH_PROBLEMS: [u64; 13] =
    [10175, 10176, 10177, 10179, 10199, 10200, 10201, 10206, 10207, 10208, 10210, 10211, 10164];
/// The event is larger than the stream's or the account's limit for one.
const TOO_LARGE: [u64; 2] = [10054, 10124];

impl Answer {
    pub(super) fn read(message: &Message, stream: &str) -> Self {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::Nobody;
        }
        match serde_json::from_slice::<Wire<'_>>(&message.payload) {
            Ok(wire) => Self::of(wire, stream),
            Err(_) => Self::Refused("the mesh answered with something that is not an acknowledgement".to_owned()),
        }
    }

    fn of(wire: Wire<'_>, stream: &str) -> Self {
        if let Some(error) = wire.error {
            let problem = format!("{} ({})", error.description, error.err_code);
            return match error.err_code {
                code if BATCHES_NOT_ALLOWED.contains(&code) => Self::BatchRefused { for_good: true, problem },
                code if BATCH_PROBLEMS.contains(&code) => Self::BatchRefused { for_good: false, problem },
                code if TOO_LARGE.contains(&code) => Self::Unacceptable(problem),
                _ => Self::Refused(format!("stream `{stream}` refused the event: {problem}")),
            };
        }
        if wire.kind.is_some() {
            return Self::Progress;
        }
        match wire.stream {
            Some(stored) if stored == stream => Self::Stored(wire.count),
            Some(stored) => {
                Self::Refused(format!("the subject is stored by stream `{stored}`, not by `{stream}` as configured"))
            }
            None => Self::Progress,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"stream":"S","seq":1}"#, Answer::Stored(None))]
    #[case(r#"{"stream":"S","seq":9,"batch":"b","count":9}"#, Answer::Stored(Some(9)))]
    #[case(r#"{"stream":"S","seq":1,"duplicate":true}"#, Answer::Stored(None))]
    #[case(r#"{"type":"ack","seq":5,"msgs":10}"#, Answer::Progress)]
    fn reads(#[case] text: &str, #[case] expected: Answer) {
        assert_eq!(Answer::of(serde_json::from_str(text).unwrap(), "S"), expected);
    }

    #[rstest]
    #[case(10077, "refused")]
    #[case(10054, "unacceptable")]
    #[case(10174, "for good")]
    #[case(10201, "batch")]
    fn classifies_errors(#[case] code: u64, #[case] class: &str) {
        let text = format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"d"}},"stream":"S","seq":0}}"#);
        let found = match Answer::of(serde_json::from_str(&text).unwrap(), "S") {
            Answer::Refused(_) => "refused",
            Answer::Unacceptable(_) => "unacceptable",
            Answer::BatchRefused { for_good: true, .. } => "for good",
            Answer::BatchRefused { .. } => "batch",
            other => unreachable!("{other:?}"),
        };
        assert_eq!(found, class);
    }

    #[test]
    fn another_stream_is_no_delivery() {
        let answer = Answer::of(serde_json::from_str(r#"{"stream":"other","seq":1}"#).unwrap(), "S");
        assert!(matches!(answer, Answer::Refused(problem) if problem.contains("`other`")));
    }
}
