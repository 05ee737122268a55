use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn key(partition: i32) -> Key {
    (Arc::from("t"), partition)
}

fn enter(ledger: &Ledger, offset: i64) -> Slot {
    match ledger.enter(&key(0), offset) {
        Entered::New(slot) => slot,
        _ => panic!("{offset} is new"),
    }
}

#[test]
fn only_an_unbroken_run_is_committed() {
    let ledger = Ledger::new();
    let mut slots: Vec<_> = [4, 5, 7, 8].map(|offset| enter(&ledger, offset)).into_iter().collect();
    slots[1].confirm();
    slots[3].confirm();
    assert_eq!(ledger.uncommitted(), [], "the first event is not done");
    slots[0].confirm();
    // Offsets have gaps, where Kafka keeps marks of its own.
    assert_eq!(ledger.uncommitted(), [(key(0), 6)]);
    ledger.committed(&[(key(0), 6)]);
    assert_eq!(ledger.uncommitted(), []);
    slots[2].confirm();
    assert_eq!(ledger.uncommitted(), [(key(0), 9)]);
    assert_eq!(ledger.open(), 0);
}

#[test]
fn what_is_given_back_is_read_again_and_nothing_else() {
    let ledger = Ledger::new();
    let (mut first, mut second, third) = (enter(&ledger, 1), enter(&ledger, 2), enter(&ledger, 3));
    first.confirm();
    second.give_back();
    assert_eq!(ledger.to_read_again(), [(key(0), 2)]);
    assert_eq!(ledger.to_read_again(), [], "told once");
    let mut again = enter(&ledger, 2);
    assert!(matches!(ledger.enter(&key(0), 3), Entered::Known), "it is on its way");
    again.confirm();
    assert_eq!(ledger.uncommitted(), [(key(0), 3)]);
    drop(third);
}

#[test]
fn a_receipt_of_a_partition_that_was_taken_away_changes_nothing() {
    let ledger = Ledger::new();
    let mut late = enter(&ledger, 1);
    ledger.forget(&[key(0)]);
    late.confirm();
    assert_eq!(ledger.uncommitted(), []);
    // It came back, and so did the event.
    let again = enter(&ledger, 1);
    assert_eq!(ledger.uncommitted(), []);
    drop(again);
}

#[test]
fn a_partition_that_begins_anew_is_not_taken_for_known() {
    let ledger = Ledger::new();
    let mut first = enter(&ledger, 10);
    first.confirm();
    assert_eq!(ledger.uncommitted(), [(key(0), 11)]);
    assert!(matches!(ledger.enter(&key(0), 0), Entered::MadeAnew));
    let mut anew = enter(&ledger, 0);
    anew.confirm();
    assert_eq!(ledger.uncommitted(), [(key(0), 1)]);
}

#[tokio::test]
async fn whoever_gives_up_a_partition_waits_for_its_events() {
    let ledger = Arc::new(Ledger::new());
    let mut slot = enter(&ledger, 1);
    let waiting = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.settled(&[key(0)]).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    slot.confirm();
    waiting.await.unwrap();
}

proptest! {
    /// Whatever order events are settled in, what may be committed is never past one that is not.
    #[test]
    fn nothing_unsettled_is_ever_committed(order in Just((0..20_i64).collect::<Vec<_>>()).prop_shuffle(), back in prop::collection::btree_set(0..20_i64, 0..5)) {
        let ledger = Ledger::new();
        let mut slots: Vec<_> = (0..20).map(|offset| enter(&ledger, offset)).collect();
        let mut settled = BTreeSet::new();
        for offset in order {
            let slot = &mut slots[usize::try_from(offset).unwrap()];
            if back.contains(&offset) {
                slot.give_back();
            } else {
                slot.confirm();
                settled.insert(offset);
            }
            for (_, committed) in ledger.uncommitted() {
                prop_assert!((0..committed).all(|offset| settled.contains(&offset)));
            }
        }
        let first = ledger.to_read_again().first().map(|(_, offset)| *offset);
        prop_assert_eq!(first, back.first().copied());
    }
}
