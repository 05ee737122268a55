//! How it stands with a Topic that is a copy. Pure, the clock passed in.

use eventmesh_crds::{
    EventMesh, Topic,
    conditions::{ConditionType, Reason, Verdict},
    topic::{Mirror, MirrorStatus},
};
use eventmesh_wire::copy::CopyReport;
use k8s_openapi::jiff::Timestamp;

use crate::cache::{namespaced, topics::TopicKey};

/// The condition; absent for a Topic that is no copy. `taken`: an older Topic that is a copy of the same. `told`: the latest word of
/// the other side.
pub fn verdict(
    topic: &Topic,
    mesh: Option<&EventMesh>,
    taken: Option<&TopicKey>,
    told: Option<&CopyReport>,
) -> Option<Verdict> {
    let mirror = topic.spec.mirror.as_ref()?;
    let Mirror { link, .. } = mirror;
    let bad = |reason, message: String| Some(Verdict::bad(ConditionType::Mirrored, reason, message));
    let Some(mesh) = mesh else { return Some(Verdict::pending(ConditionType::Mirrored)) };
    if !mesh.spec.links.iter().flatten().any(|one| one.name == *link) {
        return bad(Reason::LinkNotFound, format!("the mesh has no link {link} in spec.links"));
    }
    if let Some((namespace, name)) = taken {
        let message =
            format!("Topic {namespace}/{name}, which is older, is a copy of the same Topic; delete one of them");
        return bad(Reason::MirrorTaken, message);
    }
    let before = topic.status.as_ref().and_then(|status| status.mirror.as_ref());
    match told {
        Some(CopyReport { problem: Some(problem), .. }) => bad(Reason::MirrorBlocked, problem.clone()),
        Some(_) => Some(Verdict::good(ConditionType::Mirrored, Reason::Mirrored, "")),
        None if before.is_some_and(|before| before.lag.is_some()) => {
            let message = format!("nothing has been heard over link {link} for 30 seconds; the copy keeps what it has");
            bad(Reason::MirrorSilent, message)
        }
        None => {
            let (own, _) = namespaced(topic);
            let source = &mirror.topic;
            let message = format!(
                "waiting for link {link}, and for a Bridge at its other side with `endpoint: {{link: {{name: …}}}}` and an outbound \
                 route `from: {{topic: {}, namespace: {}}}`",
                source.name,
                source.namespace.as_ref().unwrap_or(&own)
            );
            bad(Reason::MirrorWaiting, message)
        }
    }
}

/// The status that goes with the condition.
pub fn status(
    verdict: Option<&Verdict>,
    told: Option<&CopyReport>,
    before: Option<&MirrorStatus>,
    now: Timestamp,
) -> Option<MirrorStatus> {
    let state = match verdict?.reason {
        Reason::Mirrored => "Following",
        Reason::MirrorBlocked => "Blocked",
        Reason::MirrorSilent => "Silent",
        _ => "Waiting",
    };
    let before = before.cloned().unwrap_or_default();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let since = before.since.filter(|_| before.state == state).unwrap_or_else(|| now.to_string());
    Some(MirrorStatus {
        state: state.to_owned(),
        since: Some(since),
        lag: told.map(|told| i64::try_from(told.lag).unwrap_or(i64::MAX)).or(before.lag),
        last_error: told.and_then(|told| told.problem.clone()).or(before.last_error),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn topic(status: &Value) -> Topic {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "copy", "namespace": "office"},
            "spec": {"mesh": {"name": "m"}, "mirror": {"link": "l", "topic": {"name": "orders"}}}, "status": status,
        }))
        .expect("a topic")
    }

    fn mesh(link: &str) -> EventMesh {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh", "metadata": {"name": "m", "namespace": "office"},
            "spec": {"brokers": {}, "links": [{"name": link, "to": {"remote": {}}}]},
        }))
        .expect("a mesh")
    }

    fn told(lag: u64, problem: Option<&str>) -> CopyReport {
        CopyReport { lag, problem: problem.map(str::to_owned) }
    }

    #[test]
    fn the_condition_says_who_has_to_do_what() {
        let (new, known) = (
            topic(&json!({"conditions": []})),
            topic(&json!({"conditions": [], "mirror": {"state": "Following", "lag": 3}})),
        );
        let found = |topic: &Topic, mesh: &EventMesh, taken: Option<&TopicKey>, told: Option<&CopyReport>| {
            verdict(topic, Some(mesh), taken, told).map(|verdict| (verdict.reason, verdict.message)).expect("a verdict")
        };
        assert_eq!(found(&new, &mesh("k"), None, None).0, Reason::LinkNotFound);
        let older = ("office".to_owned(), "older".to_owned());
        assert_eq!(found(&new, &mesh("l"), Some(&older), None).0, Reason::MirrorTaken);
        let (reason, message) = found(&new, &mesh("l"), None, None);
        assert_eq!(reason, Reason::MirrorWaiting);
        assert!(message.contains("from: {topic: orders, namespace: office}"), "{message}");
        assert_eq!(found(&known, &mesh("l"), None, None).0, Reason::MirrorSilent);
        assert_eq!(found(&known, &mesh("l"), None, Some(&told(3, None))).0, Reason::Mirrored);
        let blocked = found(&known, &mesh("l"), None, Some(&told(3, Some("full"))));
        assert_eq!(blocked, (Reason::MirrorBlocked, "full".to_owned()));
        let plain: Topic = serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "t"}, "spec": {"mesh": {"name": "m"}},
        }))
        .expect("a topic");
        assert_eq!(verdict(&plain, Some(&mesh("l")), None, None), None);
    }

    #[test]
    fn a_silent_copy_keeps_its_last_numbers() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let (new, mesh) = (topic(&json!({"conditions": []})), mesh("l"));
        let told = told(7, Some("full"));
        let blocked = status(verdict(&new, Some(&mesh), None, Some(&told)).as_ref(), Some(&told), None, at(10))
            .expect("a status");
        assert_eq!(
            (blocked.state.as_str(), blocked.lag, blocked.last_error.as_deref()),
            ("Blocked", Some(7), Some("full"))
        );
        let known = topic(&json!({"conditions": [], "mirror": blocked}));
        let silent =
            status(verdict(&known, Some(&mesh), None, None).as_ref(), None, Some(&blocked), at(60)).expect("a status");
        assert_eq!(
            (silent.state.as_str(), silent.lag, silent.since.clone()),
            ("Silent", Some(7), Some(at(60).to_string()))
        );
        let later =
            status(verdict(&known, Some(&mesh), None, None).as_ref(), None, Some(&silent), at(90)).expect("a status");
        assert_eq!(later, silent);
    }
}
