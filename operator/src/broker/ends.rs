//! Why the last connection of a link ended, or came to nothing: a broker tells it of each that it has opened or let in, as an
//! event of the account of the link, where nobody signs in but brokers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::Message;
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::{BrokerChange, MeshBroker};

/// An end, in the broker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub reason: String,
    /// Of the first of several that ended for the same reason.
    pub time: Timestamp,
}

/// Brokers dial every second, and reasons can take turns: so long one stays that was told.
const STAYS: Duration = Duration::from_secs(10);

/// By the account of the link.
pub type EndsByAccount = BTreeMap<String, End>;

/// Who listens for which account, and what was heard last.
#[derive(Default)]
pub(super) struct Ends {
    listeners: BTreeMap<String, AbortOnDropHandle<()>>,
    last: BTreeMap<String, (End, Instant)>,
}

impl Ends {
    /// For a connection that takes the place of another.
    pub(super) fn of(before: &Mutex<Self>) -> Self {
        let last = before.lock().unwrap_or_else(PoisonError::into_inner).last.clone();
        Self { last, ..Self::default() }
    }

    /// True when there is something new to tell.
    fn note(&mut self, account: &str, end: End, now: Instant) -> bool {
        let is_known = |(last, heard): &(End, Instant)| last.reason == end.reason || now - *heard < STAYS;
        if self.last.get(account).is_some_and(is_known) {
            return false;
        }
        self.last.insert(account.to_owned(), (end, now));
        true
    }
}

#[derive(Deserialize)]
struct Disconnect {
    reason: String,
    timestamp: Timestamp,
}

impl MeshBroker {
    /// Listens for the links of these accounts from now on, and for no others.
    pub fn hear_ends(self: &Arc<Self>, accounts: &BTreeSet<String>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.listeners.retain(|account, _| accounts.contains(account));
        ends.last.retain(|account, _| accounts.contains(account));
        for account in accounts {
            let listen = || AbortOnDropHandle::new(tokio::spawn(listen(self.clone(), account.clone())));
            ends.listeners.entry(account.clone()).or_insert_with(listen);
        }
    }

    /// What was heard last.
    pub fn ends(&self) -> EndsByAccount {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.last.iter().map(|(account, (end, _))| (account.clone(), end.clone())).collect()
    }
}

/// Runs until nobody wants to know any more, or the mesh is removed.
async fn listen(broker: Arc<MeshBroker>, account: String) {
    let mut events = match broker.system.subscribe(format!("$SYS.ACCOUNT.{account}.DISCONNECT")).await {
        Ok(events) => events,
        Err(error) => return debug!(mesh = %broker.key(), %error, "cannot listen for the ends of a link"),
    };
    loop {
        let event = tokio::select! {
            () = broker.stop().cancelled() => return,
            event = events.next() => event,
        };
        let Some(event) = event else { return };
        let Some(end) = read(&event) else { continue };
        if broker.ends.lock().unwrap_or_else(PoisonError::into_inner).note(&account, end, Instant::now()) {
            broker.announce(BrokerChange::Health);
        }
    }
}

fn read(event: &Message) -> Option<End> {
    let Disconnect { reason, timestamp } = serde_json::from_slice(&event.payload).ok()?;
    Some(End { reason, time: timestamp })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(reason: &str, second: i64) -> End {
        End { reason: reason.to_owned(), time: Timestamp::from_second(second).expect("a time") }
    }

    #[test]
    fn what_is_told_is_new_and_not_every_second() {
        let (mut ends, now) = (Ends::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(ends.note("A", end("TLS Handshake Failure", 1), now));
        assert!(!ends.note("A", end("TLS Handshake Failure", 20), after(20)), "the same");
        assert!(ends.note("B", end("TLS Handshake Failure", 20), after(20)));
        assert!(ends.note("A", end("Client Closed", 21), after(21)));
        assert!(!ends.note("A", end("Read Error", 22), after(22)), "it may go on like this");
        assert!(ends.note("A", end("Read Error", 31), after(31)));
        assert_eq!(ends.last["A"].0, end("Read Error", 31));
    }
}
