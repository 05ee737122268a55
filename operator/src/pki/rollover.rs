//! The authorities of a mesh, and how one follows another without anybody being cut off.
//!
//! ```text
//! Stable ──two thirds of its life, or on request──▶ Introducing: the next is trusted beside the current
//!    ▲                                                   │ after the overlap, when every broker trusts the next
//!    └──after another overlap, when every broker ◀── Retiring: the next signs, the old is still trusted
//!        shows a certificate of the new one
//! ```
//!
//! Whoever reads the bundle once in an overlap, or trusts only one of its two ends, can connect all the time.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, jiff::Timestamp};

use super::{Authority, Policy, plus, reading, renewal};

/// Where a rollover stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Stable,
    Introducing,
    Retiring,
}

impl Phase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "Stable",
            Self::Introducing => "Introducing",
            Self::Retiring => "Retiring",
        }
    }
}

/// All authorities that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// Signs.
    pub current: Authority,
    /// Signs after the overlap.
    pub next: Option<Authority>,
    /// Certificates of those before, which sign nothing any more.
    pub previous: Vec<String>,
    /// Beginning of the phase.
    pub since: Timestamp,
    /// The last request for a new one that has been followed.
    pub request: String,
}

/// What the next step depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub now: Timestamp,
    /// A text that somebody changes to ask for a new authority.
    pub request: &'a str,
    /// Every broker runs with the certificates that it should.
    pub taken_up: bool,
    /// Brokers have no certificate that holds, so nothing can be worse than waiting.
    pub leaf_is_gone: bool,
}

const CURRENT: [&str; 2] = ["ca.crt", "ca.key"];
const NEXT: [&str; 2] = ["next.crt", "next.key"];
const PREVIOUS: &str = "previous.crt";
const SINCE: &str = "since";
const REQUEST: &str = "request";

impl Authorities {
    /// The first of a mesh.
    ///
    /// # Errors
    /// As [`Authority::generate`].
    pub fn first(mesh: &str, policy: &Policy, situation: &Situation<'_>) -> Result<Self, rcgen::Error> {
        Ok(Self {
            current: Authority::generate(mesh, policy.authority, situation.now)?,
            next: None,
            previous: Vec::new(),
            since: situation.now,
            request: situation.request.to_owned(),
        })
    }

    /// For a mesh whose keys are lost: a new one, introduced beside those that its brokers still trust.
    ///
    /// # Errors
    /// As [`Authority::generate`]; `None` when the bundle cannot be read either.
    pub fn after_loss(
        mesh: &str,
        bundle: &str,
        policy: &Policy,
        situation: &Situation<'_>,
    ) -> Result<Option<Self>, rcgen::Error> {
        let mut trusted = split(bundle).into_iter();
        let Some(current) = trusted.next().and_then(|pem| Authority::read(&pem, None).ok()) else { return Ok(None) };
        let next = Authority::generate(mesh, policy.authority, situation.now)?;
        let request = situation.request.to_owned();
        Ok(Some(Self { current, next: Some(next), previous: trusted.collect(), since: situation.now, request }))
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        match (&self.next, self.previous.is_empty()) {
            (Some(_), _) => Phase::Introducing,
            (None, false) => Phase::Retiring,
            (None, true) => Phase::Stable,
        }
    }

    /// Every certificate to trust, the one that signs first.
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| next.certificate.as_str());
        let all = std::iter::once(self.current.certificate.as_str()).chain(next);
        all.chain(self.previous.iter().map(String::as_str)).collect()
    }

    /// The next state when it is time, else the time to look again.
    ///
    /// # Errors
    /// As [`Authority::generate`].
    pub fn advance(
        &self,
        mesh: &str,
        policy: &Policy,
        situation: &Situation<'_>,
    ) -> Result<Result<Self, Timestamp>, rcgen::Error> {
        let now = situation.now;
        let overlap_ends = plus(self.since, policy.overlap);
        let ripe = now >= overlap_ends && situation.taken_up;
        let patience = if now >= overlap_ends { plus(now, Duration::from_mins(1)) } else { overlap_ends };
        match (self.phase(), &self.next) {
            (Phase::Introducing, Some(next)) => {
                // Of one that has expired nobody needs to be weaned.
                let useless =
                    self.current.facts.not_after <= now || self.current.key.is_none() && situation.leaf_is_gone;
                if !ripe && !useless {
                    return Ok(Err(patience));
                }
                let previous = std::iter::once(self.current.certificate.clone()).chain(self.previous.iter().cloned());
                let previous = previous.collect();
                Ok(Ok(Self { current: next.clone(), next: None, previous, since: now, request: self.request.clone() }))
            }
            (Phase::Retiring, _) if ripe => {
                Ok(Ok(Self { previous: Vec::new(), since: now, next: None, ..self.clone() }))
            }
            (Phase::Retiring, _) => Ok(Err(patience)),
            (Phase::Stable | Phase::Introducing, _) => {
                let due = renewal(&self.current.facts);
                let asked = !situation.request.is_empty() && situation.request != self.request;
                if now < due && !asked {
                    return Ok(Err(due));
                }
                let next = Some(Authority::generate(mesh, policy.authority, now)?);
                Ok(Ok(Self { next, since: now, request: situation.request.to_owned(), ..self.clone() }))
            }
        }
    }

    /// The entries of the Secret that keeps them.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, ByteString> {
        let mut texts = BTreeMap::new();
        for (keys, authority) in [(CURRENT, Some(&self.current)), (NEXT, self.next.as_ref())] {
            let Some(authority) = authority else { continue };
            texts.insert(keys[0], authority.certificate.clone());
            texts.extend(authority.key.clone().map(|key| (keys[1], key)));
        }
        if !self.previous.is_empty() {
            texts.insert(PREVIOUS, self.previous.concat());
        }
        texts.insert(SINCE, self.since.to_string());
        texts.insert(REQUEST, self.request.clone());
        texts.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()
    }

    /// Reads what the Secret holds.
    ///
    /// # Errors
    /// A sentence that says which key is wrong.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, String> {
        let text = |key: &str| match data.get(key) {
            None => Ok(None),
            Some(bytes) => match std::str::from_utf8(&bytes.0) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(format!("key `{key}` is not text")),
            },
        };
        let authority = |keys: [&str; 2]| {
            let Some(certificate) = text(keys[0])? else { return Ok(None) };
            let read = Authority::read(certificate, text(keys[1])?);
            read.map(Some).map_err(|problem| format!("keys `{}` and `{}`: {problem}", keys[0], keys[1]))
        };
        let current = authority(CURRENT)?.ok_or_else(|| format!("key `{}` is missing", CURRENT[0]))?;
        let next = authority(NEXT)?;
        if next.as_ref().unwrap_or(&current).key.is_none() {
            let key = if next.is_some() { NEXT[1] } else { CURRENT[1] };
            return Err(format!("key `{key}` is missing"));
        }
        let previous = match text(PREVIOUS)? {
            None => Vec::new(),
            Some(pem) => {
                reading::certificates(pem).map_err(|problem| format!("key `{PREVIOUS}` {problem}"))?;
                split(pem)
            }
        };
        let since = text(SINCE)?.and_then(|since| since.parse().ok());
        let since = since.ok_or_else(|| format!("key `{SINCE}` holds no time"))?;
        Ok(Self { current, next, previous, since, request: text(REQUEST)?.unwrap_or_default().to_owned() })
    }
}

const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a text, each by itself.
#[must_use]
pub fn split(pem: &str) -> Vec<String> {
    let parts = pem.split_inclusive(END).filter(|part| part.contains(END));
    parts.map(|part| format!("{}\n", part.trim_start())).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{
        super::tests::{POLICY, at},
        *,
    };

    fn situation(now: i64) -> Situation<'static> {
        Situation { now: at(now), request: "", taken_up: true, leaf_is_gone: false }
    }

    fn first() -> Authorities {
        Authorities::first("m", &POLICY, &situation(0)).expect("an authority")
    }

    fn advanced(from: &Authorities, situation: &Situation<'_>) -> Authorities {
        from.advance("m", &POLICY, situation).expect("no failure").expect("a step")
    }

    fn stays(from: &Authorities, situation: &Situation<'_>) -> Timestamp {
        from.advance("m", &POLICY, situation).expect("no failure").expect_err("no step")
    }

    #[test]
    fn one_follows_another_over_two_overlaps() {
        let stable = first();
        // 30 hours and an hour, from an hour before.
        let due = 111_600 / 3 * 2 - 3_600;
        assert_eq!(stays(&stable, &situation(due - 1)), at(due));
        let introducing = advanced(&stable, &situation(due));
        assert_eq!((introducing.phase(), &introducing.current), (Phase::Introducing, &stable.current));
        let next = introducing.next.clone().expect("a next one");
        assert_eq!(introducing.bundle(), format!("{}{}", stable.current.certificate, next.certificate));

        assert_eq!(stays(&introducing, &situation(due + 599)), at(due + 600));
        let slow = Situation { taken_up: false, ..situation(due + 700) };
        assert_eq!(stays(&introducing, &slow), at(due + 760), "a broker does not trust the next one yet");
        let retiring = advanced(&introducing, &situation(due + 600));
        assert_eq!((retiring.phase(), &retiring.current), (Phase::Retiring, &next));
        assert_eq!(retiring.bundle(), format!("{}{}", next.certificate, stable.current.certificate));
        assert!(
            !retiring
                .entries()
                .values()
                .any(|v| Some(&v.0) == stable.current.key.as_ref().map(|k| k.clone().into_bytes()).as_ref()),
            "the old key is gone as soon as it signs nothing"
        );

        assert_eq!(stays(&retiring, &situation(due + 1199)), at(due + 1200));
        let slow = Situation { taken_up: false, ..situation(due + 9000) };
        assert_eq!(stays(&retiring, &slow), at(due + 9060), "a broker still shows a certificate of the old one");
        let stable = advanced(&retiring, &situation(due + 1200));
        assert_eq!((stable.phase(), stable.bundle()), (Phase::Stable, next.certificate));
    }

    #[test]
    fn a_request_is_followed_once() {
        let asked = Situation { request: "2026-11-24", ..situation(10) };
        let introducing = advanced(&first(), &asked);
        assert_eq!(introducing.phase(), Phase::Introducing);
        let again = Situation { now: at(10 + 600), ..asked };
        let retiring = advanced(&introducing, &again);
        let again = Situation { now: at(10 + 1200), ..asked };
        let stable = advanced(&retiring, &again);
        assert_eq!(stable.phase(), Phase::Stable);
        stays(&stable, &again);
        advanced(&stable, &Situation { request: "again", ..again });
    }

    #[test]
    fn an_expired_authority_is_waited_for_by_nobody() {
        let introducing = advanced(&first(), &Situation { request: "x", ..situation(0) });
        let late = Situation { taken_up: false, ..situation(108_000) };
        assert_eq!(advanced(&introducing, &late).phase(), Phase::Retiring);
    }

    #[test]
    fn lost_keys_are_a_rollover_too() {
        let old = first();
        let lost = Authorities::after_loss("m", &old.bundle(), &POLICY, &situation(50)).expect("no failure");
        let lost = lost.expect("a readable bundle");
        assert_eq!((lost.phase(), lost.current.key.is_none()), (Phase::Introducing, true));
        assert_eq!(Authorities::read(&lost.entries()).as_ref(), Ok(&lost));
        stays(&lost, &situation(60));
        let gone = Situation { leaf_is_gone: true, taken_up: false, ..situation(60) };
        assert_eq!(advanced(&lost, &gone).phase(), Phase::Retiring);
        let retiring = advanced(&lost, &situation(650));
        assert!(retiring.bundle().contains(&old.current.certificate));
        let unreadable = Authorities::after_loss("m", "x", &POLICY, &situation(50)).expect("no failure");
        assert_eq!(unreadable, None);
    }

    #[test]
    fn what_a_secret_holds_is_read_back() {
        let stable = first();
        let introducing = advanced(&stable, &Situation { request: "x", ..situation(5) });
        let retiring = advanced(&introducing, &situation(700));
        for state in [stable, introducing, retiring] {
            assert_eq!(Authorities::read(&state.entries()), Ok(state));
        }
    }

    #[rstest]
    #[case("ca.crt", None, "`ca.crt` is missing")]
    #[case("ca.key", None, "`ca.key` is missing")]
    #[case("ca.crt", Some("hello"), "holds no certificate")]
    #[case("ca.crt", Some("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----"), "cannot be read as PEM")]
    #[case("ca.key", Some("hello"), "private key cannot be read")]
    #[case("since", Some("yesterday"), "`since` holds no time")]
    #[case("previous.crt", Some("x"), "`previous.crt` holds no certificate")]
    fn what_is_wrong_with_a_secret_is_told(#[case] key: &str, #[case] text: Option<&str>, #[case] words: &str) {
        let mut data = first().entries();
        match text {
            Some(text) => data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec())),
            None => data.remove(key),
        };
        let problem = Authorities::read(&data).expect_err("unreadable");
        assert!(problem.contains(words), "{problem}");
    }

    #[test]
    fn a_key_of_another_authority_is_found() {
        let mut data = first().entries();
        data.insert("ca.key".to_owned(), first().entries()["ca.key"].clone());
        assert!(Authorities::read(&data).expect_err("mismatch").contains("another certificate"));
    }
}
