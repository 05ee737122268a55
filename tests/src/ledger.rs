//! The history of one direction: what was sent and confirmed, what was received, and the verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What was sent, by number, and how often each came.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    run: String,
    sent: BTreeSet<u32>,
    received: BTreeMap<u32, u32>,
    foreign: u32,
}

/// What the history shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Events whose sending was confirmed.
    pub sent: usize,
    /// Of these, how many came at least once.
    pub received: usize,
    /// Of these, how many never came.
    pub lost: usize,
    /// Receptions beyond the first of each event.
    pub duplicated: usize,
    /// Events that came and were never confirmed to the sender, or never sent.
    pub unexpected: usize,
}

impl Ledger {
    /// A history of the events of `run`; events of other runs are not counted.
    #[must_use]
    pub fn new(run: &str) -> Self {
        Self { run: run.to_owned(), ..Self::default() }
    }

    /// The payload of an event.
    #[must_use]
    pub fn event(&self, number: u32) -> String {
        format!(r#"{{"id":"{}","run":"{}","number":{number}}}"#, self.id(number), self.run)
    }

    /// What makes an event the same when it comes again.
    #[must_use]
    pub fn id(&self, number: u32) -> String {
        format!("{}-{number}", self.run)
    }

    /// Id and payload of an event.
    #[must_use]
    pub fn with(&self, number: u32) -> (String, String) {
        (self.id(number), self.event(number))
    }

    /// The number of an event of this run.
    #[must_use]
    pub fn number(&self, payload: &[u8]) -> Option<u32> {
        let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
        (value["run"] == self.run.as_str()).then(|| value["number"].as_u64())?.and_then(|n| n.try_into().ok())
    }

    pub fn confirmed(&mut self, number: u32) {
        self.sent.insert(number);
    }

    /// Notes a reception; events of another run are left out.
    pub fn arrived(&mut self, payload: &[u8]) {
        match self.number(payload) {
            Some(number) => *self.received.entry(number).or_default() += 1,
            None => self.foreign += 1,
        }
    }

    /// How many different events have come.
    #[must_use]
    pub fn arrivals(&self) -> usize {
        self.received.len()
    }

    /// How many events the sender knows to be stored.
    #[must_use]
    pub fn confirmations(&self) -> usize {
        self.sent.len()
    }

    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let received = self.sent.iter().filter(|number| self.received.contains_key(number)).count();
        let extra: u32 = self.received.values().map(|times| times - 1).sum();
        Verdict {
            sent: self.sent.len(),
            received,
            lost: self.sent.len() - received,
            duplicated: extra as usize,
            unexpected: self.received.len() - received,
        }
    }

    /// The first few numbers that were lost.
    #[must_use]
    pub fn lost(&self) -> Vec<u32> {
        self.sent.iter().filter(|number| !self.received.contains_key(number)).take(10).copied().collect()
    }
}

/// One line of the table that the demo prints.
#[must_use]
pub fn row(direction: &str, verdict: Verdict, time: Duration) -> String {
    format!(
        "{direction:<28} {:>8} {:>9} {:>6} {:>11} {:>8.1}",
        verdict.sent,
        verdict.received,
        verdict.lost,
        verdict.duplicated,
        time.as_secs_f64()
    )
}

/// The head of that table.
#[must_use]
pub fn head() -> String {
    format!("{:<28} {:>8} {:>9} {:>6} {:>11} {:>8}", "direction", "sent", "received", "lost", "duplicated", "seconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(sent: &[u32], received: &[u32]) -> Verdict {
        let mut ledger = Ledger::new("r");
        for number in sent {
            ledger.confirmed(*number);
        }
        for number in received {
            ledger.arrived(ledger.clone().event(*number).as_bytes());
        }
        ledger.verdict()
    }

    #[test]
    fn all_came_once() {
        assert_eq!(history(&[1, 2], &[2, 1]), Verdict { sent: 2, received: 2, ..Verdict::default() });
    }

    #[test]
    fn one_is_lost_and_another_cannot_make_up_for_it() {
        let verdict = history(&[1, 2], &[1, 1, 1]);
        assert_eq!(verdict, Verdict { sent: 2, received: 1, lost: 1, duplicated: 2, unexpected: 0 });
    }

    #[test]
    fn what_was_not_confirmed_is_not_lost_but_may_come() {
        let verdict = history(&[1], &[1, 2]);
        assert_eq!(verdict, Verdict { sent: 1, received: 1, lost: 0, duplicated: 0, unexpected: 1 });
    }

    #[test]
    fn events_of_other_runs_do_not_count() {
        let mut ledger = Ledger::new("this");
        ledger.confirmed(1);
        ledger.arrived(Ledger::new("other").event(1).as_bytes());
        ledger.arrived(b"no json");
        assert_eq!(ledger.verdict().lost, 1);
    }
}
