//! What is known of the dead letters of each Subscription in the life of this process: how many, what stands in their way,
//! and what has to be told. Pure; the clock is passed in.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// First and longest time between two tries to store a dead letter of one Subscription.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Least time between two Events about one Subscription.
const QUIET: Duration = Duration::from_mins(1);

/// A Subscription: namespace, name and uid, so that a new one of the same name begins anew.
pub type Key = (String, String, String);

/// How it stands with a Subscription's dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Number of the last one; absent while none has been stored in the life of this process.
    pub count: Option<u64>,
    /// When the last one was stored.
    pub last: Option<String>,
    /// Why the next one cannot be stored.
    pub trouble: Option<String>,
}

/// What to tell in an Event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// Events stored as dead letters since the last Event, and why the last of them was given up.
    pub moved: u64,
    pub cause: String,
    /// Events that had left their Topic before they could be moved, and why the last of them was given up.
    pub gone: u64,
    pub gone_cause: String,
}

#[derive(Debug, Default)]
struct Entry {
    standing: Standing,
    wait: Duration,
    until: Option<Instant>,
    /// Whether the status may differ from this.
    changed: bool,
    news: News,
    told: Option<Instant>,
}

/// Shared by the task that moves events and the Subscription controller.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<BTreeMap<Key, Entry>>,
    changed: Notify,
}

impl Ledger {
    pub fn standing(&self, key: &Key) -> Standing {
        self.entries().get(key).map(|entry| entry.standing.clone()).unwrap_or_default()
    }

    /// How long to leave a Subscription's dead letters alone.
    pub fn waits(&self, key: &Key, now: Instant) -> Option<Duration> {
        let until = self.entries().get(key)?.until?;
        (until > now).then(|| until - now)
    }

    /// The dead letter of this number is stored.
    pub fn moved(&self, key: &Key, number: u64, time: &str, cause: &str) {
        self.change(key, |entry| {
            let known = entry.standing.count.is_some_and(|count| count >= number);
            entry.standing = Standing { count: Some(number), last: Some(time.to_owned()), trouble: None };
            (entry.wait, entry.until) = (Duration::ZERO, None);
            if !known {
                entry.news.moved += 1;
                cause.clone_into(&mut entry.news.cause);
            }
        });
    }

    /// An event had left its Topic before it could be moved.
    pub fn gone(&self, key: &Key, cause: &str) {
        self.change(key, |entry| {
            (entry.standing.trouble, entry.wait, entry.until) = (None, Duration::ZERO, None);
            entry.news.gone += 1;
            cause.clone_into(&mut entry.news.gone_cause);
        });
    }

    /// The Subscription has no dead letters any more.
    pub fn forget(&self, key: &Key) {
        self.entries().remove(key);
    }

    /// A dead letter could not be stored; returns how long to wait.
    pub fn failed(&self, key: &Key, problem: String, now: Instant) -> Duration {
        let mut wait = FIRST_WAIT;
        self.change(key, |entry| {
            wait = (entry.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            (entry.wait, entry.until) = (wait, Some(now + wait));
            entry.standing.trouble = Some(problem);
        });
        wait
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        change(entry);
        entry.changed = true;
        self.changed.notify_one();
    }

    /// Waits until something has changed.
    pub async fn until_changed(&self) {
        self.changed.notified().await;
    }

    /// The Subscriptions whose status should be written; each once. Those that are gone are forgotten.
    pub fn take_changes(&self, exists: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut entries = self.entries();
        entries.retain(|key, _| exists(key));
        let take = |(key, entry): (&Key, &mut Entry)| std::mem::take(&mut entry.changed).then(|| key.clone());
        entries.iter_mut().filter_map(take).collect()
    }

    /// What there is to tell now, at most once in a while of each Subscription.
    pub fn take_news(&self, now: Instant) -> Vec<(Key, News)> {
        let mut entries = self.entries();
        let due = entries.iter_mut().filter(|(_, entry)| due(entry, now).is_some_and(|at| at <= now));
        due.map(|(key, entry)| {
            entry.told = Some(now);
            (key.clone(), std::mem::take(&mut entry.news))
        })
        .collect()
    }

    /// When there is next something to tell; `None`: when something changes.
    pub fn next_news(&self, now: Instant) -> Option<Instant> {
        self.entries().values().filter_map(|entry| due(entry, now)).min()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When there is something to tell: now, or when it has been quiet for long enough.
fn due(entry: &Entry, now: Instant) -> Option<Instant> {
    let quiet = entry.told.map_or(now, |told| told + QUIET);
    (entry.news.moved + entry.news.gone > 0).then_some(quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        ("shop".into(), "ledger".into(), "u".into())
    }

    #[test]
    fn waits_grow_and_end_with_a_success() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let waits: Vec<u64> = (0..8).map(|_| ledger.failed(&key(), "full".into(), now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(ledger.waits(&key(), now), Some(LONGEST_WAIT));
        assert_eq!(ledger.waits(&key(), now + LONGEST_WAIT), None);
        assert_eq!(ledger.standing(&key()).trouble.as_deref(), Some("full"));
        ledger.moved(&key(), 5, "then", "why");
        assert_eq!(ledger.waits(&key(), now), None);
        assert_eq!(ledger.standing(&key()), Standing { count: Some(5), last: Some("then".into()), trouble: None });
        assert_eq!(ledger.failed(&key(), "full".into(), now), FIRST_WAIT);
        ledger.gone(&key(), "why");
        assert_eq!(
            (ledger.waits(&key(), now), ledger.standing(&key()).trouble),
            (None, None),
            "nothing waits any more"
        );
    }

    #[test]
    fn one_event_a_minute_with_the_count() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        ledger.moved(&key(), 1, "t", "a");
        assert_eq!(ledger.take_news(now).len(), 1);
        ledger.moved(&key(), 2, "t", "b");
        ledger.gone(&key(), "c");
        ledger.moved(&key(), 3, "t", "d");
        assert!(ledger.take_news(now).is_empty());
        assert_eq!(ledger.next_news(now), Some(now + QUIET));
        let news = News { moved: 2, cause: "d".into(), gone: 1, gone_cause: "c".into() };
        assert_eq!(ledger.take_news(now + QUIET), [(key(), news)]);
        assert_eq!(ledger.next_news(now), None);
    }

    #[test]
    fn a_letter_that_is_known_is_no_news() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        ledger.moved(&key(), 1, "t", "a");
        ledger.take_news(now);
        ledger.moved(&key(), 1, "t", "a");
        assert_eq!(ledger.next_news(now), None);
        assert_eq!(ledger.standing(&key()).count, Some(1));
    }

    #[test]
    fn changes_are_told_once_and_what_is_gone_is_forgotten() {
        let ledger = Ledger::default();
        ledger.moved(&key(), 1, "t", "a");
        assert_eq!(ledger.take_changes(|_| true), [key()]);
        assert!(ledger.take_changes(|_| true).is_empty());
        ledger.moved(&key(), 2, "t", "a");
        assert!(ledger.take_changes(|_| false).is_empty());
        assert_eq!(ledger.standing(&key()), Standing::default());
    }
}
