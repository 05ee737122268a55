//! The rules of a lease: who may carry events, and until when. Pure; the time is passed in.
//!
//! The lease is one record in the mesh, which is only ever replaced by who names the number of the record that it replaces.
//! A holder replaces its own again and again. Whoever waits may replace another's only after having seen the same number
//! for as long as the record says, by its own clock: the holder has then not renewed it for at least that long, and has
//! stopped by itself a good while before. No two clocks are compared, and those of the brokers count for nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: since the machine started, the time included in which it, or the process, was asleep.
pub type At = Duration;

/// What a holder writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The pod.
    pub holder: String,
    /// The process: a pod that is started again is another holder.
    pub token: String,
    /// How long others wait after they have seen it.
    pub ttl_ms: u64,
    /// Given back: nobody has to wait.
    #[serde(default)]
    pub free: bool,
}

/// A record and its number in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// 0: there is no record.
    pub sequence: u64,
    pub record: Option<Record>,
}

enum State {
    Waiting {
        /// What was seen last, and when it was seen first.
        seen: Option<(Seen, At)>,
    },
    Holding {
        sequence: u64,
        until: At,
    },
}

/// One process's part in the game.
pub struct Term {
    pod: String,
    token: String,
    ttl: Duration,
    state: State,
}

impl Term {
    #[must_use]
    pub fn new(pod: String, token: String, ttl: Duration) -> Self {
        Self { pod, token, ttl, state: State::Waiting { seen: None } }
    }

    #[must_use]
    pub fn is_holding(&self) -> bool {
        matches!(self.state, State::Holding { .. })
    }

    /// Until when this process may carry events; [`Duration::ZERO`] when it does not hold the lease.
    #[must_use]
    pub fn until(&self) -> At {
        match self.state {
            State::Holding { until, .. } => until,
            State::Waiting { .. } => Duration::ZERO,
        }
    }

    /// Who holds it, as far as is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let State::Waiting { seen: Some((seen, _)) } = &self.state else { return None };
        seen.record.as_ref().filter(|record| !record.free).map(|record| record.holder.as_str())
    }

    /// The number of the record that may be replaced now.
    #[must_use]
    pub fn replaceable(&self, now: At) -> Option<u64> {
        match &self.state {
            State::Holding { sequence, .. } => Some(*sequence),
            State::Waiting { seen: Some((seen, first)) } => {
                (now >= *first + self.patience(seen)).then_some(seen.sequence)
            }
            State::Waiting { seen: None } => None,
        }
    }

    /// When [`Term::replaceable`] may change without anything being seen.
    #[must_use]
    pub fn due(&self) -> Option<At> {
        let State::Waiting { seen: Some((seen, first)) } = &self.state else { return None };
        Some(*first + self.patience(seen))
    }

    /// How long a record must have stood still. That there is none means nothing: the mesh may have lost it.
    fn patience(&self, seen: &Seen) -> Duration {
        match &seen.record {
            // Of this very pod: an earlier process, which has ended before this one was started, or a write of which it
            // never heard.
            Some(record) if record.free || record.holder == self.pod => Duration::ZERO,
            Some(record) => Duration::from_millis(record.ttl_ms).max(self.ttl),
            None => self.ttl,
        }
    }

    /// The record was read, and the answer came at `now`.
    pub fn saw(&mut self, found: Seen, now: At) {
        match &mut self.state {
            State::Waiting { seen: Some((seen, _)) } if seen.sequence == found.sequence => *seen = found,
            // A lower number is an answer of a broker that is behind, or the mesh has lost the record: both end.
            State::Waiting { seen } => *seen = Some((found, now)),
            State::Holding { sequence, until } => {
                let own = found.record.as_ref().is_some_and(|record| record.token == self.token);
                if own && found.sequence > *sequence {
                    // A renewal of which it never heard. It counts only once it was followed by one that was answered.
                    *sequence = found.sequence;
                } else if !own && (found.sequence > *sequence || now >= *until) {
                    self.state = State::Waiting { seen: Some((found, now)) };
                }
            }
        }
    }

    /// This process's record was stored under a number; it was on its way since `sent`.
    pub fn stored(&mut self, sequence: u64, sent: At) {
        // A quarter early, for clocks that do not run alike.
        self.state = State::Holding { sequence, until: sent + self.ttl * 3 / 4 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> At {
        Duration::from_secs(1_000) + Duration::from_millis(ms)
    }

    fn record(token: &str) -> Record {
        Record { holder: format!("pod-{token}"), token: token.to_owned(), ttl_ms: 2_000, free: false }
    }

    fn seen(sequence: u64, token: &str) -> Seen {
        Seen { sequence, record: Some(record(token)) }
    }

    #[test]
    fn what_another_renews_is_never_replaced() {
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        for round in 0..100 {
            term.saw(seen(round + 1, "other"), at(round * 1_900));
            assert_eq!(term.replaceable(at(round * 1_900 + 1_899)), None);
        }
        assert_eq!(term.holder(), Some("pod-other"));
    }

    #[test]
    fn a_record_that_stood_still_for_its_time_is_replaced_and_no_sooner() {
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        term.saw(seen(7, "other"), at(0));
        term.saw(seen(7, "other"), at(1_500));
        assert_eq!((term.replaceable(at(1_999)), term.replaceable(at(2_000))), (None, Some(7)));
        assert_eq!(term.due(), Some(at(2_000)), "counted from when it was seen first");
    }

    #[test]
    fn the_holder_stops_before_anybody_may_replace_it() {
        let mut holder = Term::new("pod-me".into(), "me".into(), TTL);
        holder.stored(7, at(0));
        let mut other = Term::new("pod-other".into(), "other".into(), TTL);
        // Seen as early as can be: at the moment it was sent.
        other.saw(seen(7, "me"), at(0));
        assert!(other.due().is_some_and(|due| due >= holder.until() + TTL / 4));
    }

    #[test]
    fn the_longer_of_two_times_counts() {
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        let slow = Record { ttl_ms: 5_000, ..record("other") };
        term.saw(Seen { sequence: 1, record: Some(slow) }, at(0));
        assert_eq!((term.replaceable(at(4_999)), term.replaceable(at(5_000))), (None, Some(1)));
    }

    #[test]
    fn what_was_given_back_is_free_at_once_and_what_is_not_there_is_not() {
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        term.saw(Seen { sequence: 9, record: Some(Record { free: true, ..record("other") }) }, at(0));
        assert_eq!((term.replaceable(at(0)), term.holder()), (Some(9), None));
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        term.saw(Seen { sequence: 0, record: None }, at(0));
        assert_eq!((term.replaceable(at(1_999)), term.replaceable(at(2_000))), (None, Some(0)));
    }

    #[test]
    fn a_pod_that_is_started_again_does_not_wait_for_itself() {
        let mut term = Term::new("pod-me".into(), "next".into(), TTL);
        term.saw(seen(3, "me"), at(0));
        assert_eq!(term.replaceable(at(0)), Some(3));
    }

    #[test]
    fn a_renewal_without_an_answer_prolongs_nothing() {
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        term.stored(3, at(0));
        let until = term.until();
        // It was stored as 4, and the answer got lost.
        term.saw(seen(4, "me"), at(600));
        assert!(term.is_holding());
        assert_eq!((term.replaceable(at(600)), term.until()), (Some(4), until));
        term.stored(5, at(700));
        assert!(term.until() > until);
    }

    #[test]
    fn another_s_record_ends_it_and_an_old_answer_does_not() {
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        term.stored(5, at(0));
        term.saw(seen(4, "other"), at(100));
        assert!(term.is_holding(), "from before it was mine");
        term.saw(seen(6, "other"), at(200));
        assert_eq!((term.is_holding(), term.until()), (false, Duration::ZERO));
        assert_eq!(term.replaceable(at(2_100)), None);
    }

    #[test]
    fn a_record_that_the_mesh_lost_ends_it() {
        let mut term = Term::new("pod-me".into(), "me".into(), TTL);
        term.stored(5, at(0));
        let nothing = || Seen { sequence: 0, record: None };
        term.saw(nothing(), at(100));
        assert!(term.is_holding(), "one broker may be behind; nobody may take it for two seconds");
        term.saw(nothing(), at(1_500));
        assert!(!term.is_holding());
        assert_eq!((term.replaceable(at(3_499)), term.replaceable(at(3_500))), (None, Some(0)));
    }
}
