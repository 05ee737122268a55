//! What the far sides of links tell of the copies in a mesh, kept with the time at which it was heard.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use eventmesh_wire::copy::{CopyReport, heard_subject};
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use super::{BrokerChange, BrokerError, MeshBroker};

/// Age at which a word no longer counts: senders speak every few seconds.
const FRESH: Duration = Duration::from_secs(30);
/// Least time between two announcements of one copy when only its lag moved.
const QUIET: Duration = Duration::from_secs(5);

/// The latest word of each sender, by the stream of the copy.
#[derive(Debug, Clone, Default)]
pub struct Copies(BTreeMap<String, Word>);

#[derive(Debug, Clone)]
struct Word {
    report: CopyReport,
    heard: Instant,
    announced: Instant,
    /// What is known has moved since the last announcement.
    stale: bool,
}

impl Copies {
    /// What was told of a copy, and not too long ago.
    #[must_use]
    pub fn of(&self, stream: &str, now: Instant) -> Option<CopyReport> {
        let word = self.0.get(stream).filter(|word| now.duration_since(word.heard) < FRESH)?;
        Some(word.report.clone())
    }

    /// Stores a word; true when the Topic should look at it now.
    fn put(&mut self, stream: &str, report: CopyReport, now: Instant) -> bool {
        let before = self.0.get(stream);
        let moved = before.is_none_or(|before| before.stale || before.report != report);
        let turned = before.is_none_or(|before| {
            before.report.problem.is_some() != report.problem.is_some() || (before.report.lag == 0) != (report.lag == 0)
        });
        let quiet = before.is_some_and(|before| now.duration_since(before.announced) < QUIET);
        let look = turned || (moved && !quiet);
        let announced = if look { now } else { before.map_or(now, |before| before.announced) };
        self.0.insert(stream.to_owned(), Word { report, heard: now, announced, stale: moved && !look });
        look
    }

    /// Drops what is too old; returns the streams of the copies that should look, or whose last word was not looked at.
    fn sweep(&mut self, now: Instant) -> Vec<String> {
        let silent = |word: &Word| now.duration_since(word.heard) >= FRESH;
        let late = |word: &Word| word.stale && now.duration_since(word.announced) >= QUIET;
        let due =
            self.0.iter().filter(|(_, word)| silent(word) || late(word)).map(|(stream, _)| stream.clone()).collect();
        self.0.retain(|_, word| !silent(word));
        for word in self.0.values_mut().filter(|word| late(word)) {
            (word.announced, word.stale) = (now, false);
        }
        due
    }
}

/// Listens until the mesh is removed.
pub(super) async fn run(broker: Arc<MeshBroker>) -> Result<(), BrokerError> {
    let subscribed = broker.client.subscribe(heard_subject("*")).await;
    let mut messages = subscribed.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
    let mut ticks = interval(QUIET);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = broker.stop().cancelled() => return Ok(()),
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                let Some(stream) = message.subject.strip_prefix(&heard_subject("")) else { continue };
                match serde_json::from_slice::<CopyReport>(&message.payload) {
                    Ok(report) => if lock(&broker).put(stream, report, Instant::now()) {
                        broker.announce(BrokerChange::Copy(stream.to_owned()));
                    },
                    Err(error) => warn!(mesh = %broker.key(), subject = %message.subject, %error, "unreadable word of a copy"),
                }
            }
            _ = ticks.tick() => {
                let due = lock(&broker).sweep(Instant::now());
                for stream in due {
                    broker.announce(BrokerChange::Copy(stream));
                }
            }
        }
    }
}

fn lock(broker: &MeshBroker) -> MutexGuard<'_, Copies> {
    broker.copies.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(lag: u64) -> CopyReport {
        CopyReport { lag, problem: None }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_announced_at_once_and_numbers_after_a_while() {
        let mut copies = Copies::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(copies.put("s", lag(5), start), "the first");
        assert!(!copies.put("s", lag(4), after(1)), "numbers only");
        assert_eq!(copies.sweep(after(5)), ["s"], "the last word was not looked at");
        assert!(copies.sweep(after(6)).is_empty());
        assert!(copies.put("s", lag(0), after(7)), "it has caught up");
        let blocked = CopyReport { lag: 0, problem: Some("full".to_owned()) };
        assert!(copies.put("s", blocked.clone(), after(8)), "it is blocked");
        assert!(!copies.put("s", blocked, after(20)), "nothing moved");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_announced_once() {
        let mut copies = Copies::default();
        let start = Instant::now();
        copies.put("s", lag(0), start);
        assert_eq!(copies.of("s", start), Some(lag(0)));
        assert_eq!(copies.sweep(start + FRESH), ["s"]);
        assert!(copies.sweep(start + FRESH * 2).is_empty());
        assert_eq!(copies.of("s", start), None);
    }
}
