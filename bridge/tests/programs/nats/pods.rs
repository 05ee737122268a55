//! Several pods: who carries, and who shares.

use std::collections::BTreeSet;

use eventmesh_wire::report::RouteState;
use serde_json::{Value, json};

use super::world::{Far, start_pod};
use crate::common::{LIMIT, complete, running};

/// In order, so one pod at a time; each event tells by its subject who carried it. A machine that stands still for a few seconds
/// does not cost the active pod its lease.
fn ordered(far: &Far, pod: &str) -> Value {
    let mut config = far.config();
    config["delivery"]["ordering"] = json!("PerSource");
    config["lease"] = json!({"ttlMs": 6000});
    config["inbound"][0]["to"] = json!(format!("in.{{1}}.{pod}"));
    config["outbound"][0]["to"] = json!(format!("copy.{{1}}.{pod}"));
    config
}

/// Who brought which event into a stream, in its order.
async fn history(client: &async_nats::Client, stream: &str) -> Vec<(String, String)> {
    let messages = Far::messages(client, stream).await;
    let one = |message: async_nats::jetstream::Message| {
        let pod = message.subject.rsplit('.').next().unwrap().to_owned();
        (pod, String::from_utf8_lossy(&message.payload).into_owned())
    };
    messages.into_iter().map(one).collect()
}

async fn stands_by(bridge: &eventmesh_tests::process::Bridge) {
    bridge.route("in", "standby", |route| route.state == RouteState::Standby).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_stopped_carries_nothing_when_it_goes_on() {
    let far = Far::new().await;
    let a = start_pod(&ordered(&far, "a"), "a");
    running(&a, &["in", "out"]).await;
    let b = start_pod(&ordered(&far, "b"), "b");
    stands_by(&b).await;
    far.carries(&a, "x", 20).await;
    a.child.pause().unwrap();
    // Both brokers give these to the pod that is stopped, for it has asked for them: they wait in its sockets.
    far.order("x", 20..40).await;
    far.publish("x", 20..40).await;
    running(&b, &["in", "out"]).await;
    Far::holds_all(&far.client, "IN", "x", 40).await;
    Far::holds_all(&far.outside, "COPY", "x", 40).await;
    a.child.go_on().unwrap();
    stands_by(&a).await;
    far.order("x", 40..60).await;
    far.publish("x", 40..60).await;
    Far::holds_all(&far.client, "IN", "x", 60).await;
    Far::holds_all(&far.outside, "COPY", "x", 60).await;
    for (client, stream) in [(&far.client, "IN"), (&far.outside, "COPY")] {
        let history = history(client, stream).await;
        let expected: Vec<(String, String)> =
            (0..60).map(|n| (if n < 20 { "a" } else { "b" }.to_owned(), format!("x{n}"))).collect();
        assert_eq!(history, expected, "{stream}: each once, in order, and none by the pod that was stopped");
    }
    let route = a.route("out", "settled route", |route| route.counters.in_flight == 0).await.unwrap();
    assert_eq!(route.counters.delivered, 20, "{route:?}");
    complete(&route);
}

#[tokio::test(flavor = "multi_thread")]
async fn order_survives_a_killed_pod() {
    let far = Far::new().await;
    let a = start_pod(&ordered(&far, "a"), "a");
    running(&a, &["in", "out"]).await;
    let b = start_pod(&ordered(&far, "b"), "b");
    stands_by(&b).await;
    let count = 3_000;
    let (orders, events) = (far.order("x", 0..count), far.publish("x", 0..count));
    let kill = async {
        eventmesh_tests::wait::eventually("events by the first pod", LIMIT, async || {
            Ok((history(&far.outside, "COPY").await.len() > 100).then_some(()))
        })
        .await
        .unwrap();
        a.child.kill().unwrap();
        std::time::Instant::now()
    };
    let ((), (), killed) = tokio::join!(orders, events, kill);
    running(&b, &["in", "out"]).await;
    // The first pod may have been quick enough for all that was sent until it was killed.
    let all = count + 100;
    far.order("x", count..all).await;
    far.publish("x", count..all).await;
    Far::holds_all(&far.client, "IN", "x", all).await;
    Far::holds_all(&far.outside, "COPY", "x", all).await;
    println!("all {all} events each way {:.2} s after the kill", killed.elapsed().as_secs_f64());
    for (client, stream) in [(&far.client, "IN"), (&far.outside, "COPY")] {
        let history = history(client, stream).await;
        let mut seen = BTreeSet::new();
        let firsts: Vec<&String> =
            history.iter().filter(|(_, event)| seen.insert(event.clone())).map(|(_, event)| event).collect();
        assert!(firsts.iter().map(|event| event[1..].parse::<usize>().unwrap()).is_sorted(), "{stream}: out of order");
        let first = history.iter().position(|(pod, _)| pod == "b").unwrap();
        assert!(history[first..].iter().all(|(pod, _)| pod == "b"), "{stream}: both at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_share_the_work_where_no_order_is_asked_for() {
    let far = Far::new().await;
    let config = |pod: &str| {
        let mut config = ordered(&far, pod);
        (config["delivery"]["ordering"], config["lease"]) = (json!("None"), Value::Null);
        config["delivery"]["maxInFlight"] = json!(20);
        config
    };
    let (a, b) = (start_pod(&config("a"), "a"), start_pod(&config("b"), "b"));
    running(&a, &["in", "out"]).await;
    running(&b, &["in", "out"]).await;
    far.order("x", 0..2_000).await;
    far.publish("x", 0..2_000).await;
    assert_eq!(Far::holds_all(&far.client, "IN", "x", 2_000).await, 0);
    assert_eq!(Far::holds_all(&far.outside, "COPY", "x", 2_000).await, 0);
    for (client, stream) in [(&far.client, "IN"), (&far.outside, "COPY")] {
        let history = history(client, stream).await;
        let by_a = history.iter().filter(|(pod, _)| pod == "a").count();
        assert!(by_a > 0 && by_a < history.len(), "{stream}: {by_a} of {} by one pod", history.len());
    }
}
