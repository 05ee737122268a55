//! `Retry-After` (RFC 9110, section 10.2.3): a number of seconds, or a date.

use std::time::{Duration, SystemTime};

/// Longer waits are shortened: whoever asks for more may be wrong, and a try an hour harms nobody.
const LONGEST: Duration = Duration::from_hours(1);

/// How long to wait from `now` on; `None` when the text is neither.
#[must_use]
pub fn parse(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are many seconds.
        return Some(text.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(LONGEST))
}

/// The value that asks for at least this wait.
#[must_use]
pub fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(0))]
    #[case(" 120 ", Some(120))]
    #[case("99999999999999999999999", Some(3600))]
    #[case("Thu, 01 Jan 1970 00:17:10 GMT", Some(30))]
    #[case("Thursday, 01-Jan-70 00:17:10 GMT", Some(30))]
    #[case("Thu Jan  1 00:17:10 1970", Some(30))]
    #[case("Thu, 01 Jan 1970 00:00:00 GMT", Some(0))]
    #[case("Fri, 01 Jan 2100 00:00:00 GMT", Some(3600))]
    #[case("-1", None)]
    #[case("1.5", None)]
    #[case("soon", None)]
    #[case("", None)]
    fn reads(#[case] text: &str, #[case] expected: Option<u64>) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(parse(text, now), expected.map(Duration::from_secs));
    }

    #[test]
    fn whole_seconds_upwards() {
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1_001)), 2);
    }

    proptest! {
        #[test]
        fn anything_is_read_or_not(text in ".*") {
            if let Some(wait) = parse(&text, SystemTime::now()) {
                prop_assert!(wait <= LONGEST);
            }
        }
    }
}
