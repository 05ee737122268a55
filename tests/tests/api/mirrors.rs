//! Copies of Topics over a link: two real brokers that run what the operator has made, and the bridge program that keeps the copies up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventmesh_crds::Topic;
use eventmesh_tests::{
    broker::Broker, child::free_port, objects::Namespace, paths, process::Bridge, stack::Stack, wait::eventually,
};
use eventmesh_wire::{copy::HEADER_PLACE, names};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use super::links::{address, condition, link, linked, mesh, start};
use crate::object;

const SOON: Duration = Duration::from_mins(2);

/// A copy of a Topic of `b1` at `a1`.
fn copy(name: &str, of: &str) -> String {
    let spec = format!("  mesh: {{name: a1}}\n  subjects: [{of}.>]\n  mirror: {{link: to-b, topic: {{name: {of}}}}}");
    object("Topic", name, &spec)
}

fn source(name: &str, more: &str) -> String {
    object("Topic", name, &format!("  mesh: {{name: b1}}\n{more}"))
}

/// Sends copies to `a1`.
const BRIDGE: &str = "
  mesh: {name: b1}
  endpoint: {link: {name: to-a}}
  outbound:
  - {name: orders, from: {topic: orders}}
  - {name: jobs, from: {topic: jobs}}
  delivery: {maxInFlight: 50}";

async fn mirrored(ns: &Namespace, topic: &str, reason: &str, lag: Option<i64>) -> Result<()> {
    ns.until::<Topic, _>(topic, &format!("Mirrored {reason}, lag {lag:?}"), |topic| {
        let status = topic.status.as_ref()?;
        let found = status.conditions.iter().any(|one| one.type_ == "Mirrored" && one.reason == reason);
        (found && status.mirror.as_ref()?.lag == lag).then_some(())
    })
    .await
}

/// Starts the program of the Bridge's pod with the configuration that the operator has made for it.
async fn bridge(stack: &Stack, ns: &Namespace) -> Result<Bridge> {
    let text = ns.secret("copies-bridge", "config.json").await?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["mesh"]["servers"] = json!([format!("tls://{}:{}", address("b1")?, stack.broker_port())]);
    Bridge::start(&paths::release("eventmesh-bridge")?, paths::scratch("copies")?, &config)
}

async fn publish(broker: &Broker, subject: &str, numbers: std::ops::Range<usize>) -> Result<()> {
    eventmesh_tests::process::nats::produce(&broker.client, subject, "", numbers).await
}

/// Waits until a copy has so many events, and looks at each.
async fn holds(broker: &Broker, stream: &str, count: usize) -> Result<()> {
    let found = eventually("the copy to be complete", SOON, async || {
        let info = broker.stream(stream).await.map_err(|error| error.to_string())?.ok_or("no stream")?;
        let found = info["state"]["messages"].as_u64().unwrap_or_default();
        if found >= count as u64 { Ok(Some(())) } else { Err(format!("{found} of {count}")) }
    });
    found.await?;
    let stored = broker.stored(stream).await?;
    let numbers: Vec<String> =
        stored.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect();
    ensure!(numbers == (0..count).map(|number| number.to_string()).collect::<Vec<_>>(), "{stream}: {numbers:?}");
    ensure!(stored.iter().all(|event| event.headers.get(HEADER_PLACE).is_some()), "no place in {stream}");
    Ok(())
}

#[test]
fn a_copy_catches_up_after_an_outage_with_nothing_lost_and_nothing_twice() -> Result<()> {
    linked("mirrors", async |stack, ns| {
        let leaf = free_port()?;
        ns.apply(&mesh("a1", true, &link("to-b", "b1", "export: [], import: []"))).await?;
        ns.apply(&mesh("b1", false, &link("to-a", "a1", "export: [], import: []"))).await?;
        for (name, of) in [("orders-copy", "orders"), ("jobs-copy", "jobs")] {
            ns.apply(&copy(name, of)).await?;
        }
        ns.apply(&source("orders", "  subjects: [orders.>]")).await?;
        ns.apply(&source("jobs", "  subjects: [jobs.>]\n  retention: {policy: WorkQueue}")).await?;
        ns.apply(&object("Bridge", "copies", BRIDGE)).await?;
        let mut a = start(stack, ns, "a1", leaf).await?;
        let b = start(stack, ns, "b1", leaf).await?;
        ns.secret("b1-links", "to-a.creds").await?;
        ns.until::<ConfigMap, _>("b1-broker", "the remote", |config| {
            config.data.as_ref()?["nats.conf"].contains("a1-leaf").then_some(())
        })
        .await?;
        b.sync().await?;
        condition(ns, "a1", "Linked", "1 of 1").await.with_context(|| b.log())?;
        for topic in ["orders", "jobs"] {
            ns.ready::<Topic>(topic).await?;
        }
        let (source, target) = (b.connect().await?, a.connect().await?);
        let stream = |topic: &str| names::stream(&ns.name, topic);
        publish(&source, "orders.x", 0..300).await?;
        publish(&source, "jobs.x", 0..100).await?;
        ns.until::<Topic, _>("orders-copy", "what is missing", |topic| {
            let conditions = topic.status.as_ref()?.conditions.iter();
            let mut waiting = conditions.filter(|one| one.reason == "MirrorWaiting");
            waiting.any(|one| one.message.contains("from: {topic: orders")).then_some(())
        })
        .await?;

        let mut pod = bridge(stack, ns).await?;
        let told = || format!("bridge:\n{}\nb:\n{}\na:\n{}", pod.child.log_tail(30), b.log(), a.log());
        holds(&target, &stream("orders-copy"), 300).await.with_context(told)?;
        holds(&target, &stream("jobs-copy"), 100).await?;
        mirrored(ns, "orders-copy", "Mirrored", Some(0)).await?;

        // The far side is gone, and so is the program that sends; what is published meanwhile is many times the window.
        a.stop();
        publish(&source, "orders.x", 300..600).await?;
        pod.kill_and_start_again()?;
        publish(&source, "orders.x", 600..1500).await?;
        publish(&source, "jobs.x", 100..400).await?;
        pod.route("orders", "a lag", |route| route.lag.is_some_and(|lag| lag >= 1000)).await?;
        a.restart().await?;
        // In the middle of catching up it is killed once more.
        let begun = eventually("the first to come", SOON, async || {
            let info = target.stream(&stream("orders-copy")).await.map_err(|error| error.to_string())?.ok_or("none")?;
            let found = info["state"]["messages"].as_u64().unwrap_or_default();
            if found > 300 { Ok(Some(())) } else { Err(format!("{found}")) }
        });
        begun.await.with_context(|| a.log())?;
        pod.kill_and_start_again()?;
        holds(&target, &stream("orders-copy"), 1500).await.with_context(|| pod.child.log_tail(30))?;
        holds(&target, &stream("jobs-copy"), 400).await?;
        mirrored(ns, "orders-copy", "Mirrored", Some(0)).await?;
        let done = eventually("the work queue to be empty", SOON, async || {
            let left = source.stored(&stream("jobs")).await.map_err(|error| error.to_string())?.len();
            if left == 0 { Ok(Some(())) } else { Err(format!("{left} left")) }
        });
        done.await?;

        // Who takes the Bridge away takes the consent back: the rights go with it.
        ns.delete_and_wait::<eventmesh_crds::Bridge>("copies").await?;
        ns.gone::<Secret>("copies-bridge-credentials").await
    })
}
