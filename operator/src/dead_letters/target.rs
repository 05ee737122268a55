//! Where the dead letters of a Subscription go, and whether they may. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eventmesh_crds::{
    Subscription, Topic,
    conditions::{ConditionType, Reason, Verdict},
};
use eventmesh_wire::names;

use crate::{
    broker::MeshKey,
    cache::{mesh_key, namespaced, topics::TopicKey},
    subjects::subscription_dead_letters,
};

/// The place for the dead letters of one Subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub topic: TopicKey,
    pub stream: String,
    pub subject: String,
}

/// The Topic that a Subscription reads.
#[must_use]
pub fn source(subscription: &Subscription) -> TopicKey {
    let (namespace, _) = namespaced(subscription);
    let reference = &subscription.spec.topic;
    (reference.namespace_or(&namespace).to_owned(), reference.name.clone())
}

/// The Topic that takes its dead letters; of its own namespace.
#[must_use]
pub fn topic(subscription: &Subscription) -> Option<TopicKey> {
    let dead = subscription.spec.dead_letter.as_ref()?;
    Some((namespaced(subscription).0, dead.topic.clone()))
}

/// Where to, given the Topic that the reference leads to.
pub fn check(
    subscription: &Subscription,
    key: &TopicKey,
    found: Option<&Topic>,
    mesh: &MeshKey,
) -> Result<Target, Verdict> {
    let refuse = |reason, message| Err(Verdict::bad(ConditionType::ResolvedRefs, reason, message));
    let (namespace, name) = key;
    let Some(topic) = found else {
        let message = format!("deadLetter: Topic {namespace}/{name} does not exist; waiting for it");
        return refuse(Reason::TopicNotFound, message);
    };
    let theirs = mesh_key(&topic.spec.mesh, namespace);
    if theirs != *mesh {
        let message = format!("deadLetter: Topic {namespace}/{name} belongs to EventMesh {theirs}, not to {mesh}");
        return refuse(Reason::TopicOfOtherMesh, message);
    }
    if topic.spec.is_live() {
        let message = format!("deadLetter: Topic {namespace}/{name} has storage.type None; name one that stores");
        return refuse(Reason::TopicStoresNothing, message);
    }
    if topic.spec.mirror.is_some() {
        let message =
            format!("deadLetter: Topic {namespace}/{name} is a copy, to which nobody publishes; name another");
        return refuse(Reason::TopicIsCopy, message);
    }
    let (own, subscription) = namespaced(subscription);
    let Some(subject) = subscription_dead_letters(topic, &own, &subscription) else {
        let message = format!("deadLetter: Topic {namespace}/{name} has no valid subject; look at its conditions");
        return refuse(Reason::TopicNotReady, message);
    };
    Ok(Target { topic: key.clone(), stream: names::stream(namespace, name), subject })
}

/// Topics to which the dead letters of each Topic's readers go.
type Ways = BTreeMap<TopicKey, BTreeSet<TopicKey>>;

/// The way by which dead letters would come back to where they come from, if there is one. Of several Subscriptions that
/// make a circle only the youngest does: the older ones work.
#[must_use]
pub fn circle(all: &[Arc<Subscription>], subscription: &Subscription) -> Option<Vec<TopicKey>> {
    let own = topic(subscription)?;
    let mut older: Vec<&Subscription> = all
        .iter()
        .map(|other| &**other)
        .filter(|other| topic(other).is_some() && age(other) < age(subscription))
        .collect();
    older.sort_by_key(|other| age(other));
    let mut ways = Ways::new();
    for other in older {
        if let Some(dead) = topic(other)
            && way(&ways, &dead, &source(other)).is_none()
        {
            ways.entry(source(other)).or_default().insert(dead);
        }
    }
    way(&ways, &own, &source(subscription))
}

/// The Subscriptions whose dead letters come, over however many Topics, to this one: a circle through it is theirs too.
#[must_use]
pub fn leading_to(all: &[Arc<Subscription>], end: &TopicKey) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut ends = vec![end.clone()];
    while let Some(end) = ends.pop() {
        for subscription in all.iter().filter(|one| topic(one).as_ref() == Some(&end)) {
            if found.insert(namespaced(&**subscription)) {
                ends.push(source(subscription));
            }
        }
    }
    found
}

/// A way from one Topic to another, both included.
fn way(ways: &Ways, from: &TopicKey, to: &TopicKey) -> Option<Vec<TopicKey>> {
    let mut seen = BTreeSet::from([from.clone()]);
    let mut open = vec![vec![from.clone()]];
    while let Some(path) = open.pop() {
        let last = path.last()?;
        if last == to {
            return Some(path);
        }
        for next in ways.get(last).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(path.iter().chain([next]).cloned().collect());
            }
        }
    }
    None
}

fn age(subscription: &Subscription) -> (String, String) {
    let created = subscription.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    (created.unwrap_or_default(), subscription.metadata.uid.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn subscription(name: &str, from: &str, dead: &str) -> Arc<Subscription> {
        let subscription = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Subscription",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"topic": {"name": from}, "maxDeliver": 2, "deadLetter": {"topic": dead}},
        });
        Arc::new(serde_json::from_value(subscription).expect("a subscription"))
    }

    fn found_topic(mesh: &str) -> Topic {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "dead", "namespace": "shop"},
            "spec": {"mesh": {"name": mesh, "namespace": "platform"}},
        }))
        .expect("a topic")
    }

    #[rstest]
    #[case(Some("retail"), Ok("dead.shop.s"))]
    #[case(Some("wholesale"), Err(Reason::TopicOfOtherMesh))]
    #[case(None, Err(Reason::TopicNotFound))]
    fn where_letters_go(#[case] mesh: Option<&str>, #[case] expected: Result<&str, Reason>) {
        let subscription = subscription("s", "accounts", "dead");
        let key = topic(&subscription).expect("a dead-letter Topic");
        let own = MeshKey { namespace: "platform".into(), name: "retail".into() };
        let target = check(&subscription, &key, mesh.map(found_topic).as_ref(), &own);
        assert_eq!(target.map(|target| target.subject).map_err(|verdict| verdict.reason), expected.map(str::to_owned));
    }

    #[test]
    fn a_topic_is_not_its_own_dead_letter() {
        let own = subscription("s", "a", "a");
        assert!(circle(std::slice::from_ref(&own), &own).is_some());
    }

    #[test]
    fn the_youngest_of_a_circle_is_refused_and_the_others_work() {
        let all = [subscription("1", "a", "b"), subscription("2", "b", "c"), subscription("3", "c", "a")];
        let refused: Vec<bool> = all.iter().map(|one| circle(&all, one).is_some()).collect();
        assert_eq!(refused, [false, false, true]);
        let way = circle(&all, &all[2]).expect("a way back");
        assert_eq!(way.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn one_that_is_refused_itself_stands_in_nobodys_way() {
        let all = [subscription("1", "a", "b"), subscription("2", "b", "a"), subscription("3", "a", "b")];
        let refused: Vec<bool> = all.iter().map(|one| circle(&all, one).is_some()).collect();
        assert_eq!(refused, [false, true, false]);
    }

    #[test]
    fn all_of_a_circle_hear_of_a_change_in_it() {
        let all = [
            subscription("1", "a", "b"),
            subscription("2", "b", "c"),
            subscription("3", "c", "a"),
            subscription("4", "x", "y"),
        ];
        let names: Vec<String> =
            leading_to(&all, &("shop".into(), "b".into())).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["1", "2", "3"]);
    }
}
