//! The parameters of a request. One that is not known is refused: what it was meant to change would silently stay as it is.

use std::time::Duration;

use crate::endpoint::http::problem::Problem;

/// How long a request waits that does not say so.
const USUAL: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(5);

/// The value of the only parameter that there may be.
fn only<'q>(query: Option<&'q str>, name: &str) -> Result<Option<&'q str>, Problem> {
    let mut found = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((known, value)) if known == name && found.is_none() => found = Some(value),
            _ => return Err(Problem::bad_request(format!("the parameter `{pair}` is not known; there is `{name}`"))),
        }
    }
    Ok(found)
}

/// Whether to wait until the event is stored: `wait=stored`, which is what happens anyway, or `wait=none`.
///
/// # Errors
/// What to answer.
pub fn waits(query: Option<&str>) -> Result<bool, Problem> {
    match only(query, "wait")? {
        None | Some("stored") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(Problem::bad_request(format!("wait is `{other}`; write `stored` or `none`"))),
    }
}

/// How long to wait for an answer, as `timeout=500ms`, `2s` or `1m`.
///
/// # Errors
/// What to answer.
pub fn patience(query: Option<&str>) -> Result<Duration, Problem> {
    let Some(text) = only(query, "timeout")? else { return Ok(USUAL) };
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let found = units.into_iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_millis(number.checked_mul(factor)?))
    });
    found.filter(|time| !time.is_zero() && *time <= LONGEST).ok_or_else(|| {
        Problem::bad_request(format!("timeout is `{text}`; write a time such as 500ms or 2s, of at most 5m"))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, Some(5_000))]
    #[case(Some("timeout=500ms"), Some(500))]
    #[case(Some("timeout=2s"), Some(2_000))]
    #[case(Some("timeout=5m"), Some(300_000))]
    #[case(Some("timeout=301s"), None)]
    #[case(Some("timeout=0s"), None)]
    #[case(Some("timeout=2"), None)]
    #[case(Some("timeout=99999999999999999999s"), None)]
    #[case(Some("timeout=1s&timeout=1s"), None)]
    #[case(Some("time=1s"), None)]
    fn times_are_read(#[case] query: Option<&str>, #[case] milliseconds: Option<u64>) {
        assert_eq!(patience(query).ok(), milliseconds.map(Duration::from_millis));
    }

    #[rstest]
    #[case(None, Some(true))]
    #[case(Some("wait=stored"), Some(true))]
    #[case(Some("wait=none"), Some(false))]
    #[case(Some("wait=ack"), None)]
    #[case(Some("async"), None)]
    fn waiting_is_read(#[case] query: Option<&str>, #[case] expected: Option<bool>) {
        assert_eq!(waits(query).ok(), expected);
    }
}
