//! Copies of Topics over links: which go out, which come in, and what the accounts of links carry for them. Pure.
//!
//! ```text
//! Bridge's account ──▶ $EM.copy.<stream>.s ──▶ leaf node ──▶ s of the mesh's account, where the copy stores it
//!                      $EM.last.<stream>   ──▶           ──▶ the copy's last event
//!                      $EM.told.<stream>   ──▶           ──▶ $EM.copied.<copy>, which the operator there hears
//! ```
//!
//! All are services, as everything that crosses a link: answers lead back to who asked, and the far side has a way into this mesh for
//! events of the copy and nothing else. It can neither make consumers nor read from any.

use std::collections::{BTreeMap, BTreeSet};

use eventmesh_crds::{Bridge, Topic};
use eventmesh_wire::{
    copy::{event_subject, heard_subject, last_subject, told_subject},
    names,
    subject::Pattern,
};
use kube::ResourceExt;

use super::account::service;
use crate::{
    cache::{namespaced, topics::TopicKey},
    identity::claims::Import,
    subjects::subjects_of,
};

/// A Topic of this mesh that is a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The stream at the other side.
    pub source: String,
    pub topic: TopicKey,
    pub subjects: Vec<Pattern>,
}

impl Held {
    /// What the account of the link hands to the mesh's account.
    #[must_use]
    pub fn imports(&self, mesh: &str) -> Vec<Import> {
        let stream = names::stream(&self.topic.0, &self.topic.1);
        let event = |subject: &Pattern| service(mesh, subject.as_str(), &event_subject(&self.source, subject.as_str()));
        let mut imports: Vec<Import> = self.subjects.iter().map(event).collect();
        imports.push(service(mesh, &read_last(&stream), &last_subject(&self.source)));
        imports.push(service(mesh, &heard_subject(&stream), &told_subject(&self.source)));
        imports
    }

    /// What comes over the link for it.
    pub fn subjects_of_link(&self) -> impl Iterator<Item = String> {
        let events = self.subjects.iter().map(|subject| event_subject(&self.source, subject.as_str()));
        events.chain([last_subject(&self.source), told_subject(&self.source)])
    }
}

/// What goes over a link for the copies of a stream.
#[must_use]
pub fn sent_subjects(stream: &str) -> [String; 3] {
    [event_subject(stream, ">"), last_subject(stream), told_subject(stream)]
}

/// Where the last event of a stream is asked for. Any of its brokers answers; one that is behind is found out, for the next event is
/// then refused.
fn read_last(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

/// What the mesh's account exports for copies, besides their subjects.
#[must_use]
pub fn exported() -> [String; 2] {
    [read_last("*"), heard_subject("*")]
}

/// The stream at the other side of which a Topic is a copy, and the link.
#[must_use]
pub fn source(topic: &Topic) -> Option<(&str, String)> {
    let mirror = topic.spec.mirror.as_ref()?;
    let own = topic.namespace().unwrap_or_default();
    let namespace = mirror.topic.namespace.as_ref().unwrap_or(&own);
    Some((&mirror.link, names::stream(namespace, &mirror.topic.name)))
}

/// The Topic among these that is the copy of the same as this one and older, if there is one.
#[must_use]
pub fn taken_by<'a>(topic: &Topic, mut all: impl Iterator<Item = &'a Topic>) -> Option<TopicKey> {
    let wanted = source(topic)?;
    let age = |topic: &Topic| (topic.creation_timestamp(), namespaced(topic));
    let older = |other: &&Topic| source(other).as_ref() == Some(&wanted) && age(other) < age(topic);
    all.find(older).map(namespaced)
}

/// The copies among the Topics of a mesh, by link.
#[must_use]
pub fn held<'a>(topics: impl Iterator<Item = &'a Topic> + Clone) -> BTreeMap<String, Vec<Held>> {
    let mut all: BTreeMap<String, Vec<Held>> = BTreeMap::new();
    let others = topics.clone();
    for topic in topics.filter(|topic| taken_by(topic, others.clone()).is_none()) {
        let Some((link, source)) = source(topic) else { continue };
        let subjects = subjects_of(topic).iter().filter_map(|subject| Pattern::parse(subject).ok()).collect();
        all.entry(link.to_owned()).or_default().push(Held { source, topic: namespaced(topic), subjects });
    }
    all
}

/// The link and the streams that a Bridge sends over it; only in the namespace of its mesh.
#[must_use]
pub fn sent(bridge: &Bridge, mesh_namespace: &str) -> Option<(String, BTreeSet<String>)> {
    let link = bridge.spec.endpoint.link.as_ref()?;
    let own = bridge.namespace().filter(|own| own == mesh_namespace)?;
    let routes = bridge.spec.outbound.iter().flatten();
    let streams = routes.map(|r| names::stream(r.from.namespace.as_ref().unwrap_or(&own), &r.from.topic));
    Some((link.name.clone(), streams.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn topic(name: &str, created: &str, spec: &Value) -> Topic {
        let mut full = json!({"mesh": {"name": "m"}});
        full.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "spec": full,
            "metadata": {"name": name, "namespace": "office", "creationTimestamp": created},
        }))
        .expect("a topic")
    }

    fn mirror(link: &str, name: &str) -> Value {
        json!({"mirror": {"link": link, "topic": {"name": name, "namespace": "plant"}}, "subjects": ["orders.*"]})
    }

    #[test]
    fn a_copy_lets_its_own_events_in_and_nothing_else() {
        let all = [
            topic("copy", "2026-01-01T00:00:00Z", &mirror("l", "orders")),
            topic("own", "2026-01-01T00:00:00Z", &json!({})),
        ];
        let held = held(all.iter());
        let [copy] = held["l"].as_slice() else { panic!("{held:?}") };
        let imports = copy.imports("AMESH");
        let found: Vec<_> =
            imports.iter().map(|i| (i.local_subject.as_deref().unwrap_or_default(), i.subject.as_str())).collect();
        assert_eq!(
            found,
            [
                ("$EM.copy.plant_orders.orders.*", "orders.*"),
                ("$EM.last.plant_orders", "$JS.API.DIRECT.GET.office_copy"),
                ("$EM.told.plant_orders", "$EM.copied.office_copy"),
            ]
        );
        let crossing: Vec<String> = copy.subjects_of_link().collect();
        assert_eq!(crossing, found.iter().map(|(local, _)| (*local).to_owned()).collect::<Vec<_>>());
    }

    #[test]
    fn of_two_copies_of_one_topic_the_older_is_kept_up() {
        let all = [
            topic("a", "2026-01-02T00:00:00Z", &mirror("l", "orders")),
            topic("b", "2026-01-01T00:00:00Z", &mirror("l", "orders")),
            topic("c", "2026-01-03T00:00:00Z", &mirror("k", "orders")),
        ];
        let held = held(all.iter());
        assert_eq!(held["l"].iter().map(|held| held.topic.1.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(held["k"].len(), 1, "over another link it comes from another mesh");
        assert_eq!(taken_by(&all[0], all.iter()), Some(("office".to_owned(), "b".to_owned())));
        assert_eq!(taken_by(&all[1], all.iter()), None);
    }

    #[test]
    fn only_the_owner_of_a_mesh_sends_over_its_links() {
        let bridge: Bridge = serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Bridge", "metadata": {"name": "b", "namespace": "plant"},
            "spec": {"mesh": {"name": "m"}, "replicas": 1, "endpoint": {"link": {"name": "l"}}, "outbound": [
                {"name": "o", "from": {"topic": "orders"}}, {"name": "p", "from": {"topic": "prices", "namespace": "shop"}},
            ]},
        }))
        .expect("a bridge");
        let streams = ["plant_orders", "shop_prices"].map(str::to_owned).into();
        assert_eq!(sent(&bridge, "plant"), Some(("l".to_owned(), streams)));
        assert_eq!(sent(&bridge, "platform"), None);
    }
}
