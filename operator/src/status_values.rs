//! Values in the form in which a status shows them.

/// A count as Kubernetes' integers hold it.
#[must_use]
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// `2026-11-24T08:00:00.123456Z` without the fraction, so that a status does not change more often than a person reads.
#[must_use]
pub fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_go_and_whole_times_stay() {
        assert_eq!(whole_seconds("2026-11-24T08:00:00.123456Z"), "2026-11-24T08:00:00Z");
        assert_eq!(whole_seconds("2026-11-24T08:00:00Z"), "2026-11-24T08:00:00Z");
        assert_eq!(signed(u64::MAX), i64::MAX);
    }
}
