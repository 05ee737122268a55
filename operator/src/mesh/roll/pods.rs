//! What the pod of a broker says of itself. Pure.

use eventmesh_wire::volume::REFUSED;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;

use crate::mesh::build::volume_check::VOLUME_CHECK;

/// Label by which a StatefulSet's controller tells what a pod was made from.
const REVISION: &str = "controller-revision-hash";

/// The pod of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerPod {
    pub name: String,
    pub uid: String,
    /// Of the object, so that a later change of it is seen.
    pub resource_version: String,
    /// What it was made from.
    pub revision: String,
    /// Whether it takes TLS from clients.
    pub has_tls: bool,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Ready,
    Starting,
    /// It is being deleted.
    Leaving,
    /// It does not come up, and why.
    Failing(String),
    /// Its volume is empty, though the other brokers count on it: what the check says.
    Refused(String),
}

#[must_use]
pub fn read(pod: &Pod) -> BrokerPod {
    BrokerPod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        resource_version: pod.resource_version().unwrap_or_default(),
        revision: pod.labels().get(REVISION).cloned().unwrap_or_default(),
        has_tls: pod.spec.as_ref().is_some_and(|spec| has_tls(&spec.containers)),
        state: state(pod),
    }
}

/// The probes ask the way clients have to connect.
#[must_use]
pub fn has_tls(containers: &[Container]) -> bool {
    let probes = containers.iter().filter_map(|container| container.readiness_probe.as_ref()?.http_get.as_ref());
    probes.into_iter().any(|get| get.scheme.as_deref() == Some("HTTPS"))
}

fn state(pod: &Pod) -> State {
    let status = pod.status.clone().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        State::Leaving
    } else if status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True") {
        State::Ready
    } else if let Some(why) = refusal(&status) {
        State::Refused(why)
    } else {
        failure(&status).map_or(State::Starting, State::Failing)
    }
}

fn failure(status: &PodStatus) -> Option<String> {
    let unplaced = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(unplaced) = unplaced {
        return Some(format!("no node takes it: {}", unplaced.message.as_deref().unwrap_or("no reason given")));
    }
    let waits = |status: &&ContainerStatus| !has_passed(status);
    let before = status.init_container_statuses.iter().flatten().filter(waits).find_map(failed_container);
    before.or_else(|| status.container_statuses.iter().flatten().find_map(failed_container))
}

/// Of a container that comes before the broker's.
fn has_passed(status: &ContainerStatus) -> bool {
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code == 0)
}

/// Why the check of its volume lets the broker not start, even while it is asked once more.
fn refusal(status: &PodStatus) -> Option<String> {
    let mut before = status.init_container_statuses.iter().flatten();
    let check = before.find(|status| status.name == VOLUME_CHECK && !has_passed(status))?;
    let mut told = [&check.state, &check.last_state].into_iter().flatten();
    let ended = told.find_map(|state| state.terminated.as_ref())?;
    let why = || ended.message.as_deref().unwrap_or("the check of its volume has refused it").trim().to_owned();
    (ended.exit_code == i32::from(REFUSED)).then(why)
}

fn failed_container(status: &ContainerStatus) -> Option<String> {
    // How it ended tells more than that its next start is awaited.
    if let Some(ended) = status.last_state.as_ref().and_then(|last| last.terminated.as_ref()) {
        let reason = ended.reason.as_deref().unwrap_or("no reason given");
        let times = status.restart_count;
        let said = ended.message.as_deref().and_then(last_line).map(|line| format!(": {line}")).unwrap_or_default();
        return Some(format!(
            "its container has ended {times} times, last with exit code {} ({reason}){said}",
            ended.exit_code
        ));
    }
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    match waiting.reason.as_deref()? {
        "ContainerCreating" | "PodInitializing" => None,
        reason => Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        }),
    }
}

/// The last thing that a broker has logged before it ended, without time and process.
fn last_line(log: &str) -> Option<&str> {
    let line = log.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.splitn(3, "] ").nth(2).unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> BrokerPod {
        let metadata = json!({"name": "m-broker-0", "uid": "u", "resourceVersion": "7", "labels": {REVISION: "r1"}});
        read(&serde_json::from_value(json!({"metadata": metadata, "status": status})).expect("a pod"))
    }

    #[test]
    fn who_it_is_and_what_it_was_made_from() {
        let seen = pod(&json!({}));
        let (uid, version, revision) = (seen.uid.as_str(), seen.resource_version.as_str(), seen.revision.as_str());
        assert_eq!((seen.name.as_str(), uid, version, revision), ("m-broker-0", "u", "7", "r1"));
        assert_eq!((seen.state, seen.has_tls), (State::Starting, false));
    }

    #[rstest]
    #[case(json!({"conditions": [{"type": "Ready", "status": "True"}]}), State::Ready)]
    #[case(json!({"containerStatuses": [container(&json!({"waiting": {"reason": "ContainerCreating"}}), &json!({}))]}), State::Starting)]
    #[case(json!({"containerStatuses": [container(&json!({"running": {}}), &json!({}))]}), State::Starting)]
    #[case(json!({"containerStatuses": [container(&json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}), &json!({}))]}),
        State::Failing("ErrImagePull: no such image".to_owned()))]
    #[case(json!({"containerStatuses": [container(&json!({"running": {}}), &json!({"terminated": {"exitCode": 1, "reason": "Error"}}))]}),
        State::Failing("its container has ended 3 times, last with exit code 1 (Error)".to_owned()))]
    #[case(json!({"containerStatuses": [container(&json!({"running": {}}), &json!({"terminated": {"exitCode": 1, "reason": "Error", "message": FULL}}))]}),
        State::Failing("its container has ended 3 times, last with exit code 1 (Error): Can't start JetStream: no space left on device".to_owned()))]
    #[case(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}),
        State::Failing("no node takes it: 0/3 nodes".to_owned()))]
    #[case(checked(&json!({"terminated": refused()}), &json!({})), State::Refused("empty".to_owned()))]
    #[case(checked(&json!({"waiting": {"reason": "CrashLoopBackOff"}}), &json!({"terminated": refused()})), State::Refused("empty".to_owned()))]
    #[case(checked(&json!({"running": {}}), &json!({"terminated": refused()})), State::Refused("empty".to_owned()))]
    #[case(checked(&json!({"terminated": {"exitCode": 0}}), &json!({"terminated": refused()})), State::Starting)]
    #[case(checked(&json!({"waiting": {"reason": "ErrImagePull"}}), &json!({})), State::Failing("ErrImagePull".to_owned()))]
    #[case(checked(&json!({"terminated": {"exitCode": 1, "reason": "Error"}}), &json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
        State::Failing("its container has ended 3 times, last with exit code 1 (Error)".to_owned()))]
    fn how_it_is(#[case] status: Value, #[case] state: State) {
        assert_eq!(pod(&status).state, state);
    }

    const FULL: &str = "[1] 2026/11/28 09:23:06.0 [INF] Starting\n[1] 2026/11/28 09:23:06.0 [FTL] Can't start JetStream: no space left on device\n";

    fn refused() -> Value {
        json!({"exitCode": REFUSED, "reason": "Error", "message": "empty\n"})
    }

    /// The check of the volume, and the broker that waits for it.
    fn checked(state: &Value, last: &Value) -> Value {
        let waiting = container(&json!({"waiting": {"reason": "PodInitializing"}}), &json!({}));
        let mut check = container(state, last);
        check["name"] = json!(VOLUME_CHECK);
        json!({"initContainerStatuses": [check], "containerStatuses": [waiting]})
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!({"name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": state, "lastState": last})
    }
}
