//! What was published on a channel and is not confirmed yet.
//!
//! A broker counts publications and confirms them by number; a message that it can not route it sends back before it
//! confirms it, without its number. It is recognised by what it says. Two that say the same are the same to everybody, so
//! it does not matter which of them comes back.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use tokio::sync::oneshot;

use super::Closed;

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// The broker is responsible for it now.
    Stored,
    /// The broker could not take it (basic.nack).
    NotTaken,
    /// No queue is bound for it.
    Returned(String),
    /// The channel was closed before the broker said what became of it.
    Closed(Closed),
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    pub fn of(exchange: &str, key: &str, message_id: &str, body: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        (exchange, key, message_id, body).hash(&mut hasher);
        Self(hasher.finish())
    }
}

struct Pending {
    fingerprint: Fingerprint,
    size: usize,
    returned: Option<String>,
    answer: oneshot::Sender<Confirmation>,
}

/// The publications of one channel.
#[derive(Default)]
pub struct Confirms {
    last: u64,
    pending: BTreeMap<u64, Pending>,
}

impl Confirms {
    /// Counts a publication.
    pub fn publish(&mut self, fingerprint: Fingerprint, size: usize) -> oneshot::Receiver<Confirmation> {
        let (answer, answered) = oneshot::channel();
        self.last += 1;
        self.pending.insert(self.last, Pending { fingerprint, size, returned: None, answer });
        answered
    }

    /// A message came back; false when nobody published it.
    pub fn returned(&mut self, fingerprint: Fingerprint, reason: &str) -> bool {
        let found = self.pending.values_mut().find(|one| one.fingerprint == fingerprint && one.returned.is_none());
        found.map(|one| one.returned = Some(reason.to_owned())).is_some()
    }

    pub fn confirmed(&mut self, number: u64, multiple: bool, stored: bool) {
        let done = if multiple {
            // Number 0 means all of them.
            let rest = if number == 0 { BTreeMap::new() } else { self.pending.split_off(&(number + 1)) };
            std::mem::replace(&mut self.pending, rest)
        } else {
            self.pending.remove(&number).map(|one| (number, one)).into_iter().collect()
        };
        for one in done.into_values() {
            let confirmation = match one.returned {
                Some(reason) => Confirmation::Returned(reason),
                None if stored => Confirmation::Stored,
                None => Confirmation::NotTaken,
            };
            let _ = one.answer.send(confirmation);
        }
    }

    /// The channel is no more. One whose size is the cause is told so, all others only that it was closed.
    pub fn closed(&mut self, closed: &Closed) {
        let too_large = closed.too_large();
        for one in std::mem::take(&mut self.pending).into_values() {
            let its_fault = too_large.is_none_or(|size| one.size == size);
            let closed = if its_fault { closed.clone() } else { Closed::lost() };
            let _ = one.answer.send(Confirmation::Closed(closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(text: &str) -> Fingerprint {
        Fingerprint::of("x", text, "", b"")
    }

    fn publish(confirms: &mut Confirms, keys: &[&str]) -> Vec<oneshot::Receiver<Confirmation>> {
        keys.iter().map(|key| confirms.publish(fingerprint(key), key.len())).collect()
    }

    fn answers(all: Vec<oneshot::Receiver<Confirmation>>) -> Vec<Option<Confirmation>> {
        all.into_iter().map(|mut one| one.try_recv().ok()).collect()
    }

    #[test]
    fn what_came_back_is_told_to_the_one_who_sent_it_however_it_is_confirmed() {
        for (number, multiple) in [(3, true), (0, true)] {
            let mut confirms = Confirms::default();
            let all = publish(&mut confirms, &["a", "nowhere", "b"]);
            assert!(confirms.returned(fingerprint("nowhere"), "NO_ROUTE"));
            confirms.confirmed(number, multiple, true);
            let expected = [Confirmation::Stored, Confirmation::Returned("NO_ROUTE".to_owned()), Confirmation::Stored];
            assert_eq!(answers(all), expected.map(Some));
        }
    }

    #[test]
    fn an_earlier_confirmation_does_not_take_what_came_back() {
        let mut confirms = Confirms::default();
        let all = publish(&mut confirms, &["slow", "nowhere"]);
        assert!(confirms.returned(fingerprint("nowhere"), "NO_ROUTE"));
        confirms.confirmed(1, false, true);
        confirms.confirmed(2, false, true);
        assert_eq!(answers(all), [Some(Confirmation::Stored), Some(Confirmation::Returned("NO_ROUTE".to_owned()))]);
    }

    #[test]
    fn of_two_that_say_the_same_one_comes_back() {
        let mut confirms = Confirms::default();
        let all = publish(&mut confirms, &["a", "a"]);
        assert!(confirms.returned(fingerprint("a"), "NO_ROUTE"));
        confirms.confirmed(2, true, true);
        let returned = answers(all).iter().flatten().filter(|one| **one != Confirmation::Stored).count();
        assert_eq!(returned, 1);
    }

    #[test]
    fn what_nobody_sent_is_noticed() {
        assert!(!Confirms::default().returned(fingerprint("a"), "NO_ROUTE"));
    }

    #[test]
    fn a_refusal_is_for_its_own_number_only() {
        let mut confirms = Confirms::default();
        let all = publish(&mut confirms, &["a", "b", "c"]);
        confirms.confirmed(2, false, false);
        assert_eq!(answers(all), [None, Some(Confirmation::NotTaken), None]);
    }

    #[test]
    fn only_the_one_that_is_too_large_is_told_so() {
        let mut confirms = Confirms::default();
        let all = publish(&mut confirms, &["small", "very-large"]);
        let text = "PRECONDITION_FAILED - message size 10 is larger than configured max size 6";
        let closed = Closed { code: 406, text: text.to_owned() };
        confirms.closed(&closed);
        assert_eq!(answers(all), [Some(Confirmation::Closed(Closed::lost())), Some(Confirmation::Closed(closed))]);
    }
}
