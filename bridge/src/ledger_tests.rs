//! Order, redelivery and balance of the ledger.

use eventmesh_wire::config::Guarantee;
use eventmesh_wire::report::Direction;
use proptest::prelude::*;

use super::*;
use crate::books::{Books, Outcome};
use crate::event::Receipt;

struct Bench {
    ledger: Arc<Ledger>,
    acks: Arc<Mutex<Vec<u16>>>,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { ledger: Arc::default(), acks: Arc::default() };
        bench.connect(false);
        bench
    }

    fn connect(&self, session_present: bool) {
        let acks = Arc::clone(&self.acks);
        self.ledger.connected(session_present, Box::new(move |packet| acks.lock().unwrap().push(packet)));
    }

    fn enter(&self, packet: u16, redelivery: bool, text: &str) -> Option<Slot> {
        match self.ledger.enter(packet, redelivery, Fingerprint::of(b"t", text.as_bytes())) {
            Entered::New(slot) => Some(slot),
            Entered::Known => None,
        }
    }

    fn acks(&self) -> Vec<u16> {
        self.acks.lock().unwrap().clone()
    }
}

#[test]
fn acknowledgements_leave_in_the_order_of_receipt() {
    let bench = Bench::new();
    let mut slots: Vec<Slot> = (1..=3).map(|packet| bench.enter(packet, false, "x").unwrap()).collect();
    slots[2].confirm();
    slots[1].confirm();
    assert_eq!(bench.acks(), Vec::<u16>::new());
    slots[0].confirm();
    assert_eq!(bench.acks(), [1, 2, 3]);
}

#[test]
fn a_packet_id_of_an_old_connection_is_never_acknowledged_on_a_new_one() {
    let bench = Bench::new();
    let mut slot = bench.enter(7, false, "x").unwrap();
    bench.ledger.disconnected();
    bench.connect(true);
    slot.confirm();
    assert_eq!(bench.acks(), Vec::<u16>::new());
    assert!(bench.enter(7, true, "x").is_none(), "it is known, and acknowledged at once");
    assert_eq!(bench.acks(), [7]);
}

#[test]
fn a_redelivery_joins_the_event_that_is_still_on_its_way() {
    let bench = Bench::new();
    let mut slot = bench.enter(7, false, "x").unwrap();
    bench.ledger.disconnected();
    bench.connect(true);
    assert!(bench.enter(7, true, "x").is_none());
    assert_eq!(bench.acks(), Vec::<u16>::new());
    slot.confirm();
    assert_eq!(bench.acks(), [7]);
}

#[test]
fn another_event_under_the_same_packet_id_is_new() {
    let bench = Bench::new();
    let _first = bench.enter(7, false, "x").unwrap();
    bench.ledger.disconnected();
    bench.connect(true);
    assert!(bench.enter(7, true, "other").is_some(), "another content");
    bench.ledger.disconnected();
    bench.connect(false);
    assert!(bench.enter(7, true, "other").is_some(), "the session was lost");
}

#[test]
fn what_was_given_back_needs_a_new_connection() {
    let bench = Bench::new();
    let mut first = bench.enter(1, false, "x").unwrap();
    let mut second = bench.enter(2, false, "y").unwrap();
    first.give_back();
    second.confirm();
    assert!(bench.ledger.is_stuck());
    assert_eq!(bench.acks(), Vec::<u16>::new());
    bench.ledger.disconnected();
    bench.connect(true);
    assert!(bench.enter(1, true, "x").is_some(), "to be done again");
    assert!(bench.enter(2, true, "y").is_none(), "done before");
}

proptest! {
    #[test]
    fn the_books_balance_and_every_settled_event_is_acknowledged_once(order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(), outcomes in prop::collection::vec(0..5_u8, 20)) {
        let bench = Bench::new();
        let books = Arc::new(Books::new("r", Direction::Inbound));
        let mut receipts: Vec<Option<Receipt>> = (0..20_u16).map(|packet| Some(Receipt::new(&books, Box::new(bench.enter(packet + 1, false, "x").unwrap()), Guarantee::AtLeastOnce))).collect();
        for index in order {
            let receipt = receipts[index].take().unwrap();
            match outcomes[index] {
                0 => receipt.settle(Outcome::Delivered),
                1 => receipt.settle(Outcome::Filtered),
                2 => receipt.settle(Outcome::DeadLettered),
                3 => receipt.settle(Outcome::Dropped),
                _ => drop(receipt),
            }
            prop_assert!(books.counters().balances());
        }
        prop_assert_eq!(books.counters().in_flight, 0);
        let settled = outcomes.iter().position(|outcome| *outcome == 4).unwrap_or(20);
        let expected: Vec<u16> = (1..=20).take(settled).collect();
        prop_assert_eq!(bench.acks(), expected);
    }
}
