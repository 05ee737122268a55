//! Which Topic claims which subjects of which mesh. Pure data, kept up to date by the feed of Topics.
//!
//! A subject's first token is never a wildcard, so claims are kept by it and a look-up costs what it finds, not the
//! number of Topics.

use std::collections::BTreeMap;

use eventmesh_crds::Topic;
use eventmesh_wire::subject::Pattern;

use super::{mesh_key, namespaced};
use crate::{broker::MeshKey, subjects::subjects_of};

/// Namespace and name of a Topic.
pub type TopicKey = (String, String);

/// One Topic's claim, as far as it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub topic: TopicKey,
    /// Creation time; within one second what the broker already holds wins, then the uid decides.
    pub age: (String, bool, String),
    pub subjects: Vec<Pattern>,
}

/// Claims by mesh and first token.
#[derive(Debug, Default)]
pub struct TopicIndex {
    claims: BTreeMap<(MeshKey, String), BTreeMap<TopicKey, Claim>>,
    /// Where each Topic's claims are, to find them again when it changes or goes.
    places: BTreeMap<TopicKey, Vec<(MeshKey, String)>>,
}

impl TopicIndex {
    /// Takes up what a Topic claims now; returns the Topics whose claims overlapped with what it claimed before.
    pub fn put(&mut self, topic: &Topic) -> Vec<TopicKey> {
        let key = namespaced(topic);
        let subjects: Vec<Pattern> =
            subjects_of(topic).iter().filter_map(|subject| Pattern::parse(subject).ok()).collect();
        let mesh = mesh_key(&topic.spec.mesh, &key.0);
        let claim = Claim { topic: key.clone(), age: age(topic), subjects };
        if self.claim(&key, &mesh) == Some(&claim) {
            return Vec::new();
        }
        let freed = self.remove(&key);
        let mut places: Vec<(MeshKey, String)> =
            claim.subjects.iter().map(|subject| (mesh.clone(), first_token(subject))).collect();
        places.sort();
        places.dedup();
        for place in &places {
            self.claims.entry(place.clone()).or_default().insert(key.clone(), claim.clone());
        }
        self.places.insert(key, places);
        freed
    }

    /// Drops a Topic's claims; returns the Topics whose claims overlapped with them.
    pub fn remove(&mut self, key: &TopicKey) -> Vec<TopicKey> {
        let mut freed = Vec::new();
        for place in self.places.remove(key).unwrap_or_default() {
            let Some(claims) = self.claims.get_mut(&place) else { continue };
            if let Some(gone) = claims.remove(key) {
                freed.extend(
                    claims.values().filter(|c| overlap(&c.subjects, &gone.subjects).is_some()).map(|c| c.topic.clone()),
                );
            }
            if claims.is_empty() {
                self.claims.remove(&place);
            }
        }
        freed.sort();
        freed.dedup();
        freed
    }

    /// An older claim that overlaps with this one, and the pair of subjects that do.
    #[must_use]
    pub fn older_overlap(&self, mesh: &MeshKey, mine: &Claim) -> Option<(&Claim, Pattern, Pattern)> {
        mine.subjects.iter().find_map(|subject| {
            self.at(mesh, subject)
                .filter(|other| other.topic != mine.topic && other.age < mine.age)
                .find_map(|other| overlap(std::slice::from_ref(subject), &other.subjects).map(|(a, b)| (other, a, b)))
        })
    }

    /// The claims of a mesh that contain every subject of a pattern.
    pub fn containing<'a>(&'a self, mesh: &MeshKey, pattern: &'a Pattern) -> impl Iterator<Item = &'a Claim> {
        self.at(mesh, pattern).filter(move |claim| claim.subjects.iter().any(|s| s.contains(pattern)))
    }

    /// What a Topic claims of a mesh.
    #[must_use]
    pub fn claim(&self, key: &TopicKey, mesh: &MeshKey) -> Option<&Claim> {
        let place = self.places.get(key)?.first()?;
        (place.0 == *mesh).then(|| self.claims.get(place)?.get(key)).flatten()
    }

    fn at<'a>(&'a self, mesh: &MeshKey, subject: &Pattern) -> impl Iterator<Item = &'a Claim> + use<'a> {
        self.claims.get(&(mesh.clone(), first_token(subject))).into_iter().flat_map(BTreeMap::values)
    }
}

fn first_token(subject: &Pattern) -> String {
    subject.tokens().next().unwrap_or_default().to_owned()
}

fn overlap(left: &[Pattern], right: &[Pattern]) -> Option<(Pattern, Pattern)> {
    eventmesh_wire::subject::first_overlap(left, right).map(|(a, b)| (a.clone(), b.clone()))
}

fn age(topic: &Topic) -> (String, bool, String) {
    let created = topic.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
    let waits = topic.status.as_ref().is_none_or(|status| status.stream.is_none());
    (created, waits, topic.metadata.uid.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn topic(name: &str, created: &str, subjects: &[&str]) -> Topic {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic",
            "metadata": {"name": name, "namespace": "a", "uid": name, "creationTimestamp": created},
            "spec": {"mesh": {"name": "m"}, "subjects": subjects},
        }))
        .expect("a topic")
    }

    fn mesh() -> MeshKey {
        MeshKey { namespace: "a".into(), name: "m".into() }
    }

    fn key(name: &str) -> TopicKey {
        ("a".into(), name.into())
    }

    #[test]
    fn the_older_claim_wins_and_the_younger_is_told() {
        let mut index = TopicIndex::default();
        index.put(&topic("old", "2026-01-01T00:00:00Z", &["x.>"]));
        index.put(&topic("new", "2026-01-02T00:00:00Z", &["x.y"]));
        let younger = index.claim(&key("new"), &mesh()).expect("a claim").clone();
        let (winner, mine, theirs) = index.older_overlap(&mesh(), &younger).expect("an overlap");
        assert_eq!((winner.topic.1.as_str(), mine.as_str(), theirs.as_str()), ("old", "x.y", "x.>"));
        let older = index.claim(&key("old"), &mesh()).expect("a claim").clone();
        assert!(index.older_overlap(&mesh(), &older).is_none());
    }

    #[test]
    fn within_one_second_what_the_broker_holds_wins() {
        let mut index = TopicIndex::default();
        let mut second = topic("b", "2026-01-01T00:00:00Z", &["x.y"]);
        second.status = serde_json::from_value(json!({"stream": "a_b"})).expect("a status");
        index.put(&topic("a", "2026-01-01T00:00:00Z", &["x.>"]));
        index.put(&second);
        let first = index.claim(&key("a"), &mesh()).expect("a claim").clone();
        assert_eq!(index.older_overlap(&mesh(), &first).map(|(winner, ..)| winner.topic.clone()), Some(key("b")));
    }

    #[test]
    fn a_claim_that_goes_frees_those_it_held_back() {
        let mut index = TopicIndex::default();
        index.put(&topic("old", "2026-01-01T00:00:00Z", &["x.>"]));
        index.put(&topic("new", "2026-01-02T00:00:00Z", &["x.y"]));
        assert_eq!(index.remove(&key("old")), vec![key("new")]);
        let claim = index.claim(&key("new"), &mesh()).expect("a claim").clone();
        assert!(index.older_overlap(&mesh(), &claim).is_none());
    }

    #[test]
    fn a_changed_claim_frees_those_it_no_longer_overlaps() {
        let mut index = TopicIndex::default();
        index.put(&topic("old", "2026-01-01T00:00:00Z", &["x.>"]));
        index.put(&topic("new", "2026-01-02T00:00:00Z", &["x.y"]));
        assert_eq!(index.put(&topic("old", "2026-01-01T00:00:00Z", &["z.>"])), vec![key("new")]);
        assert!(
            index.put(&topic("old", "2026-01-01T00:00:00Z", &["z.>"])).is_empty(),
            "the same again changes nothing"
        );
    }

    #[test]
    fn containing_finds_the_topic_that_stores_a_route() {
        let mut index = TopicIndex::default();
        index.put(&topic("t", "2026-01-01T00:00:00Z", &["factory.>"]));
        let inside = Pattern::parse("factory.line.*").expect("a pattern");
        let outside = Pattern::parse("office.line").expect("a pattern");
        assert_eq!(index.containing(&mesh(), &inside).count(), 1);
        assert_eq!(index.containing(&mesh(), &outside).count(), 0);
    }
}
