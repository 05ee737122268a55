//! What is on its way to a stream and not answered yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::event::Delivery;

/// Events that share one answer.
pub(super) struct Flight {
    pub deliveries: Vec<Delivery>,
    pub batch: bool,
    sent: Instant,
}

/// All flights, by the number that their answer names.
#[derive(Default)]
pub(super) struct Flights {
    by_number: BTreeMap<u64, Flight>,
    next: u64,
    pub batches: usize,
    pub events: usize,
}

impl Flights {
    /// The number of the next flight. It must be followed by [`Flights::add`].
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn add(&mut self, number: u64, deliveries: Vec<Delivery>, batch: bool) {
        self.batches += usize::from(batch);
        self.events += deliveries.len();
        self.by_number.insert(number, Flight { deliveries, batch, sent: Instant::now() });
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Flight> {
        let flight = self.by_number.remove(&number)?;
        self.batches -= usize::from(flight.batch);
        self.events -= flight.deliveries.len();
        Some(flight)
    }

    /// Takes those that had no answer for so long, counted from the last time the connection came back; oldest first.
    pub(super) fn overdue(&mut self, timeout: Duration, connected_since: Instant) -> Vec<Flight> {
        let late = |flight: &Flight| flight.sent.max(connected_since).elapsed() > timeout;
        let numbers: Vec<u64> =
            self.by_number.iter().filter(|(_, flight)| late(flight)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.take(number)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}
