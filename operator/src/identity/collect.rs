//! Who may do what in a mesh, from the objects that say so. Reads the cache only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic, topic::Right};
use eventmesh_wire::{config::sidecar::PushSubscription, names, subject::Pattern};
use kube::ResourceExt;

use super::{
    grants::{covers, granted, may_subscribe},
    party::Party,
    rights::Rights,
    sidecar,
};
use crate::{
    broker::MeshKey,
    cache::{Cache, mesh_key, namespaced},
    link::{self, plan::Planned},
    refs::lets_in,
    subjects::{dead_letter_subject, delivered_subjects},
};

/// All parties of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parties {
    pub rights: BTreeMap<Party, Rights>,
    /// Subjects of Topics that somebody has a right in.
    pub stored: BTreeSet<Pattern>,
    /// What the sidecars of ServiceAccounts push to their applications, by name.
    pub push: BTreeMap<Party, Vec<PushSubscription>>,
    /// Links to other meshes that can be carried, by name.
    pub links: BTreeMap<String, Planned>,
}

impl Parties {
    /// Everybody who has an account of its own in the mesh.
    #[must_use]
    pub fn all(&self) -> BTreeSet<Party> {
        let links = self.links.keys().map(|name| Party::Link { name: name.clone() });
        self.rights.keys().cloned().chain(links).collect()
    }

    /// Those who get a Secret to connect with. What a client needs for MQTT is in its own.
    pub fn with_secret(&self) -> impl Iterator<Item = Party> {
        let dialled = self.links.iter().filter(|(_, link)| link.dials.is_none());
        let links = dialled.map(|(name, _)| Party::Link { name: name.clone() });
        self.rights.keys().filter(|party| !matches!(party, Party::Mqtt { .. })).cloned().chain(links)
    }
}

/// Everybody who may connect to a mesh. A ServiceAccount, Bridge or client that does not exist is nobody yet.
#[must_use]
pub fn run(cache: &Cache, key: &MeshKey, mesh: &EventMesh) -> Parties {
    let (live, topics): (Topics, Topics) =
        topics(cache, key, mesh).into_iter().partition(|(_, topic)| topic.spec.is_live());
    let mut collector = Collector { cache, mesh, topics: &topics, rights: BTreeMap::new(), push: BTreeMap::new() };
    for client in mesh.spec.clients.iter().flatten() {
        collector.of(&Party::Client { name: client.name.clone() });
        if speaks_mqtt(mesh) {
            collector.of(&Party::Mqtt { name: client.name.clone() });
        }
    }
    for topic in topics.values() {
        collector.grants(topic);
    }
    for topic in live.values() {
        collector.live_grants(topic);
    }
    for subscription in cache.subscriptions.state() {
        collector.subscription(&subscription);
    }
    for bridge in bridges(cache, key) {
        collector.bridge(key, &bridge);
    }
    let (rights, mut push) = (collector.rights, collector.push);
    // The cache knows no order, and a Secret is written again only for what has changed.
    for all in push.values_mut() {
        all.sort_by(|one, other| one.name.cmp(&other.name));
    }
    let mut stored: BTreeSet<Pattern> = rights.values().flat_map(|rights| rights.publish.values().cloned()).collect();
    let listened: BTreeSet<&Pattern> = rights.values().flat_map(|rights| &rights.listen).collect();
    stored.extend(listened.iter().filter_map(|one| topics.values().find_map(|topic| stored_by(topic, one))));
    let links: BTreeMap<String, Planned> =
        link::plan::of(cache, mesh).into_iter().filter_map(|(name, link)| Some((name, link.ok()?))).collect();
    let come_in = links.values().flat_map(|link| &link.carried.to_store);
    stored.extend(come_in.filter_map(|one| topics.values().find_map(|topic| stored_by(topic, one))));
    stored.extend(links.values().flat_map(|link| &link.carried.copies_in).flat_map(|held| held.subjects.clone()));
    Parties { rights, stored, push, links }
}

/// What Topics of a mesh mean for its links.
#[must_use]
pub fn link_subjects(cache: &Cache, key: &MeshKey, mesh: &EventMesh) -> link::plan::Subjects {
    let mut subjects = link::plan::Subjects::default();
    let topics = topics(cache, key, mesh);
    subjects.copies_in = link::copy::held(topics.values().map(|topic| &**topic));
    let known: BTreeSet<String> = topics.keys().map(|(namespace, name)| names::stream(namespace, name)).collect();
    for (link, streams) in bridges(cache, key).iter().filter_map(|bridge| link::copy::sent(bridge, &key.namespace)) {
        subjects.copies_out.entry(link).or_default().extend(streams.intersection(&known).cloned());
    }
    for topic in topics.values() {
        let own = crate::subjects::subjects_of(topic);
        let own = own.iter().filter_map(|own| Pattern::parse(own).ok());
        if topic.spec.mirror.is_some() {
            subjects.copied.extend(own);
            continue;
        }
        if !topic.spec.is_live() {
            subjects.stored.extend(own);
            continue;
        }
        subjects.live.extend(own);
        for grant in topic.spec.grants.iter().flatten() {
            let hears = grant.allow.iter().any(|right| matches!(right, Right::Subscribe | Right::Reply));
            let granted = grant.subjects.clone().unwrap_or_else(|| crate::subjects::subjects_of(topic));
            let granted = granted.iter().filter(|_| hears).filter_map(|one| Pattern::parse(one).ok());
            subjects.heard.extend(granted.filter(|one| stored_by(topic, one).is_some()));
        }
    }
    // Grants may overlap, and what comes in must not go to an account twice.
    subjects.heard = super::grants::normalize(std::mem::take(&mut subjects.heard));
    subjects
}

/// Whether the brokers of a mesh speak MQTT.
#[must_use]
pub fn speaks_mqtt(mesh: &EventMesh) -> bool {
    mesh.spec.listeners.as_ref().is_some_and(|listeners| listeners.mqtt.is_some())
}

/// The Bridges of a mesh.
fn bridges(cache: &Cache, key: &MeshKey) -> Vec<Arc<Bridge>> {
    let of = |bridge: &Bridge| mesh_key(&bridge.spec.mesh, &bridge.namespace().unwrap_or_default()) == *key;
    cache.bridges.state_filter(of)
}

type Topics = BTreeMap<(String, String), Arc<Topic>>;

/// The Topics of a mesh whose subjects are theirs.
fn topics(cache: &Cache, key: &MeshKey, mesh: &EventMesh) -> Topics {
    let index = cache.topic_index();
    let counts = |topic: &Topic| {
        let own = namespaced(topic);
        mesh_key(&topic.spec.mesh, &own.0) == *key
            && topic.metadata.deletion_timestamp.is_none()
            && lets_in(cache, mesh, key, &own.0)
            && index.claim(&own, key).is_some_and(|claim| index.older_overlap(key, claim).is_none())
    };
    cache.topics.state_filter(counts).into_iter().map(|topic| (namespaced(&*topic), topic)).collect()
}

/// The subject of a Topic that holds a subject.
fn stored_by(topic: &Topic, subject: &Pattern) -> Option<Pattern> {
    let own = crate::subjects::subjects_of(topic);
    own.iter().filter_map(|own| Pattern::parse(own).ok()).find(|own| own.contains(subject))
}

struct Collector<'a> {
    cache: &'a Cache,
    mesh: &'a EventMesh,
    /// Those that store.
    topics: &'a Topics,
    rights: BTreeMap<Party, Rights>,
    push: BTreeMap<Party, Vec<PushSubscription>>,
}

impl Collector<'_> {
    fn of(&mut self, party: &Party) -> &mut Rights {
        self.rights.entry(party.clone()).or_default()
    }

    fn exists(&self, party: &Party) -> bool {
        match party {
            Party::ServiceAccount { namespace, name } => self.cache.service_account(namespace, name).is_some(),
            Party::Client { name } | Party::Mqtt { name } => {
                self.mesh.spec.clients.iter().flatten().any(|client| client.name == *name)
            }
            // Bridges and links are met as such.
            Party::Bridge { .. } | Party::Link { .. } => false,
        }
    }

    /// Those whom a Topic's grants name, as far as they exist.
    fn named(&self, topic: &Topic) -> Vec<Party> {
        let (own, _) = namespaced(topic);
        let mut named = BTreeSet::new();
        for grant in topic.spec.grants.iter().flatten() {
            if let Some(account) = &grant.to.service_account {
                let namespace = account.namespace_or(&own).to_owned();
                named.insert(Party::ServiceAccount { namespace, name: account.name.clone() });
            }
            if let Some(name) = &grant.to.client {
                named.insert(Party::Client { name: name.clone() });
            }
            if let Some(namespace) = &grant.to.namespace {
                for account in self.cache.service_accounts_of(namespace) {
                    named.insert(Party::ServiceAccount { namespace: namespace.clone(), name: account });
                }
            }
        }
        named.into_iter().filter(|party| self.exists(party)).collect()
    }

    /// Gives them what they are granted in a Topic that stores nothing.
    fn live_grants(&mut self, topic: &Topic) {
        for party in self.named(topic) {
            let subjects = |right| {
                let granted = granted(topic, &party, right).into_iter();
                granted.filter_map(|one| Some((one.clone(), stored_by(topic, &one)?))).collect::<BTreeMap<_, _>>()
            };
            let (publish, hear, reply) = (subjects(Right::Publish), subjects(Right::Subscribe), subjects(Right::Reply));
            if !(publish.is_empty() && hear.is_empty() && reply.is_empty()) {
                let live = &mut self.of(&party).live;
                live.publish.extend(publish);
                live.hear.extend(hear);
                live.reply.extend(reply);
            }
        }
    }

    /// Gives those whom a Topic's grants name what they are granted.
    fn grants(&mut self, topic: &Topic) {
        for party in self.named(topic) {
            let publish = granted(topic, &party, Right::Publish);
            let listen = granted(topic, &party, Right::Subscribe);
            if publish.is_empty() && listen.is_empty() {
                continue;
            }
            let publish = publish.into_iter().filter_map(|one| Some((one.clone(), stored_by(topic, &one)?)));
            let publish: BTreeMap<_, _> = publish.collect();
            if let Party::Client { name } = &party
                && speaks_mqtt(self.mesh)
            {
                let rights = self.of(&Party::Mqtt { name: name.clone() });
                rights.publish.extend(publish.clone());
                rights.listen.extend(listen);
            }
            self.of(&party).publish.extend(publish);
        }
    }

    fn subscription(&mut self, subscription: &Subscription) {
        let (namespace, name) = namespaced(subscription);
        let reference = &subscription.spec.topic;
        let key = (reference.namespace_or(&namespace).to_owned(), reference.name.clone());
        let Some(topic) = self.topics.get(&key) else { return };
        let party = Party::of_subscription(subscription);
        if subscription.metadata.deletion_timestamp.is_none()
            && may_subscribe(topic, subscription)
            && self.exists(&party)
        {
            let place = (names::stream(&key.0, &key.1), names::subscription_consumer(&namespace, &name));
            if let Some(pushed) = sidecar::pushed(subscription, &name, &place) {
                self.push.entry(party.clone()).or_default().push(pushed);
            }
            self.of(&party).consume.insert(place);
        }
    }

    fn bridge(&mut self, key: &MeshKey, bridge: &Bridge) {
        let (namespace, name) = namespaced(bridge);
        if !lets_in(self.cache, self.mesh, key, &namespace) || bridge.metadata.deletion_timestamp.is_some() {
            return;
        }
        let party = Party::of_bridge(bridge);
        let mut rights = Rights { reports_as: Some((namespace.clone(), name.clone())), ..Rights::default() };
        for route in bridge.spec.inbound.iter().flatten() {
            let Some(subject) = delivered_subjects(&route.to) else { continue };
            let wanted = [subject.as_str().to_owned()];
            let index = self.cache.topic_index();
            let topic = index.containing(key, &subject).find_map(|claim| self.topics.get(&claim.topic));
            // Nobody writes to a copy.
            let topic = topic.filter(|topic| topic.spec.mirror.is_none());
            let stored = topic.and_then(|topic| Some((topic, stored_by(topic, &subject)?)));
            if let Some((topic, stored)) = stored
                && covers(topic, &party, Right::Publish, Some(&wanted))
            {
                rights.publish.insert(subject, stored);
                let (of, topic) = namespaced(&**topic);
                rights.inspect.insert(names::stream(&of, &topic));
            }
        }
        let dead = bridge.spec.delivery.as_ref().and_then(|delivery| delivery.dead_letter.as_ref());
        let dead = dead.and_then(|dead| self.topics.get(&(namespace.clone(), dead.topic.clone())));
        if let Some(topic) = dead.filter(|topic| topic.spec.mirror.is_none()) {
            let routes = bridge.spec.inbound.iter().flatten().map(|route| &route.name);
            for route in routes.chain(bridge.spec.outbound.iter().flatten().map(|route| &route.name)) {
                let subject = dead_letter_subject(topic, &namespace, &name, route);
                let subject = subject.and_then(|subject| Pattern::parse(&subject).ok());
                if let Some((subject, stored)) = subject.and_then(|one| Some((one.clone(), stored_by(topic, &one)?))) {
                    rights.publish.insert(subject, stored);
                }
            }
        }
        let sent = link::copy::sent(bridge, &key.namespace);
        for route in bridge.spec.outbound.iter().flatten() {
            let of = route.from.namespace.as_ref().unwrap_or(&namespace);
            let Some(topic) = self.topics.get(&(of.clone(), route.from.topic.clone())) else { continue };
            if covers(topic, &party, Right::Subscribe, route.from.filter.as_deref()) {
                let consumer = names::bridge_consumer(&namespace, &name, &route.name);
                let stream = names::stream(of, &route.from.topic);
                if let Some((link, _)) = &sent {
                    rights.inspect.insert(stream.clone());
                    rights.copies.insert((link.clone(), stream.clone()));
                }
                rights.consume.insert((stream, consumer));
            }
        }
        self.rights.insert(party, rights);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceAccount;
    use kube::{core::PartialObjectMeta, runtime::watcher::Event};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::{cache::Writers, identity::rights::PartyLimits};

    fn object<K: DeserializeOwned>(kind: &str, (namespace, name): (&str, &str), spec: &Value) -> K {
        let metadata =
            json!({"name": name, "namespace": namespace, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec,
        }))
        .expect("an object")
    }

    fn account(writers: &mut Writers, namespace: &str, name: &str) {
        let account: PartialObjectMeta<ServiceAccount> =
            serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name, "uid": name}}))
                .expect("metadata");
        writers.service_accounts.apply_watcher_event(&Event::Apply(account));
    }

    /// A mesh that lets `shop` in, with a Topic there that grants something to four parties, and one elsewhere.
    fn world() -> (Cache, Writers, EventMesh, MeshKey) {
        let (cache, mut writers) = Cache::new();
        let key = MeshKey { namespace: "platform".into(), name: "m".into() };
        let allowed = json!({"from": "All"});
        let spec = json!({"brokers": {}, "allowedNamespaces": allowed, "clients": [{"name": "press"}]});
        let mesh: EventMesh = object("EventMesh", ("platform", "m"), &spec);
        let reference = json!({"name": "m", "namespace": "platform"});
        let topic: Topic = object(
            "Topic",
            ("shop", "t"),
            &json!({"mesh": reference, "grants": [
                {"to": {"serviceAccount": {"name": "api"}}, "allow": ["Publish"], "subjects": ["t.a"]},
                {"to": {"serviceAccount": {"name": "ghost"}}, "allow": ["Publish"]},
                {"to": {"client": "press"}, "allow": ["Publish"]},
                {"to": {"namespace": "crm"}, "allow": ["Subscribe"]},
            ]}),
        );
        cache.change_topic_index(|index| index.put(&topic));
        writers.topics.apply_watcher_event(&Event::Apply(topic));
        for (namespace, name) in [("shop", "api"), ("crm", "reader"), ("other", "reader")] {
            account(&mut writers, namespace, name);
            let spec = json!({"topic": {"name": "t", "namespace": "shop"}, "subscriber": {"serviceAccount": name},
                "push": {"port": 8080}});
            let subscription: Subscription = object("Subscription", (namespace, "s"), &spec);
            writers.subscriptions.apply_watcher_event(&Event::Apply(subscription));
        }
        (cache, writers, mesh, key)
    }

    fn party(namespace: &str, name: &str) -> Party {
        Party::ServiceAccount { namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn who_exists_and_was_granted_something_is_a_party() {
        let (cache, _writers, mesh, key) = world();
        let parties = run(&cache, &key, &mesh);
        let names: Vec<String> = parties.rights.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["serviceaccount/crm/reader", "serviceaccount/shop/api", "client/press"]);
        let api = &parties.rights[&party("shop", "api")];
        assert_eq!(api.publish.keys().map(Pattern::as_str).collect::<Vec<_>>(), ["t.a"]);
        // Of its own namespace, so without a grant.
        assert!(api.consume.contains(&("shop_t".to_owned(), "sub_shop_s".to_owned())));
        let reader = &parties.rights[&party("crm", "reader")];
        assert!(reader.publish.is_empty() && reader.consume.contains(&("shop_t".to_owned(), "sub_crm_s".to_owned())));
        assert_eq!(parties.stored.len(), 2, "`t` and `t.>`: {:?}", parties.stored);
    }

    #[test]
    fn who_may_not_read_a_topic_is_told_of_nothing_to_push() {
        let (cache, _writers, mesh, key) = world();
        let push = run(&cache, &key, &mesh).push;
        // The one in `other` is granted nothing.
        assert_eq!(push.keys().collect::<Vec<_>>(), [&party("crm", "reader"), &party("shop", "api")]);
        let told = &push[&party("crm", "reader")][0];
        assert_eq!((told.stream.as_str(), told.consumer.as_str()), ("shop_t", "sub_crm_s"));
    }

    /// The world with another Topic, `live`, that stores nothing.
    fn live_world(grants: &Value) -> (Cache, Writers, EventMesh, MeshKey) {
        let (cache, mut writers, mesh, key) = world();
        let topic: Topic = object(
            "Topic",
            ("shop", "live"),
            &json!({"mesh": {"name": "m", "namespace": "platform"}, "storage": {"type": "None"}, "grants": grants}),
        );
        cache.change_topic_index(|index| index.put(&topic));
        writers.topics.apply_watcher_event(&Event::Apply(topic));
        let spec = json!({"topic": {"name": "live"}, "subscriber": {"serviceAccount": "api"}});
        let subscription: Subscription = object("Subscription", ("shop", "of-live"), &spec);
        writers.subscriptions.apply_watcher_event(&Event::Apply(subscription));
        (cache, writers, mesh, key)
    }

    #[test]
    fn a_topic_that_stores_nothing_gives_no_right_in_the_store() {
        let to = json!({"serviceAccount": {"name": "api"}});
        let grants = json!([{"to": to, "allow": ["Publish", "Subscribe"]}, {"to": to, "allow": ["Reply"], "subjects": ["live.ask"]}]);
        let (cache, _writers, mesh, key) = live_world(&grants);
        let parties = run(&cache, &key, &mesh);
        let api = &parties.rights[&party("shop", "api")];
        assert!(!api.publish.keys().any(|subject| subject.as_str().starts_with("live")));
        assert!(!api.consume.iter().any(|(stream, _)| stream.contains("live")));
        let text = |subjects: &BTreeMap<Pattern, Pattern>| subjects.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&api.live.publish), ["live", "live.>"]);
        assert_eq!(text(&api.live.hear), ["live", "live.>"]);
        assert_eq!(text(&api.live.reply), ["live.ask"]);
        assert!(!parties.stored.iter().any(|subject| subject.as_str().starts_with("live")));
    }

    #[test]
    fn what_a_party_may_publish_is_imported_exactly_however_its_grants_overlap() {
        let to = json!({"serviceAccount": {"name": "api"}});
        let grants = json!([{"to": to, "allow": ["Publish"], "subjects": ["live.*.eu", "live.open.*"]},
            {"to": to, "allow": ["Reply"], "subjects": ["live.ask"]}]);
        let (cache, _writers, mesh, key) = live_world(&grants);
        let parties = run(&cache, &key, &mesh);
        let live = &parties.rights[&party("shop", "api")].live;
        let limits = PartyLimits { max_payload: 100, max_connections: 5 };
        let account = parties.rights[&party("shop", "api")].account("AMESH", Some("ALIVE"), &["K"], "r", limits);
        assert_eq!(live.reply.len(), 1);
        let imported: Vec<_> = account.imports.iter().filter(|import| import.account == "ALIVE").collect();
        assert_eq!(imported.len(), 1, "whoever answers can publish to all that is imported: {imported:?}");
        assert_eq!(imported[0].subject, "$EM.to.live.*.eu");
    }

    #[test]
    fn a_topic_that_the_mesh_does_not_let_in_gives_nothing() {
        let (cache, _writers, mut mesh, key) = world();
        mesh.spec.allowed_namespaces = None;
        let parties = run(&cache, &key, &mesh);
        assert_eq!(parties.rights, [(Party::Client { name: "press".into() }, Rights::default())].into());
    }
}
