//! The history of one route and the verdict over it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Identity;

/// What was done to a route on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    BridgeKilled,
    FarRestarted,
    MeshCut,
    /// The bridge's wall clock. It explains nothing.
    ClockMoved,
}

/// A first copy that came before a fault is noted as late as this, at most, by a receiver that is busy.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

/// What was sent and confirmed, what came and when, and what was done meanwhile.
#[derive(Debug, Default)]
pub struct History {
    /// By number: the tries until the sender was told that the event is taken.
    confirmed: BTreeMap<u32, u32>,
    /// By number and then by try: a sender that tries again makes an event of its own.
    arrivals: BTreeMap<u32, BTreeMap<u32, Vec<Instant>>>,
    /// When it began, and when all was as before.
    faults: Vec<(Fault, Instant, Instant)>,
    /// What came and is none of the events that were sent.
    foreign: usize,
}

/// What the history shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Events whose sending was confirmed.
    pub sent: usize,
    /// Of these, how many never came.
    pub lost: usize,
    /// Copies beyond the first of one try, that follow a fault.
    pub explained: usize,
    /// Those that follow none.
    pub unexplained: usize,
}

impl History {
    /// The payload of an event.
    #[must_use]
    pub fn payload(number: u32, attempt: u32, size: usize) -> Vec<u8> {
        let mut text = format!("{{\"number\":{number},\"attempt\":{attempt},\"fill\":\"");
        while text.len() < size.saturating_sub(2) {
            text.push('x');
        }
        text.push_str("\"}");
        text.into_bytes()
    }

    fn read(payload: &[u8]) -> Option<(u32, u32)> {
        let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
        let number = |name: &str| value[name].as_u64().and_then(|number| u32::try_from(number).ok());
        Some((number("number")?, number("attempt")?))
    }

    pub fn confirmed(&mut self, number: u32, attempt: u32) {
        self.confirmed.insert(number, attempt);
    }

    pub fn arrived(&mut self, payload: &[u8], at: Instant) {
        match Self::read(payload) {
            Some((number, attempt)) => self.arrivals.entry(number).or_default().entry(attempt).or_default().push(at),
            None => self.foreign += 1,
        }
    }

    pub fn fault(&mut self, fault: Fault, from: Instant, until: Instant) {
        self.faults.push((fault, from, until));
    }

    #[must_use]
    pub fn confirmations(&self) -> usize {
        self.confirmed.len()
    }

    /// How many different events have come.
    #[must_use]
    pub fn arrivals(&self) -> usize {
        self.arrivals.len()
    }

    /// A copy is explained when a fault came between the first one and it.
    fn is_explained(&self, first: Instant, copy: Instant) -> bool {
        let explains = |fault: &Fault| *fault != Fault::ClockMoved;
        self.faults
            .iter()
            .any(|(fault, from, until)| explains(fault) && *until + NOTED_WITHIN >= first && *from <= copy)
    }

    #[must_use]
    pub fn verdict(&self, identity: Identity) -> Verdict {
        let mut verdict = Verdict { sent: self.confirmed.len(), ..Verdict::default() };
        verdict.lost = self.confirmed.keys().filter(|number| !self.arrivals.contains_key(number)).count();
        verdict.unexplained += self.foreign;
        for tries in self.arrivals.values() {
            if identity == Identity::Id {
                verdict.unexplained += tries.values().map(Vec::len).sum::<usize>() - 1;
                continue;
            }
            for times in tries.values() {
                let (first, copies) = (times[0], &times[1..]);
                let explains = |copy: &&Instant| identity == Identity::None && self.is_explained(first, **copy);
                let explained = copies.iter().filter(explains).count();
                verdict.explained += explained;
                verdict.unexplained += copies.len() - explained;
            }
        }
        verdict
    }

    /// The first few numbers that were lost.
    #[must_use]
    pub fn lost(&self) -> Vec<u32> {
        self.confirmed.keys().copied().filter(|number| !self.arrivals.contains_key(number)).take(10).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_copy_after_a_fault_is_explained() {
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        let mut history = History::default();
        for number in 0..4 {
            history.confirmed(number, 1);
        }
        let came =
            |history: &mut History, number, second| history.arrived(&History::payload(number, 1, 64), at(second));
        came(&mut history, 0, 10);
        came(&mut history, 0, 11);
        history.fault(Fault::BridgeKilled, at(20), at(21));
        came(&mut history, 1, 19);
        came(&mut history, 1, 22);
        came(&mut history, 2, 30);
        came(&mut history, 2, 31);
        assert_eq!(history.verdict(Identity::None), Verdict { sent: 4, lost: 1, explained: 1, unexplained: 2 });
        assert_eq!(history.verdict(Identity::Place), Verdict { sent: 4, lost: 1, explained: 0, unexplained: 3 });
        assert_eq!(history.lost(), [3]);
        history.arrived(&History::payload(3, 2, 64), at(40));
        assert_eq!(history.verdict(Identity::None).lost, 0, "another try is the event too");
        history.arrived(b"something else", at(41));
        assert_eq!(history.verdict(Identity::None).unexplained, 3);
    }

    #[test]
    fn with_an_id_another_try_is_a_copy() {
        let mut history = History::default();
        history.confirmed(0, 2);
        for attempt in [1, 2] {
            history.arrived(&History::payload(0, attempt, 64), Instant::now());
        }
        assert_eq!(history.verdict(Identity::Place).unexplained, 0);
        assert_eq!(history.verdict(Identity::Id).unexplained, 1);
    }
}
