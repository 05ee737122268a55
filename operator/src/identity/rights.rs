//! From what a party may do to the claims of its account. Pure.
//!
//! Each party has an account of its own in the brokers: a space of subjects that it shares with nobody. What it may do
//! in the mesh is imported, subject by subject. A reply subject, which brokers do not check, therefore leads nowhere
//! but into the party's own space or to what it may publish anyway; and `_INBOX.>` is its own.

use std::collections::{BTreeMap, BTreeSet};

use eventmesh_wire::{names, subject::Pattern};

use super::{
    claims::{
        Account, Export, Import, Limits, Permission, ResponseType, Scope, ScopeKind, ShareKind, SigningKey, Template,
    },
    live::{self, Live},
};
use crate::link::copy;

/// What a party may do in a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// Subjects that it may publish to, each with the subject of the Topic that stores it.
    pub publish: BTreeMap<Pattern, Pattern>,
    /// Subjects whose events it may receive as they come; only where it speaks MQTT. In an account of its own it would get
    /// what it publishes itself twice, once from the mesh.
    pub listen: BTreeSet<Pattern>,
    /// Consumers that it may read: stream and consumer.
    pub consume: BTreeSet<(String, String)>,
    /// What it may do in Topics that store nothing.
    pub live: Live,
    /// Streams whose state it may ask for, to tell why nobody takes its events.
    pub inspect: BTreeSet<String>,
    /// Streams of which it sends copies over a link: the link and the stream.
    pub copies: BTreeSet<(String, String)>,
    /// Namespace and name of the Bridge that it reports as, and whose lease it may take.
    pub reports_as: Option<(String, String)>,
}

/// Limits that a mesh sets for each party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartyLimits {
    pub max_payload: i64,
    pub max_connections: i64,
}

/// Subscriptions that a party may have open at once; a broker pays memory for each.
const MAX_SUBSCRIPTIONS: i64 = 10_000;

/// Sessions and unacknowledged events of all MQTT clients of a mesh, in bytes.
const MQTT_STORAGE: i64 = 1 << 30;

/// Where a client library's request for the figures of its account goes: to nobody. Without this import the brokers
/// would let the party ask for streams of its own, and answer twice to what it asks of the mesh's.
const NOBODY: &str = "$EM.nobody";
const ACCOUNT_INFO: &str = "$JS.API.INFO";

/// The subjects by which a party's library talks to a consumer.
const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT";
const INFO: &str = "$JS.API.CONSUMER.INFO";
/// Back to what is not acknowledged: how a bridge that keeps order begins.
const RESET: &str = "$JS.API.CONSUMER.RESET";
const ACK: &str = "$JS.ACK";
const STREAM: &str = "$JS.API.STREAM.INFO";

impl Rights {
    /// What it takes from the mesh's account.
    fn imports(&self, mesh: &str) -> Vec<Import> {
        let service = |subject: &str| import(mesh, subject, ShareKind::Service);
        let mut imports: Vec<Import> = self.exact_publishes().iter().map(|subject| service(subject.as_str())).collect();
        imports.extend(self.own_subjects().iter().map(|subject| service(subject)));
        imports.push(Import { local_subject: Some(ACCOUNT_INFO.to_owned()), ..service(NOBODY) });
        imports
    }

    /// Subjects that are no events: by which it reads its consumers, reports, and agrees with its like on who is active.
    fn own_subjects(&self) -> Vec<String> {
        let mut subjects = Vec::new();
        for (stream, consumer) in &self.consume {
            subjects.extend([NEXT, INFO].map(|api| format!("{api}.{stream}.{consumer}")));
            subjects.push(format!("{ACK}.{stream}.{consumer}.>"));
            subjects.extend(self.reports_as.iter().map(|_| format!("{RESET}.{stream}.{consumer}")));
        }
        subjects.extend(self.inspect.iter().map(|stream| format!("{STREAM}.{stream}")));
        if let Some((namespace, bridge)) = &self.reports_as {
            subjects.push(names::report_subject(namespace, bridge, "*"));
            subjects.extend([names::lease_subject(namespace, bridge), names::lease_read_subject(namespace, bridge)]);
        }
        subjects
    }

    fn exact_publishes(&self) -> Vec<Pattern> {
        disjoint(&self.publish)
    }

    /// What its library may publish and subscribe to. The imports alone would do; this makes the broker say what was
    /// refused, where an event would otherwise go nowhere in silence.
    fn permissions(&self) -> (Permission, Permission) {
        let mut publish: Vec<String> = self.publish.keys().map(|subject| subject.as_str().to_owned()).collect();
        publish.extend(self.own_subjects());
        publish.extend(self.copies.iter().flat_map(|(_, stream)| copy::sent_subjects(stream)));
        publish.extend(self.live.publish.keys().map(live::outgoing));
        // An empty list would allow everything; its own inbox is harmless, and lets it test its connection.
        publish.push("_INBOX.>".to_owned());
        let mut subscribe = vec!["_INBOX.>".to_owned()];
        subscribe.extend(self.live.received().map(|subject| subject.as_str().to_owned()));
        (allow(publish), allow(subscribe))
    }

    /// The rights of users that `key` signs.
    #[must_use]
    pub fn scope(&self, key: &str, role: &str, limits: PartyLimits) -> Scope {
        let (publish, subscribe) = self.permissions();
        Scope {
            kind: ScopeKind::User,
            key: key.to_owned(),
            role: role.to_owned(),
            template: Template {
                publish,
                subscribe,
                answer: self.live.answer(),
                subs: MAX_SUBSCRIPTIONS,
                data: -1,
                payload: limits.max_payload,
                allowed_connection_types: vec!["STANDARD".to_owned(), "WEBSOCKET".to_owned()],
                ..Template::default()
            },
        }
    }

    /// The account of a party: its imports, and its signing keys with its rights. `live`: the account of live events.
    #[must_use]
    pub fn account(&self, mesh: &str, live: Option<&str>, keys: &[&str], role: &str, limits: PartyLimits) -> Account {
        let signing_keys = keys.iter().map(|key| SigningKey::Scoped(self.scope(key, role, limits))).collect();
        let mut account = Account::new(
            Limits {
                subs: MAX_SUBSCRIPTIONS * limits.max_connections.max(1),
                payload: limits.max_payload,
                exports: 0,
                conn: limits.max_connections,
                // Of a leaf node brokers do not check replies of acknowledgements, so one would reach into other rights.
                leaf: 0,
                ..Limits::NONE
            },
            signing_keys,
        );
        account.imports = self.imports(mesh);
        if let Some(live) = live {
            self.live.put_into(&mut account, live);
        }
        account
    }
}

/// Subjects of which no two overlap: brokers carry an event once for each import that matches it. Where two do, the Topic's own
/// subject, which each is kept with, stands for both; what a party may do is still decided subject by subject.
#[must_use]
pub fn disjoint(subjects: &BTreeMap<Pattern, Pattern>) -> Vec<Pattern> {
    let overlaps = |one: &Pattern| subjects.keys().any(|other| other != one && other.overlaps(one));
    let wanted = subjects.iter().map(|(one, of)| if overlaps(one) { of } else { one }.clone());
    super::grants::normalize(wanted.collect())
}

/// The rights of a client where it speaks MQTT: what it may publish and subscribe to, and nothing but MQTT.
#[must_use]
pub fn mqtt_scope(rights: &Rights, key: &str, role: &str, limits: PartyLimits) -> Scope {
    // An empty list would allow everything.
    let some = |subjects: Vec<String>| if subjects.is_empty() { vec![NOBODY.to_owned()] } else { subjects };
    let publish = rights.publish.keys().map(|subject| subject.as_str().to_owned()).collect();
    let mut subscribe = some(rights.listen.iter().map(|subject| subject.as_str().to_owned()).collect());
    // By which a broker hands events of quality 1 and 2 to the session.
    subscribe.push("$MQTT.sub.>".to_owned());
    Scope {
        kind: ScopeKind::User,
        key: key.to_owned(),
        role: role.to_owned(),
        template: Template {
            publish: allow(some(publish)),
            subscribe: allow(subscribe),
            subs: MAX_SUBSCRIPTIONS,
            data: -1,
            payload: limits.max_payload,
            // A device shows the token as its password.
            bearer_token: true,
            allowed_connection_types: vec!["MQTT".to_owned(), "MQTT_WS".to_owned()],
            ..Template::default()
        },
    }
}

/// The account of all clients that speak MQTT. Sessions are streams, so they would cost too much in an account each; a
/// reply subject, by which one could reach into the rights of another, MQTT 3.1.1 has none.
#[must_use]
pub fn mqtt_account(mesh: &str, all: &[&Rights], scopes: Vec<Scope>, limits: PartyLimits) -> Account {
    let publish = all.iter().flat_map(|rights| rights.publish.clone()).collect();
    let union = Rights { publish, ..Rights::default() };
    let mut account = Account::new(
        Limits {
            payload: limits.max_payload,
            exports: 0,
            leaf: 0,
            disk_storage: MQTT_STORAGE,
            ..Limits::NONE.with_storage()
        },
        scopes.into_iter().map(SigningKey::Scoped).collect(),
    );
    let listen: BTreeSet<&Pattern> = all.iter().flat_map(|rights| &rights.listen).collect();
    let listen = super::grants::normalize(listen.into_iter().cloned().collect());
    account.imports =
        union.exact_publishes().iter().map(|one| import(mesh, one.as_str(), ShareKind::Service)).collect();
    account.imports.extend(listen.iter().map(|one| import(mesh, one.as_str(), ShareKind::Stream)));
    account
}

fn import(mesh: &str, subject: &str, kind: ShareKind) -> Import {
    Import {
        name: subject.to_owned(),
        subject: subject.to_owned(),
        account: mesh.to_owned(),
        local_subject: None,
        kind,
    }
}

fn allow(subjects: Vec<String>) -> Permission {
    Permission { allow: subjects, deny: Vec::new() }
}

/// An account that lets nobody in: what a revoked party's becomes, for as long as a token of it could be in time.
#[must_use]
pub fn revoked() -> Account {
    Account::new(Limits { conn: 0, leaf: 0, imports: 0, exports: 0, subs: 0, ..Limits::NONE }, Vec::new())
}

/// What the mesh's account exports: all that any party imports. Only accounts that the operator signs can import it.
#[must_use]
pub fn exports<'a>(stored: impl Iterator<Item = &'a Pattern>) -> Vec<Export> {
    let export = |subject: &str, kind, response_type| Export {
        name: subject.to_owned(),
        subject: subject.to_owned(),
        kind,
        response_type,
    };
    let one = Some(ResponseType::Singleton);
    let mut exports = vec![
        // One request for many events.
        export("$JS.API.CONSUMER.MSG.NEXT.*.*", ShareKind::Service, Some(ResponseType::Stream)),
        export("$JS.API.CONSUMER.INFO.*.*", ShareKind::Service, one),
        export("$JS.API.CONSUMER.RESET.*.*", ShareKind::Service, one),
        export("$JS.API.STREAM.INFO.*", ShareKind::Service, one),
        export("$JS.ACK.*.*.>", ShareKind::Service, one),
        export("$EM.report.*.*.*", ShareKind::Service, one),
        export(&names::lease_subject("*", "*"), ShareKind::Service, one),
        export(&names::lease_read_subject("*", "*"), ShareKind::Service, one),
        export(NOBODY, ShareKind::Service, one),
    ];
    exports.extend(copy::exported().iter().map(|subject| export(subject, ShareKind::Service, one)));
    let stored: BTreeSet<&Pattern> = stored.collect();
    for subject in stored {
        exports.push(export(subject.as_str(), ShareKind::Service, one));
        exports.push(export(subject.as_str(), ShareKind::Stream, None));
    }
    exports
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PartyLimits = PartyLimits { max_payload: 100, max_connections: 5 };

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a pattern")
    }

    fn subjects(account: &Account, kind: ShareKind) -> Vec<&str> {
        account.imports.iter().filter(|i| i.kind == kind).map(|i| i.subject.as_str()).collect()
    }

    #[test]
    fn a_reader_gets_its_consumer_and_nothing_else() {
        let rights = Rights {
            consume: [("bank_accounts".to_owned(), "sub_shop_ledger".to_owned())].into(),
            ..Rights::default()
        };
        let account = rights.account("AMESH", None, &["AKEY"], "r", LIMITS);
        assert_eq!(
            subjects(&account, ShareKind::Service),
            [
                "$JS.API.CONSUMER.MSG.NEXT.bank_accounts.sub_shop_ledger",
                "$JS.API.CONSUMER.INFO.bank_accounts.sub_shop_ledger",
                "$JS.ACK.bank_accounts.sub_shop_ledger.>",
                NOBODY,
            ]
        );
        assert!(subjects(&account, ShareKind::Stream).is_empty());
        let SigningKey::Scoped(scope) = &account.signing_keys[0] else { panic!("scoped") };
        assert_eq!(scope.template.subscribe.allow, ["_INBOX.>"]);
    }

    #[test]
    fn a_bridge_reports_as_itself_and_takes_its_own_lease_only() {
        let rights = Rights { reports_as: Some(("shop".to_owned(), "factory".to_owned())), ..Rights::default() };
        let account = rights.account("AMESH", None, &["AKEY"], "r", LIMITS);
        let own = [
            "$EM.report.shop.factory.*",
            "$EM.lease.shop.factory",
            "$JS.API.DIRECT.GET.EM_leases.$EM.lease.shop.factory",
        ];
        assert_eq!(subjects(&account, ShareKind::Service), [own.as_slice(), &[NOBODY]].concat());
        let SigningKey::Scoped(scope) = &account.signing_keys[0] else { panic!("scoped") };
        assert_eq!(scope.template.publish.allow, [own.as_slice(), &["_INBOX.>"]].concat());
        // Whatever a party imports must be exported, and no party is given a wildcard of it.
        let exported = exports(std::iter::empty());
        let covers = |exported: &str, subject: &str| {
            let (exported, subject) = (exported.split('.'), subject.split('.'));
            exported.clone().count() == subject.clone().count()
                && exported.zip(subject).all(|(one, other)| one == other || one == "*")
        };
        for subject in own {
            assert!(exported.iter().any(|one| covers(&one.subject, subject)), "{subject}");
        }
    }

    #[test]
    fn imports_never_overlap_while_permissions_stay_exact() {
        let stored = pattern("accounts.>");
        let publish = ["accounts.*.eu", "accounts.open.*"].map(|subject| (pattern(subject), stored.clone()));
        let rights = Rights { publish: publish.into(), ..Rights::default() };
        let account = rights.account("AMESH", None, &["AKEY"], "r", LIMITS);
        assert_eq!(subjects(&account, ShareKind::Service), ["accounts.>", NOBODY]);
        let SigningKey::Scoped(scope) = &account.signing_keys[0] else { panic!("scoped") };
        assert_eq!(scope.template.publish.allow, ["accounts.*.eu", "accounts.open.*", "_INBOX.>"]);
    }

    #[test]
    fn mqtt_clients_share_an_account_and_no_rights() {
        let rights = |publish: &str, listen: &str| Rights {
            publish: [(pattern(publish), pattern("line.>"))].into(),
            listen: [pattern(listen)].into(),
            ..Rights::default()
        };
        let (one, two) = (rights("line.1.state", "line.1.set"), rights("line.2.state", "line.*.set"));
        let scopes = [("K1", &one), ("K2", &two)].map(|(key, rights)| mqtt_scope(rights, key, "r", LIMITS));
        assert_eq!(scopes[0].template.publish.allow, ["line.1.state"]);
        assert_eq!(scopes[0].template.subscribe.allow, ["line.1.set", "$MQTT.sub.>"]);
        let account = mqtt_account("AMESH", &[&one, &two], scopes.into(), LIMITS);
        assert_eq!(subjects(&account, ShareKind::Service), ["line.1.state", "line.2.state"]);
        assert_eq!(subjects(&account, ShareKind::Stream), ["line.*.set"]);
        let nothing = mqtt_scope(&Rights::default(), "K", "r", LIMITS);
        assert_eq!(nothing.template.publish.allow, [NOBODY], "an empty list would allow everything");
    }

    #[test]
    fn no_right_is_no_permission() {
        let account = Rights::default().account("AMESH", None, &["AKEY"], "r", LIMITS);
        let SigningKey::Scoped(scope) = &account.signing_keys[0] else { panic!("scoped") };
        assert_eq!(scope.template.publish.allow, ["_INBOX.>"], "an empty list would allow everything");
    }
}
