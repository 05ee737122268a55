//! Versions of nats-server: which ones this release knows, and what they can do. Pure.
//!
//! During a roll brokers of two versions are one cluster, and going back means that the older one reads what the newer one has
//! stored. So only versions are run of which both is known: `docs/adr/0059-versions-of-brokers.md`.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// The first version that is known of each line, the oldest line first. Any two versions of these lines can follow each other.
///
/// 2.14.7 is the first that leaves alone what a broker of 2.15 has begun to move (`desired` of a group).
const KNOWN: [Version; 2] = [Version::new(2, 14, 7), Version::new(2, 15, 0)];
/// The first that moves a copy to another broker before the old one goes (`STREAM.PEER.EVACUATE`), and that lets a minority lead
/// for a while (`META.RESCUE`).
const MOVES_AND_RESCUES: Version = Version::new(2, 15, 0);

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// `2.15.2`, also with a `v` before it, and with something after it.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts = text.split(['-', '+']).next()?.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Some(Self::new(major, minor, patch)),
            _ => None,
        }
    }

    /// What the tag of an image says; absent where it says nothing of a version.
    #[must_use]
    pub fn of_image(image: &str) -> Option<Self> {
        let name = image.split('@').next()?.rsplit('/').next()?;
        Self::read(name.split_once(':')?.1)
    }

    /// Why brokers of this version are not run.
    #[must_use]
    pub fn refusal(self) -> Option<String> {
        let line = |known: &&Self| (known.major, known.minor) == (self.major, self.minor);
        if KNOWN.iter().find(line).is_some_and(|first| self >= *first) {
            return None;
        }
        let known: Vec<String> =
            KNOWN.iter().map(|first| format!("{}.{} from {first} on", first.major, first.minor)).collect();
        Some(format!("nats-server {self} is not among the versions that this operator knows: {}", known.join(", ")))
    }

    /// Whether a copy can move from one broker to another without being missed meanwhile.
    #[must_use]
    pub fn moves_copies(self) -> bool {
        self >= MOVES_AND_RESCUES
    }

    /// Whether the metadata can be led without a majority, when the others are lost for good.
    #[must_use]
    pub fn rescues(self) -> bool {
        self >= MOVES_AND_RESCUES
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("nats:2.15.2", Some("2.15.2"))]
    #[case("nats:2.14.10-alpine3.22", Some("2.14.10"))]
    #[case("registry.example:5000/event-mesh/broker:v2.15.0@sha256:0123", Some("2.15.0"))]
    #[case("registry.example:5000/broker", None)]
    #[case("nats@sha256:0123", None)]
    #[case("nats:latest", None)]
    #[case("nats:2.15", None)]
    #[case("nats:2.15.2.1", None)]
    fn the_tag_of_an_image_tells_its_version(#[case] image: &str, #[case] version: Option<&str>) {
        assert_eq!(Version::of_image(image).map(|found| found.to_string()).as_deref(), version);
    }

    #[rstest]
    #[case("2.14.6", false)]
    #[case("2.14.7", true)]
    #[case("2.14.10", true)]
    #[case("2.15.0", true)]
    #[case("2.16.0", false)]
    #[case("2.12.5", false)]
    #[case("3.15.2", false)]
    fn only_known_lines_are_run(#[case] version: &str, #[case] runs: bool) {
        let refusal = Version::read(version).expect("a version").refusal();
        assert_eq!(refusal.is_none(), runs, "{refusal:?}");
        if let Some(refusal) = refusal {
            assert!(
                refusal.contains(version) && refusal.contains("2.14 from 2.14.7 on, 2.15 from 2.15.0 on"),
                "{refusal}"
            );
        }
    }

    #[rstest]
    #[case("2.9.1", "2.15.0")]
    #[case("2.15.2", "2.15.10")]
    fn versions_are_ordered_as_numbers(#[case] older: &str, #[case] newer: &str) {
        assert!(Version::read(older) < Version::read(newer));
    }
}
