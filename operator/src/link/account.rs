//! The account that carries a link: one on each side, in which nobody signs in but the other side's brokers. Pure.
//!
//! It holds nothing but what the link exports and imports, so the brokers of each side enforce both lists by themselves,
//! whatever the other side is willing to do:
//!
//! ```text
//! mesh's account ($EM.link.s, what a Topic has stored) ──▶ s ──▶ leaf node ──▶ far side
//! live account   ($EM.bus.s, live events and requests) ──▶
//!
//! far side ──▶ leaf node ──▶ s ──▶ mesh's account, where a Topic stores s
//!                              ──▶ live account, where somebody may hear or answer s
//!                              ──▶ account of another link that exports s
//! ```
//!
//! Every arrow between accounts is a service: the broker puts a reply subject of its own for the sender's, so a far side can
//! send answers nowhere but back to itself.

use std::collections::BTreeSet;

use eventmesh_wire::subject::Pattern;

use super::copy::{Held, sent_subjects};
use crate::identity::{
    claims::{
        Account, Export, Import, Limits, Permission, ResponseType, Scope, ScopeKind, ShareKind, SigningKey, Template,
    },
    live,
};

/// Where a Topic hands on what it has stored.
const STORED: &str = "$EM.link";
/// Where brokers send answers. In the account of a link there are only those to what came or went over it.
const ANSWERS: &str = "_R_.>";

/// What a link carries, once it is known what Topics the mesh has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// The link's lists.
    pub export: Vec<Pattern>,
    pub import: Vec<Pattern>,
    /// Of what Topics store here, what goes out.
    pub from_store: Vec<Pattern>,
    /// Of live Topics, what goes out.
    pub from_live: Vec<Pattern>,
    /// Of what comes in, what Topics store.
    pub to_store: Vec<Pattern>,
    /// Of what comes in, what somebody may hear or answer as it comes.
    pub to_live: Vec<Pattern>,
    /// Of what comes in, what goes out again: the link and the subject.
    pub to_link: Vec<(String, Pattern)>,
    /// Streams of which the other side may keep copies.
    pub copies_out: BTreeSet<String>,
    /// Topics here that are copies.
    pub copies_in: Vec<Held>,
}

/// Where a Topic that a link exports hands on what it has stored: to the same subject below this.
#[must_use]
pub fn handed_on(subject: &str) -> String {
    format!("{STORED}.{subject}")
}

impl Carried {
    /// The account of the link. `of`: the accounts of the mesh's other links.
    #[must_use]
    pub fn account<'a>(
        &self,
        mesh: &str,
        live_account: Option<&str>,
        of: impl Fn(&str) -> Option<&'a str>,
        keys: &[&str],
        max_payload: i64,
    ) -> Account {
        let scopes = keys.iter().map(|key| SigningKey::Scoped(self.scope(key, max_payload))).collect();
        // Brokers count leaf nodes as connections too; that no client signs in is in the scope.
        let limits = Limits { payload: max_payload, ..Limits::NONE };
        let mut account = Account::new(limits, scopes);
        let copies_out = self.copies_out.iter().flat_map(|stream| sent_subjects(stream));
        account.exports = self.export.iter().map(ToString::to_string).chain(copies_out).map(export).collect();
        let to_store = self.to_store.iter().map(|subject| service(mesh, subject.as_str(), subject.as_str()));
        let to_live = live_account.into_iter().flat_map(|live_account| {
            let to = |subject: &Pattern| service(live_account, &live::handed_over(subject.as_str()), subject.as_str());
            self.to_live.iter().map(to)
        });
        let to_link = self.to_link.iter().filter_map(|(link, subject)| {
            let other = of(link)?;
            Some(service(other, subject.as_str(), subject.as_str()))
        });
        let copies_in = self.copies_in.iter().flat_map(|held| held.imports(mesh));
        account.imports = to_store.chain(to_live).chain(to_link).chain(copies_in).collect();
        account
    }

    /// What the mesh's account hands to the account of the link.
    pub fn store_imports(&self, account: &str) -> impl Iterator<Item = Import> {
        self.from_store.iter().map(move |subject| service(account, subject.as_str(), &handed_on(subject.as_str())))
    }

    /// What the live account hands to the account of the link.
    pub fn live_imports(&self, account: &str) -> impl Iterator<Item = Import> {
        self.from_live.iter().map(move |subject| service(account, subject.as_str(), &live::under_way(subject.as_str())))
    }

    /// What a Bridge that sends copies takes from the account of the link.
    pub fn copy_imports(account: &str, stream: &str) -> impl Iterator<Item = Import> {
        sent_subjects(stream).into_iter().map(move |subject| service(account, &subject, &subject))
    }

    /// The rights of the far side's brokers, where they dial: to send what this side imports, to ask for what it exports.
    fn scope(&self, key: &str, max_payload: i64) -> Scope {
        let allow = |subjects: &[Pattern], copies: Vec<String>| {
            let allow = subjects.iter().map(ToString::to_string).chain(copies).chain([ANSWERS.to_owned()]).collect();
            Permission { allow, deny: Vec::new() }
        };
        let copies_in = self.copies_in.iter().flat_map(Held::subjects_of_link).collect();
        let copies_out = self.copies_out.iter().flat_map(|stream| sent_subjects(stream)).collect();
        Scope {
            kind: ScopeKind::User,
            key: key.to_owned(),
            role: "link".to_owned(),
            template: Template {
                publish: allow(&self.import, copies_in),
                subscribe: allow(&self.export, copies_out),
                subs: -1,
                data: -1,
                payload: max_payload,
                allowed_connection_types: vec!["LEAFNODE".to_owned(), "LEAFNODE_WS".to_owned()],
                ..Template::default()
            },
        }
    }
}

pub(super) fn service(account: &str, subject: &str, local: &str) -> Import {
    Import {
        name: subject.to_owned(),
        subject: subject.to_owned(),
        account: account.to_owned(),
        local_subject: (local != subject).then(|| local.to_owned()),
        kind: ShareKind::Service,
    }
}

fn export(subject: String) -> Export {
    Export { name: subject.clone(), subject, kind: ShareKind::Service, response_type: Some(ResponseType::Singleton) }
}
