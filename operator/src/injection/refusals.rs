//! Tells of refusals in Events. The pod does not exist yet, so an Event is about who makes it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Client, ResourceExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tracing::warn;

use super::decide::Refusal;

/// Refusals that wait to be told; of more nothing is told but what is on the pods.
const WAITING: usize = 64;
/// Between two Events. Whoever reaches the port can cause some, so they are few.
const PACE: Duration = Duration::from_millis(100);
const REASON: &str = "InjectionRefused";

struct Told {
    about: ObjectReference,
    note: String,
}

/// Where refusals are handed in.
#[derive(Clone)]
pub struct Refusals(mpsc::Sender<Told>);

/// Where they come out.
pub struct Waiting(mpsc::Receiver<Told>);

pub fn channel() -> (Refusals, Waiting) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Refusals(sender), Waiting(receiver))
}

impl Refusals {
    /// Never waits.
    pub fn tell(&self, namespace: &str, pod: &Pod, refusal: &Refusal) {
        let note = format!("pod {} has no sidecar: {refusal}", name(pod));
        if self.0.try_send(Told { about: about(namespace, pod), note }).is_err() {
            warn!(namespace, pod = name(pod), %refusal, "too many refusals at once; there is no Event of this one");
        }
    }
}

impl Waiting {
    /// Publishes until it is dropped.
    pub async fn publish(mut self, client: Client, instance: String) {
        let reporter = Reporter { controller: "eventmesh-operator".into(), instance: Some(instance) };
        let recorder = Recorder::new(client, reporter);
        while let Some(told) = self.0.recv().await {
            let event = Event {
                type_: EventType::Warning,
                reason: REASON.to_owned(),
                note: Some(told.note),
                action: "Inject".to_owned(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &told.about).await {
                warn!(%error, "could not publish an Event");
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

/// Most pods get their names only when they are stored.
fn name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    metadata
        .name
        .clone()
        .or_else(|| metadata.generate_name.as_ref().map(|prefix| format!("{prefix}…")))
        .unwrap_or_default()
}

/// The controller that makes the pod, or the pod.
fn about(namespace: &str, pod: &Pod) -> ObjectReference {
    let reference = match pod.owner_references().iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) => ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        },
        None => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.metadata.name.clone().or_else(|| pod.metadata.generate_name.clone()).unwrap_or_default()),
            ..ObjectReference::default()
        },
    };
    ObjectReference { namespace: Some(namespace.to_owned()), ..reference }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_about_who_makes_the_pod() {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "ledger-1", "uid": "u", "controller": true});
        let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"});
        let metadata = json!({"generateName": "ledger-1-", "ownerReferences": [other, owner]});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).expect("a pod");
        let about = json!(about("shop", &pod));
        assert_eq!(
            about,
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "ledger-1", "namespace": "shop", "uid": "u"})
        );
        assert_eq!(name(&pod), "ledger-1-…");
    }

    #[test]
    fn an_event_is_about_the_pod_that_nobody_makes() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}})).expect("a pod");
        assert_eq!(
            json!(about("shop", &pod)),
            json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "namespace": "shop"})
        );
    }

    #[tokio::test]
    async fn more_refusals_than_can_be_told_hold_nobody_up() {
        let (refusals, mut waiting) = channel();
        for _ in 0..WAITING * 2 {
            refusals.tell("shop", &Pod::default(), &Refusal::HostNetwork);
        }
        drop(refusals);
        let mut told = 0;
        while waiting.0.recv().await.is_some() {
            told += 1;
        }
        assert_eq!(told, WAITING);
    }
}
