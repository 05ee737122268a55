//! What the webhook shows to the API servers, and what these trust. Pure but for the randomness of new keys.
//!
//! Two objects belong together and cannot be written at once: the Secret with the certificate, and `caBundle` in the
//! configuration of the webhook. Trust comes first and goes last: an authority is in `caBundle` for a whole overlap before
//! it signs, and stays there for another after the next has begun to. So no replica, however late it takes a certificate
//! up, shows one that is not trusted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{ByteString, jiff::Timestamp};

use crate::{
    mesh::certificates::Found,
    pki::{self, Authorities, Authority, Pair, Policy, Situation, leaf, reading, rollover::split},
};

/// The Secret, in the operator's namespace.
pub const SECRET: &str = "eventmesh-operator-webhook";
/// A certificate lasts 90 days, an authority two and a half years; two are trusted beside each other for an hour.
pub const POLICY: Policy = Policy {
    leaf: Duration::from_hours(2160),
    authority: Duration::from_hours(21600),
    overlap: Duration::from_hours(1),
};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Everything that the plan depends on.
pub struct Seen<'a> {
    pub authorities: &'a Found<Authorities>,
    pub serving: Option<&'a Pair>,
    /// What this process last found good: a Secret that is spoilt is written back from it.
    pub remembered: Option<&'a Authorities>,
    /// `caBundle`, where all webhooks of the configuration have the same.
    pub trusted: Option<&'a str>,
    /// A text that somebody changes to ask for a new authority.
    pub request: &'a str,
    /// By which API servers reach the webhook.
    pub names: &'a BTreeSet<String>,
    pub policy: Policy,
    pub now: Timestamp,
}

/// What should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub authorities: Authorities,
    pub serving: Pair,
    /// What is worth a line in the log.
    pub notes: Vec<String>,
    pub look_again: Timestamp,
}

impl Plan {
    /// `caBundle`.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.authorities.bundle()
    }

    /// Content of the Secret.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, ByteString> {
        let mut entries = self.authorities.entries();
        for (key, text) in [(CERTIFICATE, &self.serving.certificate), (KEY, &self.serving.key)] {
            entries.insert(key.to_owned(), ByteString(text.clone().into_bytes()));
        }
        entries
    }
}

/// The certificate of the Secret, whatever it is worth.
#[must_use]
pub fn serving(data: &BTreeMap<String, ByteString>) -> Option<Pair> {
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Pair { certificate: text(CERTIFICATE)?, key: text(KEY)? })
}

/// # Errors
/// When a certificate cannot be made, for which no cause is known.
pub fn plan(seen: &Seen<'_>) -> Result<Plan, rcgen::Error> {
    let mut notes = Vec::new();
    let mut authorities = match (seen.authorities, seen.remembered) {
        (Found::Good(authorities), _) => authorities.clone(),
        (found, Some(remembered)) => {
            notes.push(format!("Secret {SECRET} {} and is written back from memory", problem(found)));
            remembered.clone()
        }
        (found, None) => {
            notes.push(format!("Secret {SECRET} {}; a new authority is made", problem(found)));
            anew(seen)?
        }
    };
    // Steps that are due at once, such as away from an authority that has expired.
    let mut look_again = seen.now;
    for _ in 0..3 {
        match authorities.advance(SECRET, &seen.policy, &situation(seen, &authorities))? {
            Err(next) => {
                look_again = next;
                break;
            }
            Ok(next) => {
                notes.push(format!("the authority's rollover has come to phase {}", next.phase().as_str()));
                authorities = next;
            }
        }
    }
    let signer = &authorities.current;
    let (serving, due) = match seen.serving.map(|pair| (pair, is_good(pair, signer, seen))) {
        Some((pair, Ok(due))) => (pair.clone(), due),
        bad => {
            let pair = signer.issue(seen.names, seen.policy.leaf, seen.now)?;
            if let Some((_, Err(why))) = bad {
                notes.push(format!("the webhook gets a new certificate, since of the old {why}"));
            }
            let facts = reading::facts(&pair.certificate).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
            (pair, pki::renewal(&facts))
        }
    };
    Ok(Plan { authorities, serving, notes, look_again: look_again.min(due) })
}

fn is_good(pair: &Pair, signer: &Authority, seen: &Seen<'_>) -> Result<Timestamp, &'static str> {
    leaf::is_good(pair, signer, seen.names, &seen.policy, seen.now)
}

fn problem<T>(found: &Found<T>) -> String {
    match found {
        Found::Absent => "is not there".to_owned(),
        Found::Unreadable(problem) => format!("cannot be read ({problem})"),
        Found::Good(_) => "is good".to_owned(),
    }
}

/// What the API servers trust now stays trusted for an overlap: other replicas may still show a certificate of it.
fn anew(seen: &Seen<'_>) -> Result<Authorities, rcgen::Error> {
    let situation = Situation { now: seen.now, request: seen.request, taken_up: false, leaf_is_gone: true };
    let mut first = Authorities::first(SECRET, &seen.policy, &situation)?;
    let known = split(seen.trusted.unwrap_or_default()).into_iter();
    first.previous = known.filter(|pem| reading::facts(pem).is_ok_and(|facts| facts.not_after > seen.now)).collect();
    Ok(first)
}

fn situation<'a>(seen: &'a Seen<'_>, authorities: &Authorities) -> Situation<'a> {
    Situation {
        now: seen.now,
        request: seen.request,
        taken_up: seen.trusted == Some(authorities.bundle().as_str()),
        leaf_is_gone: false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;

    use super::*;
    use crate::pki::{Phase, reading::verify};

    /// Both objects, as the API server has them, and the process that keeps them.
    struct World {
        data: Option<BTreeMap<String, ByteString>>,
        bundle: Option<String>,
        remembered: Option<Authorities>,
        names: BTreeSet<String>,
        request: String,
        now: Timestamp,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                data: None,
                bundle: None,
                remembered: None,
                names: ["webhook.system.svc".to_owned()].into(),
                request: String::new(),
                now: Timestamp::from_second(1_800_000_000).expect("a time"),
            };
            world.pass();
            world
        }

        fn plan(&self) -> Plan {
            let found = match self.data.as_ref().map(Authorities::read) {
                None => Found::Absent,
                Some(Ok(authorities)) => Found::Good(authorities),
                Some(Err(problem)) => Found::Unreadable(problem),
            };
            plan(&Seen {
                authorities: &found,
                serving: self.data.as_ref().and_then(serving).as_ref(),
                remembered: self.remembered.as_ref(),
                trusted: self.bundle.as_deref(),
                request: &self.request,
                names: &self.names,
                policy: POLICY,
                now: self.now,
            })
            .expect("a plan")
        }

        fn pass(&mut self) -> Plan {
            let plan = self.plan();
            self.bundle = Some(plan.bundle());
            self.data = Some(plan.entries());
            self.remembered = Some(plan.authorities.clone());
            plan
        }

        fn later(&mut self, by: SignedDuration) {
            self.now = self.now.checked_add(by).expect("a time");
        }

        fn serving(&self) -> Pair {
            self.data.as_ref().and_then(serving).expect("a certificate")
        }

        fn is_trusted(&self, pair: &Pair) -> bool {
            verify(&pair.certificate, self.bundle.as_deref().unwrap_or_default(), self.now).is_ok()
        }
    }

    #[test]
    fn what_is_good_is_left_alone() {
        let mut world = World::new();
        let first = world.pass();
        assert_eq!(first, world.pass());
        assert!(first.notes.is_empty(), "{:?}", first.notes);
        assert!(world.is_trusted(&first.serving));
        let two_thirds = first.look_again.as_second() - world.now.as_second();
        assert!((1439 * 3600..1441 * 3600).contains(&two_thirds), "{two_thirds}");
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_by_the_same_authority() {
        let mut world = World::new();
        let (before, bundle) = (world.serving(), world.bundle.clone());
        world.now = world.pass().look_again;
        world.pass();
        assert_ne!(world.serving(), before);
        assert_eq!(world.bundle, bundle);
        assert!(world.is_trusted(&before), "a replica that is late");
    }

    /// Years, pass by pass at the times that each pass asks for. A replica that is a pass behind, and an API server that
    /// is, are both looked at in every step.
    #[test]
    fn through_every_rollover_whoever_is_late_is_trusted() {
        let mut world = World::new();
        let first = world.pass().authorities.current.certificate;
        let mut phases = BTreeSet::new();
        for _ in 0..60 {
            let (late_replica, late_server) = (world.serving(), world.bundle.clone());
            let plan = world.pass();
            phases.insert(plan.authorities.phase().as_str());
            assert!(world.is_trusted(&late_replica) && world.is_trusted(&world.serving()));
            let late = verify(&world.serving().certificate, &late_server.unwrap_or_default(), world.now);
            assert_eq!(late, Ok(()));
            assert!(plan.look_again > world.now, "no time goes by");
            world.now = plan.look_again;
        }
        assert_eq!(phases.len(), 3, "{phases:?}");
        assert_ne!(world.pass().authorities.current.certificate, first);
    }

    #[test]
    fn an_authority_signs_only_after_its_overlap_in_the_bundle() {
        let mut world = World::new();
        world.request = "please".to_owned();
        let introducing = world.pass();
        assert_eq!(introducing.authorities.phase(), Phase::Introducing);
        // The API server has lost the bundle: the overlap does not end without it.
        world.later(SignedDuration::from_hours(2));
        world.bundle = None;
        assert_eq!(world.pass().authorities.phase(), Phase::Introducing);
        assert_eq!(world.pass().authorities.phase(), Phase::Retiring);
        world.later(SignedDuration::from_hours(2));
        assert_eq!(world.pass().authorities.phase(), Phase::Stable);
    }

    #[test]
    fn after_years_without_an_operator_all_is_new_in_one_pass() {
        let mut world = World::new();
        let before = world.serving();
        world.later(SignedDuration::from_hours(22_000));
        assert!(!world.is_trusted(&before));
        world.pass();
        assert!(world.is_trusted(&world.serving()));
        assert_ne!(world.serving(), before);
    }

    #[test]
    fn an_expired_certificate_of_a_good_authority_is_replaced() {
        let mut world = World::new();
        world.later(SignedDuration::from_hours(2161));
        assert!(!world.is_trusted(&world.serving()));
        let plan = world.pass();
        assert!(world.is_trusted(&world.serving()));
        assert!(plan.notes.iter().any(|note| note.contains("it has expired")), "{:?}", plan.notes);
    }

    #[test]
    fn a_secret_that_is_spoilt_is_written_back_and_one_certificate_of_it_made_anew() {
        let mut world = World::new();
        let before = world.data.clone().expect("data");
        world.data = None;
        let plan = world.pass();
        assert_eq!(Some(&plan.authorities), Authorities::read(&before).ok().as_ref());
        for (key, text) in [("ca.crt", "x"), ("ca.key", "x"), ("tls.key", "x"), ("tls.crt", ""), ("since", "never")] {
            let mut spoilt = before.clone();
            spoilt.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
            world.data = Some(spoilt);
            let plan = world.pass();
            assert_eq!(Some(&plan.authorities), Authorities::read(&before).ok().as_ref(), "{key}");
            assert!(world.is_trusted(&world.serving()), "{key}");
        }
    }

    #[test]
    fn without_memory_a_new_authority_joins_those_that_are_trusted() {
        let mut world = World::new();
        let late_replica = world.serving();
        (world.data, world.remembered) = (None, None);
        let plan = world.pass();
        assert_eq!(plan.authorities.phase(), Phase::Retiring);
        assert!(world.is_trusted(&late_replica) && world.is_trusted(&world.serving()));
        world.later(SignedDuration::from_hours(2));
        world.pass();
        assert!(!world.is_trusted(&late_replica) && world.is_trusted(&world.serving()));
    }

    #[test]
    fn a_bundle_of_rubbish_is_replaced() {
        let mut world = World::new();
        for rubbish in [None, Some("x"), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")] {
            world.bundle = rubbish.map(str::to_owned);
            (world.data, world.remembered) = (None, None);
            let plan = world.pass();
            assert_eq!(plan.authorities.phase(), Phase::Stable, "{rubbish:?}");
            assert!(world.is_trusted(&world.serving()));
        }
    }

    #[test]
    fn a_new_name_is_a_new_certificate() {
        let mut world = World::new();
        world.names.insert("127.0.0.1".to_owned());
        world.pass();
        assert!(reading::is_for(&world.serving().certificate, "127.0.0.1"));
    }
}
