//! The certificates of a mesh, as texts and a clock: what they say, whether they are good, when the next one is due.
//!
//! Pure: no client, no file, no Secret. A mesh has an authority of its own, whose leafs only brokers hold; by them brokers
//! know each other. With `issuer: Managed` clients trust the same authority; else what brokers show to clients comes from
//! [`outside`].

pub mod authority;
pub mod leaf;
pub mod outside;
pub mod reading;
pub mod rollover;

pub use authority::{Authority, Pair};
pub use outside::Outside;
pub use reading::Facts;
pub use rollover::{Authorities, Phase, Situation};

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub leaf: Duration,
    pub authority: Duration,
    /// How long two authorities are trusted beside each other before the next step of a rollover.
    pub overlap: Duration,
}

/// Longest time by which a certificate is valid before it is made, for clocks that are slow.
const LONGEST_SKEW: Duration = Duration::from_hours(1);

/// A tenth of a short life: two thirds of it must not be over before it begins.
fn skew(lifetime: Duration) -> Duration {
    LONGEST_SKEW.min(lifetime / 10)
}

fn plus(time: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    time.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

fn minus(time: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    time.saturating_sub(duration).unwrap_or(Timestamp::MIN)
}

/// When two thirds of a life are over.
#[must_use]
pub fn renewal(facts: &Facts) -> Timestamp {
    let life = facts.not_after.as_second() - facts.not_before.as_second();
    Timestamp::from_second(facts.not_before.as_second() + life / 3 * 2 + life % 3 * 2 / 3).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    pub const POLICY: Policy =
        Policy { leaf: Duration::from_hours(1), authority: Duration::from_hours(30), overlap: Duration::from_mins(10) };

    #[test]
    fn renewal_is_at_two_thirds_and_never_before_the_beginning() {
        let authority = Authority::generate("m", Duration::from_mins(1), at(0)).expect("an authority");
        assert_eq!(authority.facts.not_before, at(-6));
        assert_eq!(authority.facts.not_after, at(60));
        assert_eq!(renewal(&authority.facts), at(38));
        let long = Authority::generate("m", Duration::from_hours(30), at(0)).expect("an authority");
        assert_eq!(long.facts.not_before, at(-3_600));
    }
}
