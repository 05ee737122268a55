//! Uninstalling in any order: nothing hangs, data is kept as the objects say, and the same objects find it again.

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use eventmesh_tests::{broker::Broker, brokers::mesh, objects::Namespace, paths, stack::Stack, wait::eventually};
use serde_json::Value;

use crate::{alone, object};

const BRIDGE: &str = "  mesh: {name: m}\n  endpoint: {mqtt: {url: 'mqtt://site.example:1883'}}\n  \
                      outbound: [{name: o, from: {topic: t}, to: out}]";

async fn apply(ns: &Namespace) -> Result<()> {
    ns.apply(&mesh(1, "")).await?;
    ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
    ns.apply(&object("Subscription", "s", "  topic: {name: t}\n  startFrom: {position: All}")).await?;
    ns.apply(&object("Bridge", "b", BRIDGE)).await
}

async fn set_up(ns: &Namespace) -> Result<()> {
    ns.ready::<Topic>("t").await?;
    ns.ready::<Subscription>("s").await?;
    ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await.map(drop)
}

/// All of it, with three events in the Topic.
async fn furnished(stack: &mut Stack, ns: &Namespace) -> Result<Broker> {
    apply(ns).await?;
    stack.start_broker(ns, "m").await?;
    set_up(ns).await?;
    let client = stack.broker(ns, "m").await?;
    for _ in 0..3 {
        client.publish("t.a", "event").await?;
    }
    Ok(client)
}

/// Messages of the Topic's stream, and since when the Subscription has its place in it.
async fn kept(client: &Broker, ns: &Namespace) -> Result<(Value, Value)> {
    let stream = format!("{}_t", ns.name);
    let consumer = client.consumer(&stream, &format!("sub_{}_s", ns.name)).await?.context("no place")?;
    let stream = client.stream(&stream).await?.context("no stream")?;
    Ok((stream["state"]["messages"].clone(), consumer["created"].clone()))
}

async fn nothing_left(client: &Broker, ns: &Namespace, topic: &str) -> Result<()> {
    eventually(&format!("end of the stream of {topic}"), ns.kube.patience, async || {
        let found = client.stream(&format!("{}_{topic}", ns.name)).await.map_err(|error| format!("{error:#}"))?;
        Ok(found.is_none().then_some(()))
    })
    .await
}

#[test]
fn without_an_operator_everything_goes_at_once_and_the_same_objects_find_their_data() -> Result<()> {
    alone("uninstall", async |stack, ns| {
        let client = furnished(stack, ns).await?;
        ns.apply(&object("Topic", "gone", "  mesh: {name: m}\n  deletionPolicy: Delete")).await?;
        ns.ready::<Topic>("gone").await?;
        let before = kept(&client, ns).await?;
        stack.operator.process.kill()?;

        // One object, while its mesh stays: what it wanted gone goes when an operator is back.
        ns.delete_and_wait::<Topic>("gone").await?;
        stack.start_operator().await?;
        nothing_left(&client, ns, "gone").await?;
        assert_eq!(kept(&client, ns).await?, before);

        // All of them, the mesh first.
        stack.operator.process.kill()?;
        ns.delete_and_wait::<EventMesh>("m").await?;
        ns.delete_and_wait::<Topic>("t").await?;
        ns.delete_and_wait::<Subscription>("s").await?;
        ns.delete_and_wait::<Bridge>("b").await?;
        stack.start_operator().await?;
        apply(ns).await?;
        set_up(ns).await?;
        assert_eq!(kept(&client, ns).await?, before, "the same events, and the same place");

        // And an object that is deleted and made anew wants no place of before.
        ns.delete_and_wait::<Subscription>("s").await?;
        apply(ns).await?;
        set_up(ns).await?;
        let (events, place) = kept(&client, ns).await?;
        assert!(events == before.0 && place != before.1, "{place}");
        Ok(())
    })
}

#[test]
fn kinds_that_are_deleted_first_take_their_objects_along_whether_or_not_an_operator_runs() -> Result<()> {
    alone("crds-first", async |stack, ns| {
        let client = furnished(stack, ns).await?;
        let (events, _) = kept(&client, ns).await?;
        let kinds = paths::repository().join("crds/yaml").display().to_string();
        for runs in [true, false] {
            if !runs {
                stack.operator.process.kill()?;
            }
            stack.api.kubectl(&["delete", "-k", &kinds, "--timeout=120s"]).await?;
            stack.api.kubectl(&["apply", "--server-side", "-k", &kinds]).await?;
            stack.api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"]).await?;
            if !runs {
                stack.start_operator().await?;
            }
            apply(ns).await?;
            set_up(ns).await?;
            assert_eq!(kept(&client, ns).await?.0, events, "with an operator: {runs}");
        }
        Ok(())
    })
}
