//! What a broker notes of an event that it will not deliver again. Pure.

use serde::Deserialize;

/// An event that a Subscription's consumer has given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    pub stream: String,
    pub consumer: String,
    pub sequence: u64,
    pub tries: u64,
    pub cause: Cause,
    /// Namespace and name of the Subscription.
    pub subscription: (String, String),
}

/// Why an event is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// As often delivered as may be, and not acknowledged.
    Exhausted,
    /// The consumer has said that it will never take it, and perhaps why.
    Terminated(String),
}

/// What brokers write for a reason where they terminate a delivery themselves, since the event has left the stream. That
/// is the Topic's retention at work, and nobody's failure.
const REMOVED: [&str; 2] = ["Message deleted by stream limits", "Unacknowledged message was deleted"];

#[derive(Deserialize)]
struct Note {
    #[serde(rename = "type")]
    kind: String,
    stream: String,
    consumer: String,
    stream_seq: u64,
    #[serde(default)]
    deliveries: u64,
    #[serde(default)]
    reason: String,
}

/// Reads a note; `None` for one that is not about an event that a Subscription has given up.
#[must_use]
pub fn read(note: &[u8]) -> Option<GivenUp> {
    let Note { kind, stream, consumer, stream_seq, deliveries, reason } = serde_json::from_slice(note).ok()?;
    let cause = match kind.rsplit('.').next()? {
        "max_deliver" => Cause::Exhausted,
        "terminated" if !REMOVED.contains(&reason.as_str()) => Cause::Terminated(reason),
        _ => return None,
    };
    let (namespace, name) = consumer.strip_prefix("sub_")?.split_once('_')?;
    let subscription = (namespace.to_owned(), name.to_owned());
    Some(GivenUp { stream, sequence: stream_seq, tries: deliveries, cause, subscription, consumer })
}

impl std::fmt::Display for GivenUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.cause {
            Cause::Exhausted => write!(f, "not acknowledged in {} tries", self.tries),
            Cause::Terminated(reason) if reason.is_empty() => f.write_str("terminated by the consumer"),
            Cause::Terminated(reason) => write!(f, "terminated by the consumer: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn note(kind: &str, consumer: &str, reason: &str) -> Vec<u8> {
        let note: Value = json!({
            "type": format!("io.nats.jetstream.advisory.v1.{kind}"), "id": "x", "timestamp": "2026-11-24T14:41:11.39Z",
            "stream": "shop_accounts", "consumer": consumer, "stream_seq": 7, "deliveries": 3, "reason": reason,
        });
        note.to_string().into_bytes()
    }

    #[rstest]
    #[case("max_deliver", "", "not acknowledged in 3 tries")]
    #[case("terminated", "", "terminated by the consumer")]
    #[case("terminated", "no such account", "terminated by the consumer: no such account")]
    fn tells_whose_event_it_is_and_why(#[case] kind: &str, #[case] reason: &str, #[case] cause: &str) {
        let given_up = read(&note(kind, "sub_shop_ledger", reason)).expect("a note");
        assert_eq!(given_up.subscription, ("shop".to_owned(), "ledger".to_owned()));
        assert_eq!((given_up.stream.as_str(), given_up.sequence), ("shop_accounts", 7));
        assert_eq!(given_up.to_string(), cause);
    }

    #[rstest]
    #[case("max_deliver", "bridge_shop_factory_commands", "")]
    #[case("max_deliver", "by-hand", "")]
    #[case("terminated", "sub_shop_ledger", "Message deleted by stream limits")]
    #[case("terminated", "sub_shop_ledger", "Unacknowledged message was deleted")]
    #[case("nak", "sub_shop_ledger", "")]
    fn leaves_what_is_nobodys_failure(#[case] kind: &str, #[case] consumer: &str, #[case] reason: &str) {
        assert_eq!(read(&note(kind, consumer, reason)), None);
    }

    #[test]
    fn rubbish_is_no_note() {
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(b"\xff"), None);
    }
}
