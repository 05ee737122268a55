//! What crosses a link for a copy of a Topic: subjects, headers, and what the side that sends tells of how it stands.
//!
//! The stream is always that of the Topic that is copied; its name is one token.

use serde::{Deserialize, Serialize};

/// Header of an event of a copy: where it comes from, as [`Place`] writes it.
pub const HEADER_PLACE: &str = "Em-Source";

/// Header with the de-duplication id that the event had where it comes from.
pub const HEADER_ID: &str = "Em-Source-Id";

/// Where an event for a copy is sent.
#[must_use]
pub fn event_subject(stream: &str, subject: &str) -> String {
    format!("$EM.copy.{stream}.{subject}")
}

/// Where the sender asks for the last event that the copy holds.
#[must_use]
pub fn last_subject(stream: &str) -> String {
    format!("$EM.last.{stream}")
}

/// Where the sender tells how it stands.
#[must_use]
pub fn told_subject(stream: &str) -> String {
    format!("$EM.told.{stream}")
}

/// The same where it arrives: in the account of the mesh that holds the copy, by the stream of the copy.
#[must_use]
pub fn heard_subject(stream: &str) -> String {
    format!("$EM.copied.{stream}")
}

/// What the sender of a copy tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyReport {
    /// Events of the Topic that the copy does not have yet.
    pub lag: u64,
    /// What keeps it from catching up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Where an event stands in the Topic that it comes from: the stream, when that was made (one that is made anew counts from 1
/// again), and the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub stream: String,
    pub created: String,
    pub number: u64,
}

impl Place {
    /// Reads what [`Place`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (stream, created, number) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then(|| Self { stream: stream.to_owned(), created: created.to_owned(), number })
    }

    /// Whether a copy that holds `last` has this event, or is past it.
    #[must_use]
    pub fn is_in(&self, last: Option<&Self>) -> bool {
        last.is_some_and(|last| {
            (&last.stream, &last.created) == (&self.stream, &self.created) && self.number <= last.number
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.stream, self.created, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(created: &str, number: u64) -> Place {
        Place { stream: "plant_orders".to_owned(), created: created.to_owned(), number }
    }

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let written = place("2026-11-28T05:00:00.123456789Z", 42).to_string();
        assert_eq!(written, "plant_orders/2026-11-28T05:00:00.123456789Z/42");
        assert_eq!(Place::parse(&written), Some(place("2026-11-28T05:00:00.123456789Z", 42)));
        for other in ["", "a/b", "a/b/c", "a/b/1/2"] {
            assert_eq!(Place::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_stream_that_was_made_anew_is_another() {
        let last = place("t", 5);
        assert!(place("t", 5).is_in(Some(&last)) && place("t", 1).is_in(Some(&last)));
        assert!(!place("t", 6).is_in(Some(&last)) && !place("t", 1).is_in(None));
        assert!(!place("u", 1).is_in(Some(&last)), "it counts from 1 again");
    }
}
