//! What the owner of a Topic gives to whom. Pure.
//!
//! The one place that reads `grants`: conditions and rights follow from the same answer.

use eventmesh_crds::{
    Subscription, Topic,
    topic::{Grant, Right},
};
use eventmesh_wire::subject::Pattern;

use super::party::Party;
use crate::{cache::namespaced, subjects::subjects_of};

/// The subjects of a Topic in which a party has a right. A Bridge needs no grant in its own namespace.
#[must_use]
pub fn granted(topic: &Topic, party: &Party, right: Right) -> Vec<Pattern> {
    let (own, _) = namespaced(topic);
    if let Party::Bridge { namespace, .. } = party
        && *namespace == own
    {
        return patterns(&subjects_of(topic));
    }
    let all = subjects_of(topic);
    let mut subjects: Vec<Pattern> = Vec::new();
    for (index, grant) in topic.spec.grants.iter().flatten().enumerate() {
        let taken = right == Right::Reply && reply_taken_before(topic, index).is_some();
        if grant.allow.contains(&right) && concerns(grant, party, &own) && !taken {
            for subject in within(&patterns(grant.subjects.as_ref().unwrap_or(&all)), topic) {
                let late = right == Right::Publish && subjects.iter().any(|first| first.crosses(&subject));
                if !late {
                    subjects.push(subject);
                }
            }
        }
    }
    normalize(subjects)
}

/// Two subjects that one party is granted to publish to and that overlap in part, in the words of a refusal. Its account would have
/// to import more than both (see `rights::disjoint`), and by a reply subject it could publish to all of that.
#[must_use]
pub fn crossing_publishers(topic: &Topic) -> Option<String> {
    let own = namespaced(topic).0;
    let all = subjects_of(topic);
    let publishing = topic.spec.grants.iter().flatten().enumerate().filter(|(_, g)| g.allow.contains(&Right::Publish));
    let subjects = publishing.flat_map(|(index, grant)| {
        within(&patterns(grant.subjects.as_ref().unwrap_or(&all)), topic)
            .into_iter()
            .map(move |one| (index, grant, one))
    });
    let subjects: Vec<_> = subjects.collect();
    subjects.iter().enumerate().find_map(|(later, (index, grant, subject))| {
        let (first, _, other) = subjects[..later]
            .iter()
            .find(|(_, before, other)| other.crosses(subject) && may_meet(before, grant, &own))?;
        Some(format!(
            "grants[{index}] lets the same party publish to `{subject}` that grants[{first}] lets publish to `{other}`, and the two overlap in part; give it one subject that contains both, or subjects that do not overlap"
        ))
    })
}

/// Whether some party could be meant by both grants.
fn may_meet(one: &Grant, other: &Grant, own: &str) -> bool {
    let namespace = |grant: &Grant| {
        let named = grant.to.service_account.as_ref().or(grant.to.bridge.as_ref());
        grant.to.namespace.clone().or_else(|| named.map(|named| named.namespace_or(own).to_owned()))
    };
    let whole_namespace = one.to.namespace.is_some() || other.to.namespace.is_some();
    let name = |grant: &Grant| {
        let named = |reference: &eventmesh_crds::common::NamespacedRef| reference.name.clone();
        (grant.to.service_account.as_ref().map(named), grant.to.bridge.as_ref().map(named), grant.to.client.clone())
    };
    namespace(one) == namespace(other) && (whole_namespace || name(one) == name(other))
}

/// The first grant before this one by which another party answers some of the same requests. Requests have one answer, so of
/// two the first keeps the right.
fn reply_taken_before(topic: &Topic, index: usize) -> Option<(usize, &Grant)> {
    let grants = topic.spec.grants.as_deref().unwrap_or_default();
    let all = subjects_of(topic);
    let own = namespaced(topic).0;
    let subjects = |grant: &Grant| patterns(grant.subjects.as_ref().unwrap_or(&all));
    let grant = grants.get(index).filter(|grant| grant.allow.contains(&Right::Reply))?;
    let mine = subjects(grant);
    grants[..index].iter().enumerate().find(|(_, other)| {
        other.allow.contains(&Right::Reply)
            && replier(other, &own) != replier(grant, &own)
            && eventmesh_wire::subject::first_overlap(&subjects(other), &mine).is_some()
    })
}

/// Who a grant of Reply is for.
fn replier(grant: &Grant, own: &str) -> String {
    match (&grant.to.service_account, &grant.to.client) {
        (Some(account), _) => format!("serviceaccount/{}/{}", account.namespace_or(own), account.name),
        (None, Some(client)) => format!("client/{client}"),
        (None, None) => String::new(),
    }
}

/// Grants of Reply that come too late, in the words of a refusal.
#[must_use]
pub fn second_repliers(topic: &Topic) -> Option<String> {
    let own = namespaced(topic).0;
    (0..topic.spec.grants.iter().flatten().count()).find_map(|index| {
        let (first, grant) = reply_taken_before(topic, index)?;
        Some(format!(
            "grants[{index}] allows {} to reply where {} does by grants[{first}]; remove one of them, or limit them to subjects that do not overlap",
            replier(&topic.spec.grants.as_deref().unwrap_or_default()[index], &own),
            replier(grant, &own)
        ))
    })
}

/// Whether the owner of the Topic lets this Subscription read what it asks for. Within a namespace that is implied.
#[must_use]
pub fn may_subscribe(topic: &Topic, subscription: &Subscription) -> bool {
    let (own, _) = namespaced(topic);
    let (theirs, _) = namespaced(subscription);
    own == theirs
        || covers(topic, &Party::of_subscription(subscription), Right::Subscribe, subscription.spec.filter.as_deref())
}

/// Whether a party has a right in all of these subjects; without any: in all of the Topic's.
#[must_use]
pub fn covers(topic: &Topic, party: &Party, right: Right, subjects: Option<&[String]>) -> bool {
    let granted = granted(topic, party, right);
    let all = subjects_of(topic);
    let wanted = patterns(subjects.unwrap_or(&all));
    !wanted.is_empty() && wanted.iter().all(|wanted| granted.iter().any(|granted| granted.contains(wanted)))
}

fn concerns(grant: &Grant, party: &Party, own: &str) -> bool {
    let to = &grant.to;
    let named = |reference: &eventmesh_crds::common::NamespacedRef, namespace: &str, name: &str| {
        reference.name == name && reference.namespace_or(own) == namespace
    };
    match party {
        Party::ServiceAccount { namespace, name } => {
            to.namespace.as_ref() == Some(namespace)
                || to.service_account.as_ref().is_some_and(|account| named(account, namespace, name))
        }
        Party::Bridge { namespace, name } => {
            to.namespace.as_ref() == Some(namespace)
                || to.bridge.as_ref().is_some_and(|bridge| named(bridge, namespace, name))
        }
        Party::Client { name } | Party::Mqtt { name } => to.client.as_ref() == Some(name),
        // What crosses a link stands in its lists.
        Party::Link { .. } => false,
    }
}

/// A grant gives away nothing that the Topic does not own.
fn within(subjects: &[Pattern], topic: &Topic) -> Vec<Pattern> {
    let own = patterns(&subjects_of(topic));
    subjects.iter().filter(|subject| own.iter().any(|own| own.contains(subject))).cloned().collect()
}

fn patterns(subjects: &[String]) -> Vec<Pattern> {
    subjects.iter().filter_map(|subject| Pattern::parse(subject).ok()).collect()
}

/// Drops what is contained in another.
#[must_use]
pub fn normalize(mut subjects: Vec<Pattern>) -> Vec<Pattern> {
    subjects.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    subjects.dedup();
    let all = subjects.clone();
    subjects.retain(|one| !all.iter().any(|other| other != one && other.contains(one)));
    subjects
}

/// What of a Topic's grants can never have an effect, in the words of a warning.
#[must_use]
pub fn problems(topic: &Topic) -> Vec<String> {
    let own = patterns(&subjects_of(topic));
    let mut problems = Vec::new();
    if topic.spec.is_live() {
        let bridges = topic.spec.grants.iter().flatten().filter(|grant| grant.to.bridge.is_some());
        problems.extend(bridges.map(|grant| {
            let name = grant.to.bridge.as_ref().map_or("", |bridge| &bridge.name);
            format!("Bridge {name} is granted nothing: Bridges carry stored events only, and this Topic has storage.type None")
        }));
    }
    for (index, grant) in topic.spec.grants.iter().flatten().enumerate() {
        for subject in grant.subjects.iter().flatten() {
            match Pattern::parse(subject) {
                Err(error) => problems.push(format!("grants[{index}]: {error}")),
                Ok(pattern) if !own.iter().any(|own| own.contains(&pattern)) => {
                    problems.push(format!(
                        "grants[{index}]: `{subject}` is not within the Topic's subjects, so it grants nothing; change it or the Topic's subjects"
                    ));
                }
                Ok(_) => {}
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn topic(grants: &Value) -> Topic {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "accounts", "namespace": "bank"},
            "spec": {"mesh": {"name": "m"}, "subjects": ["accounts.>"], "grants": grants},
        }))
        .expect("a topic")
    }

    fn account(namespace: &str, name: &str) -> Party {
        Party::ServiceAccount { namespace: namespace.into(), name: name.into() }
    }

    fn text(patterns: &[Pattern]) -> Vec<&str> {
        patterns.iter().map(Pattern::as_str).collect()
    }

    #[rstest]
    #[case(json!({"serviceAccount": {"name": "api", "namespace": "shop"}}), account("shop", "api"), true)]
    #[case(json!({"serviceAccount": {"name": "api", "namespace": "shop"}}), account("shop", "other"), false)]
    #[case(json!({"serviceAccount": {"name": "api", "namespace": "shop"}}), account("other", "api"), false)]
    #[case(json!({"serviceAccount": {"name": "api"}}), account("bank", "api"), true)]
    #[case(json!({"serviceAccount": {"name": "api"}}), account("shop", "api"), false)]
    #[case(json!({"namespace": "shop"}), account("shop", "any"), true)]
    #[case(json!({"namespace": "shop"}), Party::Bridge { namespace: "shop".into(), name: "b".into() }, true)]
    #[case(json!({"namespace": "shop"}), Party::Client { name: "shop".into() }, false)]
    #[case(json!({"client": "press"}), Party::Client { name: "press".into() }, true)]
    #[case(json!({"client": "press"}), account("bank", "press"), false)]
    #[case(json!({"serviceAccount": {"name": "b", "namespace": "shop"}}), Party::Bridge { namespace: "shop".into(), name: "b".into() }, false)]
    fn who_is_meant(#[case] to: Value, #[case] party: Party, #[case] expected: bool) {
        let topic = topic(&json!([{"to": to, "allow": ["Publish"]}]));
        assert_eq!(!granted(&topic, &party, Right::Publish).is_empty(), expected);
        assert!(granted(&topic, &party, Right::Subscribe).is_empty(), "one right is not the other");
    }

    #[test]
    fn a_grant_never_reaches_beyond_the_topic() {
        let topic = topic(
            &json!([{"to": {"client": "c"}, "allow": ["Publish"], "subjects": ["accounts.*.eu", ">", "payments.x"]}]),
        );
        let party = Party::Client { name: "c".into() };
        assert_eq!(text(&granted(&topic, &party, Right::Publish)), ["accounts.*.eu"]);
        assert_eq!(problems(&topic).len(), 2);
    }

    #[test]
    fn requests_have_one_party_that_answers() {
        let to = |name: &str, subject: &str| json!({"to": {"serviceAccount": {"name": name}}, "allow": ["Reply"], "subjects": [subject]});
        let topic = topic(&json!([
            to("a", "accounts.*.eu"),
            to("a", "accounts.x.*"),
            to("b", "accounts.y.us"),
            to("b", "accounts.y.*")
        ]));
        let answers = |name: &str| granted(&topic, &account("bank", name), Right::Reply);
        assert_eq!(text(&answers("a")), ["accounts.*.eu", "accounts.x.*"], "of the same party two may overlap");
        assert_eq!(text(&answers("b")), ["accounts.y.us"], "the first keeps what both are granted");
        let refusal = second_repliers(&topic).expect("a refusal");
        assert!(refusal.contains("grants[3]") && refusal.contains("serviceaccount/bank/b"), "{refusal}");
    }

    #[rstest]
    #[case(json!({"client": "c"}), json!({"client": "c"}), true)]
    #[case(json!({"client": "c"}), json!({"client": "d"}), false)]
    #[case(json!({"serviceAccount": {"name": "c"}}), json!({"client": "c"}), false)]
    #[case(json!({"serviceAccount": {"name": "c"}}), json!({"bridge": {"name": "c"}}), false)]
    #[case(json!({"serviceAccount": {"name": "c"}}), json!({"serviceAccount": {"name": "c", "namespace": "bank"}}), true)]
    #[case(json!({"serviceAccount": {"name": "c"}}), json!({"serviceAccount": {"name": "c", "namespace": "shop"}}), false)]
    #[case(json!({"serviceAccount": {"name": "c", "namespace": "shop"}}), json!({"namespace": "shop"}), true)]
    #[case(json!({"namespace": "shop"}), json!({"bridge": {"name": "c", "namespace": "shop"}}), true)]
    #[case(json!({"namespace": "shop"}), json!({"namespace": "bank"}), false)]
    fn subjects_of_one_party_that_overlap_in_part_are_refused(
        #[case] one: Value,
        #[case] other: Value,
        #[case] refused: bool,
    ) {
        let grant = |to: &Value, subject: &str| json!({"to": to, "allow": ["Publish"], "subjects": [subject]});
        let crossing = topic(&json!([grant(&one, "accounts.*.eu"), grant(&other, "accounts.open.*")]));
        assert_eq!(crossing_publishers(&crossing).is_some(), refused);
        let containing = topic(&json!([grant(&one, "accounts.*.eu"), grant(&other, "accounts.open.eu")]));
        assert_eq!(crossing_publishers(&containing), None, "what contains the other is no more than both");
        let reading = topic(&json!([
            {"to": one, "allow": ["Subscribe"], "subjects": ["accounts.*.eu"]}, grant(&other, "accounts.open.*"),
        ]));
        assert_eq!(crossing_publishers(&reading), None, "only what is published can go where it should not");
    }

    #[test]
    fn of_subjects_that_overlap_in_part_the_first_is_granted() {
        let topic = topic(&json!([
            {"to": {"client": "c"}, "allow": ["Publish", "Subscribe"], "subjects": ["accounts.*.eu", "accounts.open.*"]},
        ]));
        let party = Party::Client { name: "c".into() };
        assert_eq!(text(&granted(&topic, &party, Right::Publish)), ["accounts.*.eu"]);
        assert_eq!(text(&granted(&topic, &party, Right::Subscribe)), ["accounts.*.eu", "accounts.open.*"]);
        let refusal = crossing_publishers(&topic).expect("a refusal");
        assert!(refusal.contains("grants[0]") && refusal.contains("`accounts.open.*`"), "{refusal}");
    }

    #[test]
    fn what_contains_another_is_enough() {
        let topic = topic(&json!([
            {"to": {"client": "c"}, "allow": ["Publish"], "subjects": ["accounts.opened"]},
            {"to": {"client": "c"}, "allow": ["Publish", "Subscribe"]},
        ]));
        let party = Party::Client { name: "c".into() };
        assert_eq!(text(&granted(&topic, &party, Right::Publish)), ["accounts.>"]);
        assert!(covers(&topic, &party, Right::Subscribe, Some(&["accounts.closed".to_owned()])));
    }
}
