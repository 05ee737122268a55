//! Subjects of Topics and of what refers to them: defaults, checks, and what a route may deliver to. Pure.

use eventmesh_crds::{Topic, conditions::Reason};
use eventmesh_wire::subject::Pattern;
use kube::ResourceExt;

/// Why a spec cannot work, and what to do.
pub type Refusal = (Reason, String);

/// The subjects that a Topic asks for.
#[must_use]
pub fn subjects_of(topic: &Topic) -> Vec<String> {
    topic.spec.subjects.clone().unwrap_or_else(|| {
        let name = topic.name_any();
        vec![name.clone(), format!("{name}.>")]
    })
}

/// Checks a filter against the subjects of a Topic; also used for the outbound routes of Bridges.
pub fn check_filter(filter: &[String], topic: &Topic) -> Result<Vec<Pattern>, Refusal> {
    let stored: Vec<Pattern> = subjects_of(topic).iter().filter_map(|s| Pattern::parse(s).ok()).collect();
    let mut patterns: Vec<Pattern> = Vec::with_capacity(filter.len());
    for subject in filter {
        let pattern = Pattern::parse(subject).map_err(|error| (Reason::InvalidSubject, error.to_string()))?;
        if !stored.iter().any(|stored| stored.contains(&pattern)) {
            let stored = stored.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
            let message =
                format!("filter `{pattern}` is not within the subjects of Topic {}: {stored}", topic.name_any());
            return Err((Reason::FilterOutsideTopic, message));
        }
        if let Some(other) = patterns.iter().find(|other| other.overlaps(&pattern)) {
            let message =
                format!("filters `{other}` and `{pattern}` overlap; an event would count twice, so remove one of them");
            return Err((Reason::InvalidSubject, message));
        }
        patterns.push(pattern);
    }
    Ok(patterns)
}

/// The subjects that an inbound route may deliver to: its `to` with a wildcard for each `{n}`.
#[must_use]
pub fn delivered_subjects(to: &str) -> Option<Pattern> {
    let tokens: Vec<&str> = to.split('.').map(|token| if token.contains('{') { "*" } else { token }).collect();
    Pattern::parse(&tokens.join(".")).ok()
}

/// First subject pattern of a Topic as a place for dead letters: wildcards are filled with where they come from.
#[must_use]
pub fn dead_letter_subject(topic: &Topic, namespace: &str, bridge: &str, route: &str) -> Option<String> {
    dead_letters_from(topic, &[namespace, bridge, route])
}

/// The same for what a Subscription gives up.
#[must_use]
pub fn subscription_dead_letters(topic: &Topic, namespace: &str, subscription: &str) -> Option<String> {
    dead_letters_from(topic, &[namespace, subscription])
}

fn dead_letters_from(topic: &Topic, origin: &[&str]) -> Option<String> {
    let subjects = subjects_of(topic);
    let patterns: Vec<Pattern> = subjects.iter().filter_map(|subject| Pattern::parse(subject).ok()).collect();
    // One that can tell where an event comes from is better than one that cannot.
    let pattern = patterns.iter().find(|p| p.as_str().ends_with(".>")).or(patterns.first())?;
    let mut fill = origin.iter().copied().cycle();
    let tokens: Vec<String> = pattern
        .tokens()
        .map(|token| match token {
            "*" => fill.next().unwrap_or_default().to_owned(),
            ">" => origin.join("."),
            literal => literal.to_owned(),
        })
        .collect();
    Some(tokens.join("."))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("factory.line.{1}.temperature", Some("factory.line.*.temperature"))]
    #[case("factory.x-{1}", Some("factory.*"))]
    #[case("factory.all", Some("factory.all"))]
    #[case("{1}.a", None)]
    #[case("a..b", None)]
    fn what_a_route_delivers_to(#[case] to: &str, #[case] expected: Option<&str>) {
        assert_eq!(delivered_subjects(to).map(|pattern| pattern.to_string()).as_deref(), expected);
    }

    #[rstest]
    #[case(json!(null), "dead.a.b.r")]
    #[case(json!(["letters"]), "letters")]
    #[case(json!(["letters.*"]), "letters.a")]
    #[case(json!(["letters", "more.>"]), "more.a.b.r")]
    fn dead_letters_tell_where_they_come_from(#[case] subjects: serde_json::Value, #[case] expected: &str) {
        let topic: Topic = serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "dead", "namespace": "a"},
            "spec": {"mesh": {"name": "m"}, "subjects": subjects},
        }))
        .expect("a topic");
        assert_eq!(dead_letter_subject(&topic, "a", "b", "r").as_deref(), Some(expected));
    }
}
