//! Whether the clocks of the brokers are right, by the operator's own.
//!
//! Each copy of a stream lets events expire by the clock of its broker, and certificates and credentials are valid by it.

use k8s_openapi::jiff::Timestamp;

/// Seconds that a clock may be wrong without a word.
const TOLERANCE: u64 = 5;

/// Seconds that a clock is ahead, at least: it said so somewhen between these two moments.
pub(super) fn ahead(said: Timestamp, asked: Timestamp, heard: Timestamp) -> i64 {
    let off = said.as_millisecond() - said.clamp(asked, heard).as_millisecond();
    (off + 500).div_euclid(1_000)
}

/// What to tell of a clock: nothing where it is nearly right, and what was told before where that is still nearly true, so that
/// nobody writes a new status every ten seconds.
pub(super) fn told(ahead: i64, before: Option<i64>) -> Option<i64> {
    let nearly = |before: &i64| ahead.abs_diff(*before) <= (before.unsigned_abs() / 10).clamp(1, 60);
    before.filter(nearly).or_else(|| (ahead.unsigned_abs() > TOLERANCE).then_some(ahead))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(99, -1)]
    #[case(100, 0)]
    #[case(107, 0)]
    #[case(110, 0)]
    #[case(3_710, 3_600)]
    fn a_slow_answer_is_no_wrong_clock(#[case] said: i64, #[case] wanted: i64) {
        let at = |second| Timestamp::from_second(second).expect("a time");
        assert_eq!(ahead(at(said), at(100), at(110)), wanted);
    }

    #[rstest]
    #[case::right(0, None, None)]
    #[case::tolerated(-5, None, None)]
    #[case::behind(-6, None, Some(-6))]
    #[case::about_the_same(5, Some(6), Some(6))]
    #[case::right_again(4, Some(6), None)]
    #[case::about_the_same_hour(3_580, Some(3_600), Some(3_600))]
    #[case::another_hour(7_200, Some(3_600), Some(7_200))]
    #[case::the_other_way(-3_600, Some(3_600), Some(-3_600))]
    fn what_is_told(#[case] ahead: i64, #[case] before: Option<i64>, #[case] wanted: Option<i64>) {
        assert_eq!(told(ahead, before), wanted);
    }
}
