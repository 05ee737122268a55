//! How long an event rests in the stream before its next try, in the words of the broker. Pure.

use std::time::Duration;

use crate::backoff::Backoff;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// What becomes of an event that the application did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The broker gives it again after this time.
    Again(Duration),
    /// It was the last try: the broker gives it up.
    Last,
}

/// After so many deliveries. `waits` are those of the Subscription; without any, the sidecar's own.
#[must_use]
pub fn next(deliveries: u64, max_deliver: Option<u32>, waits: &[u64]) -> Next {
    if max_deliver.is_some_and(|most| deliveries >= u64::from(most)) {
        return Next::Last;
    }
    let index = usize::try_from(deliveries.saturating_sub(1)).unwrap_or(usize::MAX);
    Next::Again(match waits.get(index).or(waits.last()) {
        Some(wait) => Duration::from_millis(*wait),
        None => Backoff::new(FIRST, LONGEST).after(u32::try_from(index).unwrap_or(u32::MAX)).next_wait(),
    })
}

/// A NAK with which the broker gives an event again, or gives it up, after this time.
///
/// Brokers reckon the time that a NAK asks for from the consumer's `ack_wait`, which is the first entry of its `backoff` where
/// it has one, and then let pass the entry of this delivery (nats-server 2.15.2, `processNak` and `checkPending`). What
/// these differ by is taken off, and may leave less than nothing. A NAK with a time, even of none, also counts a last try at once;
/// one without only when somebody next asks for events.
#[must_use]
pub fn nak(wait: Duration, deliveries: u64, backoff: &[Duration]) -> String {
    let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let index = usize::try_from(deliveries.saturating_sub(1)).unwrap_or(usize::MAX);
    let of = |entry: Option<&Duration>| entry.map_or(0, |entry| nanoseconds(*entry));
    let late = of(backoff.get(index).or(backoff.last())) - of(backoff.first());
    format!("-NAK {{\"delay\": {}}}", nanoseconds(wait).saturating_sub(late))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1, Next::Again(Duration::from_millis(100)))]
    #[case(2, Next::Again(Duration::from_millis(200)))]
    #[case(3, Next::Again(Duration::from_millis(200)))]
    #[case(4, Next::Last)]
    #[case(9, Next::Last)]
    fn waits_are_those_of_the_subscription(#[case] deliveries: u64, #[case] expected: Next) {
        assert_eq!(next(deliveries, Some(4), &[100, 200]), expected);
    }

    #[test]
    fn own_waits_grow_to_a_minute_and_never_end() {
        for (deliveries, most) in [(1, 1), (3, 4), (7, 60), (u64::MAX, 60)] {
            let Next::Again(wait) = next(deliveries, None, &[]) else { panic!("without an end") };
            let most = Duration::from_secs(most);
            assert!(wait <= most && wait >= most.mul_f64(0.49), "{wait:?}");
        }
    }

    #[rstest]
    #[case(&[], 3, 2_000)]
    #[case(&[5], 3, 2_000)]
    #[case(&[1, 5, 30], 1, 2_000)]
    #[case(&[1, 5, 30], 2, -2_000)]
    #[case(&[1, 5, 30], 3, -27_000)]
    #[case(&[1, 5, 30], 9, -27_000)]
    #[case(&[5, 1], 2, 6_000)]
    fn a_backoff_of_the_consumer_is_taken_off(
        #[case] backoff: &[u64],
        #[case] deliveries: u64,
        #[case] milliseconds: i64,
    ) {
        let backoff: Vec<Duration> = backoff.iter().map(|seconds| Duration::from_secs(*seconds)).collect();
        let expected = format!("-NAK {{\"delay\": {}}}", milliseconds * 1_000_000);
        assert_eq!(nak(Duration::from_secs(2), deliveries, &backoff), expected);
    }
}
