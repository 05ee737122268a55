//! From what is there to what should be there. Pure but for the randomness of new keys.

use std::{collections::BTreeSet, time::Duration};

use eventmesh_crds::{
    conditions::{ConditionType, Reason, Verdict},
    tls::TlsIssuer,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::files::{Files, Stored, union};
use crate::{
    broker::MeshKey,
    mesh::build::names,
    pki::{Authorities, Authority, Outside, Pair, Policy, Situation, leaf, outside::Unusable, reading},
};

/// How soon to look again at what nobody tells of.
const PENDING: SignedDuration = SignedDuration::from_secs(30);

/// Something that may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    Absent,
    /// It is there and cannot be used; the text says why.
    Unreadable(String),
    Good(T),
}

/// Why there is no certificate from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoOutside {
    /// Somebody still has to make it, or to say where it is.
    Pending(Reason, String),
    Invalid(Unusable),
}

/// Everything that the plan depends on.
pub struct Seen<'a> {
    pub key: &'a MeshKey,
    pub issuer: TlsIssuer,
    pub policy: Policy,
    /// What certificates are for.
    pub names: BTreeSet<String>,
    /// A text that somebody changes to ask for a new authority.
    pub request: &'a str,
    pub authorities: &'a Found<Authorities>,
    /// What this process last found good.
    pub remembered: Option<&'a Authorities>,
    pub stored: &'a Stored,
    /// With the issuers CertManager and Secret.
    pub outside: Option<Result<Outside, NoOutside>>,
    /// Every broker runs with what is stored.
    pub taken_up: bool,
    pub now: Timestamp,
}

/// Something to tell in a Kubernetes Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub text: String,
}

/// What should be.
#[derive(Debug)]
pub struct Plan {
    /// As they should be stored; absent when what is stored cannot be read and nobody remembers.
    pub authorities: Option<Authorities>,
    /// Absent when brokers cannot be given anything yet.
    pub files: Option<Files>,
    /// What is not as the spec asks.
    pub problem: Option<Verdict>,
    pub notes: Vec<Note>,
    /// Something is kept only until every broker is up to date; another pass follows then.
    pub moving: bool,
    pub look_again: Timestamp,
}

/// # Errors
/// When a certificate cannot be made, for which no cause is known.
pub fn run(seen: &Seen<'_>) -> Result<Plan, rcgen::Error> {
    let mut notes = Vec::new();
    let authorities = match authorities(seen, &mut notes)? {
        Ok(authorities) => authorities,
        Err(problem) => return Ok(stuck(seen, &problem)),
    };
    let (authorities, mut look_again) = advance(seen, authorities, &mut notes)?;
    let route = route(seen, &authorities, &mut look_again, &mut notes)?;
    let mut problem = None;
    let (serving, authority) = match (seen.issuer, &seen.outside) {
        (TlsIssuer::Disabled, _) => (None, None),
        (TlsIssuer::CertManager | TlsIssuer::Secret, Some(Ok(outside))) => {
            look_again = look_again.min(outside.facts.not_after);
            (Some(outside.pair.clone()), Some(outside.authority.clone()))
        }
        (TlsIssuer::CertManager | TlsIssuer::Secret, outside) => {
            let (verdict, again) = refuse(outside.as_ref(), seen.stored.serving.is_some(), seen.now);
            problem = Some(verdict);
            look_again = again.map_or(look_again, |again| again.min(look_again));
            if seen.stored.serving.is_none() {
                return Ok(Plan {
                    authorities: Some(authorities),
                    files: None,
                    problem,
                    notes,
                    moving: false,
                    look_again,
                });
            }
            (seen.stored.serving.clone(), seen.stored.authority.clone())
        }
        (TlsIssuer::Managed, _) => (Some(route.clone()), Some(authorities.bundle())),
    };
    // Until every broker shows the new certificate, clients must know those that show the old one.
    let moving = !seen.taken_up || serving != seen.stored.serving;
    let authority = authority.map(|wanted| match &seen.stored.authority {
        Some(before) if moving => union(&wanted, before),
        _ => wanted,
    });
    let files = Files { serving, authority, route, route_authority: authorities.bundle() };
    Ok(Plan { authorities: Some(authorities), files: Some(files), problem, notes, moving, look_again })
}

/// The authorities as they are, made or found again where they are not.
fn authorities(seen: &Seen<'_>, notes: &mut Vec<Note>) -> Result<Result<Authorities, String>, rcgen::Error> {
    let secret = names::authority(&seen.key.name);
    let mesh = seen.key.to_string();
    let mut warn = |reason, text| notes.push(Note { warning: true, reason, text });
    Ok(Ok(match (seen.authorities, seen.remembered) {
        (Found::Good(authorities), _) => authorities.clone(),
        (Found::Absent, Some(remembered)) => {
            warn(
                "AuthorityRestored",
                format!(
                    "Secret {secret} was deleted and has been written back from memory; to have the authority replaced, \
                     change the annotation {}",
                    names::RENEW_AUTHORITY
                ),
            );
            remembered.clone()
        }
        (Found::Unreadable(problem), Some(remembered)) => {
            warn(
                "AuthorityRestored",
                format!("Secret {secret} could not be read ({problem}) and has been written back from memory"),
            );
            remembered.clone()
        }
        (Found::Unreadable(problem), None) => return Ok(Err(problem.clone())),
        (Found::Absent, None) => {
            let situation = situation(seen);
            let lost = match &seen.stored.route_authority {
                Some(bundle) => Authorities::after_loss(&mesh, bundle, &seen.policy, &situation)?,
                None => None,
            };
            match lost {
                Some(authorities) => {
                    let text = format!(
                        "Secret {secret} is gone, and with it the key of the mesh's authority; a new authority is \
                         introduced beside the old one"
                    );
                    warn("AuthorityLost", text);
                    authorities
                }
                None => Authorities::first(&mesh, &seen.policy, &situation)?,
            }
        }
    }))
}

fn situation<'a>(seen: &'a Seen<'_>) -> Situation<'a> {
    let (route, bundle) = (seen.stored.route.as_ref(), seen.stored.route_authority.as_deref());
    let holds =
        route.zip(bundle).is_some_and(|(pair, bundle)| reading::verify(&pair.certificate, bundle, seen.now).is_ok());
    Situation { now: seen.now, request: seen.request, taken_up: seen.taken_up, leaf_is_gone: !holds }
}

/// One step of a rollover at most, and when to look for the next.
fn advance(
    seen: &Seen<'_>,
    authorities: Authorities,
    notes: &mut Vec<Note>,
) -> Result<(Authorities, Timestamp), rcgen::Error> {
    let mesh = seen.key.to_string();
    let situation = situation(seen);
    match authorities.advance(&mesh, &seen.policy, &situation)? {
        Err(look_again) => Ok((authorities, look_again)),
        Ok(next) => {
            let text = format!("the authority's rollover has come to phase {}", next.phase().as_str());
            notes.push(Note { warning: false, reason: "AuthorityRollover", text });
            let not_yet = Situation { taken_up: false, request: &next.request, ..situation };
            let look_again = next.advance(&mesh, &seen.policy, &not_yet)?.err();
            Ok((next, look_again.unwrap_or(seen.now)))
        }
    }
}

/// The certificate by which brokers know each other: the one that is there as long as it is good.
fn route(
    seen: &Seen<'_>,
    authorities: &Authorities,
    look_again: &mut Timestamp,
    notes: &mut Vec<Note>,
) -> Result<Pair, rcgen::Error> {
    let signer = &authorities.current;
    if signer.key.is_none()
        && let Some(stored) = &seen.stored.route
    {
        // Nobody can sign now; `advance` goes on at once when this one does not hold.
        return Ok(stored.clone());
    }
    let why = match &seen.stored.route {
        None => None,
        Some(stored) => match leaf::is_good(stored, signer, &seen.names, &seen.policy, seen.now) {
            Ok(due) => {
                *look_again = (*look_again).min(due);
                return Ok(stored.clone());
            }
            Err(why) => Some(why),
        },
    };
    let pair = issue(seen, signer)?;
    if let Ok(facts) = reading::facts(&pair.certificate) {
        *look_again = (*look_again).min(crate::pki::renewal(&facts));
        if let Some(why) = why {
            let text = format!("the brokers get a new certificate, serial {}, since of the old {why}", facts.serial);
            notes.push(Note { warning: false, reason: "CertificateIssued", text });
        }
    }
    Ok(pair)
}

fn issue(seen: &Seen<'_>, signer: &Authority) -> Result<Pair, rcgen::Error> {
    signer.issue(&seen.names, seen.policy.leaf, seen.now)
}

/// Nothing can be renewed; brokers keep what they have.
fn stuck(seen: &Seen<'_>, problem: &str) -> Plan {
    let secret = names::authority(&seen.key.name);
    let message = format!(
        "Secret {secret}: {problem}. Brokers run on with the certificates they have, and nothing is renewed. Restore the \
         Secret from a backup, or delete it: then a new authority is introduced, and the old one trusted beside it until \
         all brokers have changed over"
    );
    Plan {
        authorities: None,
        files: seen.stored.whole(),
        problem: Some(Verdict::bad(ConditionType::Programmed, Reason::AuthorityUnreadable, message)),
        notes: Vec::new(),
        moving: false,
        look_again: seen.now.saturating_add(SignedDuration::from_mins(10)).unwrap_or(Timestamp::MAX),
    }
}

fn refuse(outside: Option<&Result<Outside, NoOutside>>, keeps: bool, now: Timestamp) -> (Verdict, Option<Timestamp>) {
    let consequence =
        if keeps { "brokers keep the certificate they have" } else { "brokers cannot be started without one" };
    let (reason, message, again) = match outside {
        // Secrets are watched; of what cert-manager says, and of its coming at all, no watch tells.
        Some(Err(NoOutside::Pending(reason @ Reason::CertificatePending, message))) => {
            (*reason, message.clone(), now.saturating_add(PENDING).ok())
        }
        Some(Err(NoOutside::Pending(reason, message))) => (*reason, message.clone(), None),
        Some(Err(NoOutside::Invalid(unusable))) => {
            (Reason::CertificateInvalid, unusable.message.clone(), unusable.look_again)
        }
        Some(Ok(_)) | None => {
            (Reason::CertificatePending, "the certificate has not been looked for yet".to_owned(), None)
        }
    };
    (Verdict::bad(ConditionType::ResolvedRefs, reason, format!("{message}; {consequence}")), again)
}

/// How long from `now` until then, for the queue.
#[must_use]
pub fn until(then: Timestamp, now: Timestamp) -> Duration {
    // A second more than that: certificates count in whole seconds.
    Duration::try_from(then.duration_since(now)).unwrap_or_default() + Duration::from_secs(1)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
