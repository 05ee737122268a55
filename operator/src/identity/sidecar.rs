//! `sidecar.json` of a ServiceAccount: what the sidecar in its pods is told beside the credentials. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use eventmesh_crds::{Subscription, common::std_duration};
use eventmesh_wire::config::sidecar::{MeshName, PushSubscription, SIDECAR_VERSION, SidecarConfig};

use super::{collect::Parties, party::Party};
use crate::broker::MeshKey;

/// Events that a pod's application has at once where nothing is said; a thousand would be too many for most.
const IN_FLIGHT: u32 = 64;

/// The file of a party; only pods of ServiceAccounts have sidecars.
#[must_use]
pub fn file(mesh: &MeshKey, party: &Party, parties: &Parties) -> Option<String> {
    let Party::ServiceAccount { namespace, name } = party else { return None };
    let publish = parties
        .rights
        .get(party)
        .into_iter()
        .flat_map(|rights| rights.publish.keys().chain(rights.live.publish.keys()));
    let config = SidecarConfig {
        version: SIDECAR_VERSION,
        mesh: MeshName { namespace: mesh.namespace.clone(), name: mesh.name.clone() },
        namespace: namespace.clone(),
        service_account: name.clone(),
        publish: publish.map(|subject| subject.as_str().to_owned()).collect(),
        push: parties.push.get(party).cloned().unwrap_or_default(),
    };
    serde_json::to_string(&config).ok()
}

/// By which one file is told from another.
#[must_use]
pub fn fingerprint(file: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    hasher.finish()
}

/// What is told of a Subscription: how its events are pushed, if they are. `place`: its stream and consumer.
#[must_use]
pub fn pushed(subscription: &Subscription, name: &str, place: &(String, String)) -> Option<PushSubscription> {
    let spec = &subscription.spec;
    let push = spec.push.as_ref()?;
    let positive = |number: i32| u32::try_from(number).ok();
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Some(PushSubscription {
        name: name.to_owned(),
        stream: place.0.clone(),
        consumer: place.1.clone(),
        port: push.port,
        path: push.path.clone().unwrap_or_else(|| "/".to_owned()),
        max_in_flight: spec.max_in_flight.and_then(positive).unwrap_or(IN_FLIGHT),
        backoff_ms: spec.backoff.iter().flatten().map(|wait| milliseconds(std_duration(wait))).collect(),
        max_deliver: spec.max_deliver.and_then(positive),
        timeout_ms: milliseconds(push.timeout()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::rights::Rights;

    fn subscription(spec: &Value) -> Subscription {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Subscription",
            "metadata": {"name": "mails", "namespace": "shop"}, "spec": spec,
        }))
        .expect("a subscription")
    }

    fn place() -> (String, String) {
        ("shop_accounts".to_owned(), "sub_shop_mails".to_owned())
    }

    #[test]
    fn every_field_of_a_push_subscription_is_told() {
        let spec = json!({"topic": {"name": "accounts"}, "maxInFlight": 8, "maxDeliver": 5, "backoff": ["500ms", "1m"],
            "push": {"port": 8080, "path": "/events", "timeout": "1500ms"}});
        let told = pushed(&subscription(&spec), "mails", &place()).expect("a push subscription");
        let expected = json!({"name": "mails", "stream": "shop_accounts", "consumer": "sub_shop_mails", "port": 8080,
            "path": "/events", "maxInFlight": 8, "backoffMs": [500, 60_000], "maxDeliver": 5, "timeoutMs": 1500});
        assert_eq!(serde_json::to_value(told).expect("JSON"), expected);
    }

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let told =
            pushed(&subscription(&json!({"topic": {"name": "accounts"}, "push": {"port": 80}})), "mails", &place());
        let expected = json!({"name": "mails", "stream": "shop_accounts", "consumer": "sub_shop_mails", "port": 80,
            "path": "/", "maxInFlight": 64, "timeoutMs": 30_000});
        assert_eq!(serde_json::to_value(told).expect("JSON"), expected);
        assert!(pushed(&subscription(&json!({"topic": {"name": "accounts"}})), "mails", &place()).is_none());
    }

    #[test]
    fn only_service_accounts_are_told_and_only_of_themselves() {
        let mesh = MeshKey { namespace: "platform".into(), name: "retail".into() };
        let party = |name: &str| Party::ServiceAccount { namespace: "shop".into(), name: name.into() };
        let mut parties = Parties::default();
        let subject = eventmesh_wire::subject::Pattern::parse("accounts.opened").expect("a pattern");
        let rights = Rights { publish: [(subject.clone(), subject)].into(), ..Rights::default() };
        parties.rights.insert(party("api"), rights);
        let api: Value = serde_json::from_str(&file(&mesh, &party("api"), &parties).expect("a file")).expect("JSON");
        assert_eq!(
            api,
            json!({"version": 1, "mesh": {"namespace": "platform", "name": "retail"}, "namespace": "shop",
                "serviceAccount": "api", "publish": ["accounts.opened"]})
        );
        let other = file(&mesh, &party("other"), &parties).expect("a file");
        assert!(!other.contains("accounts.opened"));
        assert!(file(&mesh, &Party::Client { name: "press".into() }, &parties).is_none());
        assert!(file(&mesh, &Party::Bridge { namespace: "shop".into(), name: "b".into() }, &parties).is_none());
    }
}
