//! What a data-plane pod tells the operator: its connections, and the state and the books of each route.
//!
//! A report is a whole picture, never a difference, so one that is lost costs nothing. It is published on
//! the report subject of the pod (see [`crate::names`]) without being stored.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The only version there is.
pub const REPORT_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Always [`REPORT_VERSION`].
    pub version: u32,
    pub bridge: BridgeRef,
    pub pod: String,
    /// SHA-256 of the configuration that is running, in hex: see [`crate::config_hash`].
    pub config_hash: String,
    /// When this report was made, in whole seconds.
    pub at: Timestamp,
    pub connected: Connected,
    /// Only where one pod at a time carries events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseReport>,
    /// Set while the file on disk can not be used and an older configuration keeps running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_problem: Option<String>,
    pub routes: Vec<RouteReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The two sides of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    pub mesh: bool,
    pub endpoint: bool,
    /// Why the endpoint is not connected, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_error: Option<LastError>,
}

/// Whether the pod is the one that carries events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseReport {
    pub active: bool,
    /// The pod that is, as far as this one knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Why it can not find out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    pub name: String,
    pub direction: Direction,
    pub state: RouteState,
    /// Since when it is in this state.
    pub since: Timestamp,
    pub counters: Counters,
    /// Tries beyond the first.
    pub retries: u64,
    /// Times the route was started again after its first start.
    pub restarts: u64,
    /// Events waiting on the source's side, where the source can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    /// The name used in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RouteState {
    /// One of the two sides is not there yet, or is away.
    Connecting,
    Running,
    /// The user asked for it.
    Paused,
    /// Another pod carries the events; this one takes over when that one is gone.
    Standby,
    /// Both sides are there, and an event can not be delivered: it is tried again, and nothing is lost.
    Blocked,
    /// It can not work as configured; `lastError` says why. It is tried again slowly.
    Failed,
}

impl RouteState {
    pub const ALL: [Self; 6] =
        [Self::Connecting, Self::Running, Self::Paused, Self::Standby, Self::Blocked, Self::Failed];

    /// The name used in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Standby => "standby",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
        }
    }
}

/// The books of a route since the pod started: `received = delivered + filtered + deadLettered + dropped + inFlight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    pub received: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub dead_lettered: u64,
    /// Only with the guarantee `AtMostOnce`.
    pub dropped: u64,
    pub in_flight: u64,
}

impl Counters {
    /// For any numbers: a report is what somebody has sent.
    #[must_use]
    pub fn balances(&self) -> bool {
        let parts = [self.delivered, self.filtered, self.dead_lettered, self.dropped, self.in_flight];
        u128::from(self.received) == parts.into_iter().map(u128::from).sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    pub message: String,
    pub at: Timestamp,
}

/// A point in time as reports carry it: whole seconds.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_of_any_size_can_be_looked_at() {
        let books = Counters { received: 1, delivered: u64::MAX, in_flight: 2, ..Counters::default() };
        assert!(!books.balances(), "a sum that wraps around is no balance");
        assert!(Counters { received: u64::MAX, delivered: u64::MAX, ..Counters::default() }.balances());
    }

    #[test]
    fn times_are_rfc3339_in_whole_seconds() {
        let error =
            LastError { message: "away".into(), at: whole_seconds(Timestamp::from_millisecond(1_500).unwrap()) };
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"message":"away","at":"1970-01-01T00:00:01Z"}"#);
    }
}
