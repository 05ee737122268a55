//! Events and requests that nobody stores, from party to party. Pure.
//!
//! They go through an account of their own in which nobody signs in: a publisher's account hands each to that account, and
//! that to the account of everybody who may hear or answer it. Three prefixes keep the steps apart, so that no broker sees a
//! circle, and that what a party hears is not taken for what it says:
//!
//! ```text
//! publisher's account        the live account          listener's account
//! s becomes $EM.out.s  ──▶   $EM.to.s becomes   ──▶   $EM.in.s becomes s
//!                            $EM.bus.s
//! ```
//!
//! At each step the broker puts a reply subject of its own for the sender's, and takes one answer for it. So an answer finds
//! its way back, and a reply subject leads nowhere but to who asked. A publisher's own subscriptions hear it this way as well.

use std::collections::BTreeMap;

use eventmesh_wire::subject::Pattern;

use super::{
    claims::{Account, AnswerPermission, Export, Import, Limits, Mapping, ResponseType, ShareKind},
    rights::disjoint,
};

/// How long a request may be answered, in nanoseconds; brokers forget where the answer goes by then.
const ANSWER_WITHIN: i64 = 120_000_000_000;

/// Rights in Topics that store nothing: subjects, each with the subject of the Topic that holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    pub publish: BTreeMap<Pattern, Pattern>,
    pub hear: BTreeMap<Pattern, Pattern>,
    pub reply: BTreeMap<Pattern, Pattern>,
}

/// What a subject becomes as soon as it is published.
#[must_use]
pub fn outgoing(subject: &Pattern) -> String {
    format!("$EM.out.{subject}")
}

/// What an event or a request is in the live account as it comes there.
#[must_use]
pub fn handed_over(subject: &str) -> String {
    format!("$EM.to.{subject}")
}

/// What it is there on its way to those who may hear or answer it.
#[must_use]
pub fn under_way(subject: &str) -> String {
    format!("$EM.bus.{subject}")
}

fn incoming(subject: &Pattern) -> String {
    format!("$EM.in.{subject}")
}

impl Live {
    /// Subjects that it may subscribe to.
    pub fn received(&self) -> impl Iterator<Item = &Pattern> {
        self.hear.keys().chain(self.reply.keys())
    }

    /// Subjects that come into its account; no two overlap, or an event would come twice.
    fn accepted(&self) -> Vec<Pattern> {
        let wanted = super::grants::normalize(self.received().cloned().collect());
        let of = |subject: &Pattern| self.hear.get(subject).or_else(|| self.reply.get(subject)).cloned();
        disjoint(&wanted.into_iter().filter_map(|one| Some((one.clone(), of(&one)?))).collect())
    }

    /// One answer to each request that it was given.
    #[must_use]
    pub fn answer(&self) -> Option<AnswerPermission> {
        (!self.reply.is_empty()).then_some(AnswerPermission { max: 1, ttl: ANSWER_WITHIN })
    }

    /// Adds to a party's account what it says and hears. `live`: the account in between.
    pub fn put_into(&self, account: &mut Account, live: &str) {
        for subject in disjoint(&self.publish) {
            account.imports.push(service(live, &handed_over(subject.as_str()), &outgoing(&subject)));
        }
        for subject in self.publish.keys() {
            map(account, subject.as_str(), &outgoing(subject));
        }
        for subject in self.accepted() {
            account.exports.push(export(&incoming(&subject)));
            map(account, &incoming(&subject), subject.as_str());
        }
        account.limits.exports = i64::try_from(account.exports.len()).unwrap_or(i64::MAX);
    }
}

/// The account in between. `parties`: the account of each and its rights.
pub fn account<'a>(parties: impl Iterator<Item = (&'a str, &'a Live)>) -> Account {
    let mut account = Account::new(Limits { conn: 0, leaf: 0, ..Limits::NONE }, Vec::new());
    // Only accounts that the operator signs can import it, and each imports its own subjects.
    account.exports.push(export(&handed_over(">")));
    map(&mut account, &handed_over(">"), &under_way(">"));
    for (party, rights) in parties {
        for subject in rights.accepted() {
            account.imports.push(service(party, &incoming(&subject), &under_way(subject.as_str())));
        }
    }
    account
}

fn service(account: &str, subject: &str, local: &str) -> Import {
    Import {
        name: subject.to_owned(),
        subject: subject.to_owned(),
        account: account.to_owned(),
        local_subject: Some(local.to_owned()),
        kind: ShareKind::Service,
    }
}

fn export(subject: &str) -> Export {
    Export {
        name: subject.to_owned(),
        subject: subject.to_owned(),
        kind: ShareKind::Service,
        response_type: Some(ResponseType::Singleton),
    }
}

/// Wildcards of the target are numbered; a final `>` stands for the same on both sides.
fn map(account: &mut Account, from: &str, to: &str) {
    let mut number = 0;
    let numbered = to.split('.').map(|token| match token {
        "*" => {
            number += 1;
            format!("{{{{wildcard({number})}}}}")
        }
        token => token.to_owned(),
    });
    let subject = numbered.collect::<Vec<_>>().join(".");
    account.mappings.insert(from.to_owned(), vec![Mapping { subject, weight: 100 }]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        claims::SigningKey,
        rights::{PartyLimits, Rights},
    };

    const LIMITS: PartyLimits = PartyLimits { max_payload: 100, max_connections: 5 };

    fn subjects(all: &[&str]) -> BTreeMap<Pattern, Pattern> {
        let of = Pattern::parse("live.>").expect("a pattern");
        all.iter().map(|one| (Pattern::parse(one).expect("a pattern"), of.clone())).collect()
    }

    fn party(publish: &[&str], hear: &[&str], reply: &[&str]) -> Rights {
        let live = Live { publish: subjects(publish), hear: subjects(hear), reply: subjects(reply) };
        Rights { live, ..Rights::default() }
    }

    fn imports(account: &Account) -> Vec<(&str, &str, &str)> {
        let live = account.imports.iter().filter(|import| import.local_subject.as_deref() != Some("$JS.API.INFO"));
        live.map(|i| (i.account.as_str(), i.subject.as_str(), i.local_subject.as_deref().unwrap_or_default())).collect()
    }

    fn mappings(account: &Account) -> Vec<(&str, &str)> {
        account.mappings.iter().map(|(from, to)| (from.as_str(), to[0].subject.as_str())).collect()
    }

    #[test]
    fn who_publishes_hands_over_exactly_what_it_was_granted() {
        let account = party(&["live.a.*"], &[], &[]).account("AMESH", Some("ALIVE"), &["K"], "r", LIMITS);
        assert_eq!(imports(&account), [("ALIVE", "$EM.to.live.a.*", "$EM.out.live.a.*")]);
        assert_eq!(mappings(&account), [("live.a.*", "$EM.out.live.a.{{wildcard(1)}}")]);
        assert!(account.exports.is_empty() && account.limits.exports == 0);
        let SigningKey::Scoped(scope) = &account.signing_keys[0] else { panic!("scoped") };
        assert_eq!(scope.template.publish.allow, ["$EM.out.live.a.*", "_INBOX.>"]);
        assert_eq!(scope.template.subscribe.allow, ["_INBOX.>"], "it hears nothing");
        assert_eq!(scope.template.answer, None);
    }

    #[test]
    fn who_answers_gets_requests_and_may_publish_one_answer_to_each() {
        let account = party(&[], &[], &["live.ask.>"]).account("AMESH", Some("ALIVE"), &["K"], "r", LIMITS);
        assert!(imports(&account).is_empty());
        let exported: Vec<_> = account.exports.iter().map(|export| (export.subject.as_str(), export.kind)).collect();
        assert_eq!(exported, [("$EM.in.live.ask.>", ShareKind::Service)]);
        assert_eq!(account.limits.exports, 1);
        assert_eq!(mappings(&account), [("$EM.in.live.ask.>", "live.ask.>")]);
        let SigningKey::Scoped(scope) = &account.signing_keys[0] else { panic!("scoped") };
        assert_eq!(scope.template.publish.allow, ["_INBOX.>"]);
        assert_eq!(scope.template.subscribe.allow, ["_INBOX.>", "live.ask.>"]);
        assert_eq!(scope.template.answer.map(|answer| answer.max), Some(1));
    }

    #[test]
    fn nothing_comes_twice_however_rights_overlap() {
        let rights = party(&[], &["live.ask.*", "live.*.eu"], &["live.ask.x"]);
        let account = super::account([("AONE", &rights.live)].into_iter());
        assert_eq!(imports(&account), [("AONE", "$EM.in.live.>", "$EM.bus.live.>")]);
        let own = rights.account("AMESH", Some("ALIVE"), &["K"], "r", LIMITS);
        assert_eq!(own.exports.len(), 1);
        let SigningKey::Scoped(scope) = &own.signing_keys[0] else { panic!("scoped") };
        // What it may listen to stays as narrow as its rights.
        assert_eq!(scope.template.subscribe.allow, ["_INBOX.>", "live.*.eu", "live.ask.*", "live.ask.x"]);
    }

    #[test]
    fn nobody_signs_in_at_the_account_in_between() {
        let account = super::account(std::iter::empty());
        assert!(account.signing_keys.is_empty() && account.limits.conn == 0);
        assert_eq!(mappings(&account), [("$EM.to.>", "$EM.bus.>")]);
    }
}
