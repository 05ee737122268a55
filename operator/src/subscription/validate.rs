//! From a spec that the API server took to a consumer that the broker will not refuse. Pure.

use std::sync::Arc;

use eventmesh_crds::{
    Subscription, Topic,
    common::{DeletionPolicy, std_duration},
    conditions::{ConditionType, Reason, Verdict},
    subscription::{PlacePolicy, StartPosition},
    topic::{RetentionPolicy, Right},
};
use eventmesh_wire::names;
use kube::core::Duration;
use serde_json::json;

use super::resolve::Resolved;
use crate::{
    broker::{
        MeshBroker, MeshKey,
        api::{Config, object},
        consumers::{WantedConsumer, put_filter},
    },
    cache::namespaced,
    dead_letters::target::{self, Target},
    engine::Stopped,
    identity::grants::{granted, may_subscribe},
    leftovers::mark,
    subjects::{Refusal, check_filter},
};

/// Metadata of a consumer: which Subscription it belongs to.
pub const OWNER: &str = "eventmesh.dev/subscription";

const ACK_WAIT: i64 = 30_000_000_000;
const MAX_IN_FLIGHT: i32 = 1000;

/// A Subscription that can be programmed.
pub struct ValidSubscription {
    pub broker: Arc<MeshBroker>,
    pub consumer: WantedConsumer,
    /// Copies of the brokers' notes about given up events, where these become dead letters.
    pub notes: Option<i32>,
}

pub fn run(subscription: &Subscription, resolved: &Resolved) -> Result<ValidSubscription, Stopped> {
    let (namespace, name) = namespaced(subscription);
    let (of, topic_name) = (subscription.spec.topic.namespace_or(&namespace), &subscription.spec.topic.name);
    let (Some(topic), Some(mesh)) = (&resolved.topic, &resolved.mesh) else {
        let message = format!("Topic {of}/{topic_name} does not exist; waiting for it");
        let verdict = Verdict::bad(ConditionType::ResolvedRefs, Reason::TopicNotFound, message);
        return Err(Stopped::unresolved(verdict));
    };
    let mesh = mesh.as_ref().map_err(|problem| Stopped::unresolved(problem.verdict()))?;
    if mesh.is_paused() {
        return Err(Stopped::waiting(Reason::Paused, format!("EventMesh {} is paused", mesh.key)));
    }
    if topic.spec.is_live() {
        let message = format!(
            "Topic {of}/{topic_name} has storage.type None, so there is no place in it to keep; listen with a NATS client, for which its grants allow Subscribe, or name a Topic that stores"
        );
        return Err(Stopped::rejected(Reason::TopicStoresNothing, message));
    }
    check_consent(subscription, topic, resolved).map_err(Stopped::unresolved)?;
    let dead_letters = dead_letters(subscription, resolved, &mesh.key).map_err(Stopped::unresolved)?;
    check_circle(resolved).map_err(|(reason, message)| Stopped::rejected(reason, message))?;
    let filter = accept(subscription, topic).map_err(|(reason, message)| Stopped::rejected(reason, message))?;
    let Some(broker) = mesh.broker.clone() else {
        let message = format!("waiting for the brokers of EventMesh {}", mesh.key);
        return Err(Stopped::waiting(Reason::BrokerUnavailable, message));
    };
    let stream = names::stream(of, topic_name);
    if broker.view().stream(&stream).is_none() {
        let message = format!("Topic {of}/{topic_name} has no stream yet");
        return Err(Stopped::waiting(Reason::TopicNotReady, message));
    }
    if let Some(target) = dead_letters.as_ref().filter(|target| broker.view().stream(&target.stream).is_none()) {
        let message = format!("deadLetter: Topic {}/{} has no stream yet", target.topic.0, target.topic.1);
        return Err(Stopped::waiting(Reason::TopicNotReady, message));
    }
    let notes = dead_letters.map(|_| if mesh.brokers() >= 3 { 3 } else { 1 });
    let mut config = config(subscription, filter.as_deref());
    mark::put(&mut config, subscription, &mesh.mesh, when_gone(subscription));
    let consumer = WantedConsumer {
        name: names::subscription_consumer(&namespace, &name),
        stream,
        config,
        at_creation: beginning(subscription, topic),
        paused: subscription.spec.paused == Some(true),
    };
    Ok(ValidSubscription { broker, consumer, notes })
}

/// The owner of the Topic must let the subscriber read it, and the subscriber must be somebody.
fn check_consent(subscription: &Subscription, topic: &Topic, resolved: &Resolved) -> Result<(), Verdict> {
    let refuse = |reason, message| Err(Verdict::bad(ConditionType::ResolvedRefs, reason, message));
    let (of, topic_name) = namespaced(topic);
    let party = &resolved.subscriber.party;
    if !may_subscribe(topic, subscription) {
        let granted: Vec<String> =
            granted(topic, party, Right::Subscribe).iter().map(|subject| format!("`{subject}`")).collect();
        let message = if granted.is_empty() {
            format!("Topic {of}/{topic_name} grants {party} nothing; its owner can add a grant that allows Subscribe")
        } else {
            format!(
                "Topic {of}/{topic_name} grants {party} only {}; set spec.filter to subjects within it, or ask its owner for more",
                granted.join(", ")
            )
        };
        return refuse(Reason::RefNotPermitted, message);
    }
    if !resolved.subscriber.exists {
        let message = format!("the subscriber {party} does not exist; waiting for it");
        return refuse(Reason::SubscriberNotFound, message);
    }
    Ok(())
}

fn dead_letters(subscription: &Subscription, resolved: &Resolved, mesh: &MeshKey) -> Result<Option<Target>, Verdict> {
    let Some((key, found)) = &resolved.dead_letter else { return Ok(None) };
    target::check(subscription, key, found.as_deref(), mesh).map(Some)
}

fn check_circle(resolved: &Resolved) -> Result<(), Refusal> {
    let Some(way) = &resolved.circle else { return Ok(()) };
    let way: Vec<String> = way.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    let message = if way.len() < 2 {
        format!("deadLetter names the Topic that it reads, {}; name another", way.join(""))
    } else {
        format!(
            "dead letters would come back to where they come from: {}; name another Topic in deadLetter",
            way.join(" -> ")
        )
    };
    Err((Reason::DeadLetterLoop, message))
}

fn accept(subscription: &Subscription, topic: &Topic) -> Result<Option<Vec<String>>, Refusal> {
    if let Some(filter) = &subscription.spec.filter {
        check_filter(filter, topic)?;
    }
    let position = subscription.spec.start_from.as_ref().map(|start| start.position);
    if is_work_queue(topic) && position.is_some_and(|position| position != StartPosition::All) {
        let message =
            "startFrom must be All or absent: the Topic has retention WorkQueue, whose events all wait to be processed";
        return Err((Reason::InvalidSpec, message.to_owned()));
    }
    Ok(subscription.spec.filter.clone())
}

fn is_work_queue(topic: &Topic) -> bool {
    topic.spec.retention.as_ref().and_then(|retention| retention.policy) == Some(RetentionPolicy::WorkQueue)
}

/// The keys of the consumer's configuration that the operator owns, in the broker's own words and units.
fn config(subscription: &Subscription, filter: Option<&[String]>) -> Config {
    let (namespace, name) = namespaced(subscription);
    let spec = &subscription.spec;
    // With a backoff the broker takes its entries for acknowledgement times. What is pushed is refused by the sidecar, which
    // waits for longer than the application may take and tells the broker the delay.
    let backoff: Vec<i64> = match &spec.push {
        None => spec.backoff.iter().flatten().map(nanoseconds).collect(),
        Some(_) => Vec::new(),
    };
    let ack_wait = backoff.first().copied().or_else(|| spec.ack_wait.as_ref().map(nanoseconds));
    let answer = spec.push.as_ref().map_or(0, |push| i64::try_from(push.timeout().as_nanos()).unwrap_or(i64::MAX));
    let ack_wait = ack_wait.unwrap_or_else(|| ACK_WAIT.saturating_add(answer));
    let mut config = object(json!({
        "durable_name": names::subscription_consumer(&namespace, &name),
        "ack_policy": "explicit",
        "ack_wait": ack_wait,
        "max_deliver": spec.max_deliver.unwrap_or(-1),
        "backoff": backoff,
        "max_ack_pending": spec.max_in_flight.unwrap_or(MAX_IN_FLIGHT),
        "metadata": { OWNER: format!("{namespace}/{name}") },
    }));
    put_filter(&mut config, filter);
    config
}

fn when_gone(subscription: &Subscription) -> DeletionPolicy {
    match subscription.spec.deletion_policy.unwrap_or(PlacePolicy::Delete) {
        PlacePolicy::Delete => DeletionPolicy::Delete,
        PlacePolicy::Retain => DeletionPolicy::Retain,
    }
}

fn beginning(subscription: &Subscription, topic: &Topic) -> Config {
    let start = subscription.spec.start_from.as_ref();
    let position =
        start.map_or(if is_work_queue(topic) { StartPosition::All } else { StartPosition::New }, |s| s.position);
    object(match position {
        StartPosition::New => json!({ "deliver_policy": "new" }),
        StartPosition::All => json!({ "deliver_policy": "all" }),
        StartPosition::Time => {
            json!({ "deliver_policy": "by_start_time", "opt_start_time": start.and_then(|s| s.time.clone()) })
        }
        StartPosition::Sequence => {
            json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": start.and_then(|s| s.sequence) })
        }
    })
}

fn nanoseconds(duration: &Duration) -> i64 {
    i64::try_from(std_duration(duration).as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    fn topic(retention: &str) -> Topic {
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "accounts", "namespace": "shop"},
            "spec": {"mesh": {"name": "retail"}, "subjects": ["accounts.>"], "retention": {"policy": retention}},
        }))
        .expect("a topic")
    }

    fn subscription(spec: &Value) -> Subscription {
        let mut full = json!({"topic": {"name": "accounts"}});
        full.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Subscription",
            "metadata": {"name": "ledger", "namespace": "shop"}, "spec": full,
        }))
        .expect("a subscription")
    }

    #[test]
    fn every_field_reaches_the_consumer() {
        let subscription = subscription(&json!({
            "filter": ["accounts.opened", "accounts.closed"], "startFrom": {"position": "Sequence", "sequence": 7},
            "ackWait": "1m", "maxDeliver": 5, "backoff": ["1s", "5s"], "maxInFlight": 10, "paused": true,
        }));
        let config = config(&subscription, subscription.spec.filter.as_deref());
        insta::assert_yaml_snapshot!("every_field", Value::Object(config));
        insta::assert_yaml_snapshot!("beginning", Value::Object(beginning(&subscription, &topic("Limits"))));
    }

    #[rstest]
    #[case(json!({"filter": ["accounts.opened"]}), "Limits", None)]
    #[case(json!({"filter": ["orders.opened"]}), "Limits", Some(Reason::FilterOutsideTopic))]
    #[case(json!({"filter": ["accounts"]}), "Limits", Some(Reason::FilterOutsideTopic))]
    #[case(json!({"filter": ["accounts.*", "accounts.opened"]}), "Limits", Some(Reason::InvalidSubject))]
    #[case(json!({"filter": ["accounts. opened"]}), "Limits", Some(Reason::InvalidSubject))]
    #[case(json!({"startFrom": {"position": "New"}}), "WorkQueue", Some(Reason::InvalidSpec))]
    #[case(json!({}), "WorkQueue", None)]
    fn refuses(#[case] spec: Value, #[case] retention: &str, #[case] reason: Option<Reason>) {
        let result = accept(&subscription(&spec), &topic(retention));
        assert_eq!(result.err().map(|(reason, _)| reason), reason);
    }

    #[rstest]
    #[case(json!({"push": {"port": 80}, "backoff": ["1s"]}), 60, json!([]))]
    #[case(json!({"push": {"port": 80, "timeout": "2s"}, "backoff": ["1s"], "ackWait": "5s"}), 5, json!([]))]
    #[case(json!({"push": {"port": 80, "timeout": "2m"}}), 150, json!([]))]
    #[case(json!({"backoff": ["1s"], "ackWait": "5s"}), 1, json!([1_000_000_000]))]
    fn a_pushed_event_is_not_delivered_again_while_the_application_works_on_it(
        #[case] spec: Value,
        #[case] seconds: i64,
        #[case] backoff: Value,
    ) {
        let config = config(&subscription(&spec), None);
        assert_eq!((&config["ack_wait"], &config["backoff"]), (&json!(seconds * 1_000_000_000), &backoff));
    }

    #[test]
    fn a_work_queue_is_read_from_its_beginning() {
        assert_eq!(beginning(&subscription(&json!({})), &topic("WorkQueue"))["deliver_policy"], json!("all"));
        assert_eq!(beginning(&subscription(&json!({})), &topic("Limits"))["deliver_policy"], json!("new"));
    }
}
