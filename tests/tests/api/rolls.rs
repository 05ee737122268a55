//! Brokers that are restarted by the operator, one at a time: three real brokers that are one cluster.

use std::cell::Cell;

use anyhow::{Context, Result};
use eventmesh_crds::{EventMesh, Topic};
use eventmesh_tests::{identity::Login, wait::eventually};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodTemplateSpec};
use serde_json::{Value, json};

use crate::{
    alone,
    brokers::{Brokers, SET, mesh, name, ready, revision},
    object,
};

fn without_image() -> Value {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
    json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
        {"name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": waiting}]})
}

fn has_label(template: &PodTemplateSpec) -> bool {
    template.metadata.as_ref().and_then(|m| m.labels.as_ref()).is_some_and(|labels| labels.contains_key("team"))
}

fn has_image(image: &'static str) -> impl Fn(&PodTemplateSpec) -> bool {
    move |template| template.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some(image))
}

#[test]
fn a_change_is_rolled_out_to_one_broker_at_a_time_and_loses_nothing() -> Result<()> {
    alone("roll", async |stack, ns| {
        let mut brokers = Brokers::start(stack, ns, 3).await?;
        ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
        ns.ready::<Topic>("t").await?;
        let client = brokers.stack.broker(ns, "m").await?;
        let sent = Cell::new(0);
        let roll = async {
            ns.apply(&mesh(3, ", podTemplate: {labels: {team: blue}}")).await?;
            brokers.take_note("the label", has_label).await?;
            let mut restarted = Vec::new();
            for _ in 0..3 {
                let index = brokers.next().await?;
                restarted.push(index);
                brokers.end(index).await?;
                if restarted.len() == 1 {
                    // Its place is taken by another operator, in the middle of the roll.
                    brokers.stack.restart_operator().await?;
                }
                brokers.begin(index).await?;
            }
            ns.ready::<EventMesh>("m").await?;
            anyhow::Ok(restarted)
        };
        let restarted = client.publish_until(&["t.a"], &sent, roll).await?;
        let mut told: Vec<_> = brokers.restarts().await?;
        told.reverse();
        let names: Vec<_> = told.iter().map(|restart| restart.broker.clone()).collect();
        assert_eq!(names, restarted.iter().map(|index| name(*index)).collect::<Vec<_>>());
        for restart in &told {
            assert_eq!(
                (restart.reason.as_str(), restart.message.as_str()),
                ("PodTemplateChanged", "pod template changed: labels")
            );
        }
        assert!(ns.event("BrokerRestart").await?.contains("pod template changed: labels"));
        // A request is answered by nobody while the stream has no leader.
        let stream = eventually("the stream", ns.kube.patience, async || {
            client.stream(&format!("{}_t", ns.name)).await.map_err(|error| format!("{error:#}"))
        });
        let stream = stream.await?;
        let stored = stream["state"]["messages"].as_u64().context("a number")?;
        // The one that was under way at the end may be there or not.
        assert!([sent.get(), sent.get() + 1].contains(&stored), "{stored} of {}", sent.get());
        Ok(())
    })
}

#[test]
fn an_image_that_does_not_start_stops_the_roll_and_going_back_heals_it() -> Result<()> {
    alone("roll-stops", async |stack, ns| {
        let mut brokers = Brokers::start(stack, ns, 3).await?;
        ns.apply(&mesh(3, ", image: 'broker:wrong'")).await?;
        brokers.take_note("the image", has_image("broker:wrong")).await?;
        let index = brokers.next().await?;
        brokers.end(index).await?;
        brokers.create(index, &without_image()).await?;
        let stopped = brokers.available("RollStopped", &name(index)).await?;
        assert_eq!(stopped.status, "True", "the others serve on");
        assert!(stopped.message.contains("ImagePullBackOff: no such image"), "{}", stopped.message);
        assert!(ns.event("RollStopped").await?.contains("no such image"));
        let before = brokers.uids().await?;

        ns.apply(&mesh(3, "")).await?;
        brokers.take_note("the image of before", has_image("localhost/event-mesh/broker:test")).await?;
        assert_eq!(brokers.next().await?, index, "the one that is down, and no other");
        brokers.end(index).await?;
        brokers.begin(index).await?;
        ns.ready::<EventMesh>("m").await?;
        let after = brokers.uids().await?;
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!(changed, 1, "the others were left alone");
        let messages: Vec<_> = brokers.restarts().await?.into_iter().map(|restart| restart.message).collect();
        let (good, wrong) = ("localhost/event-mesh/broker:test", "broker:wrong");
        let back = format!("image changed from {wrong} to {good}");
        assert_eq!(messages, [back, format!("image changed from {good} to {wrong}")]);
        Ok(())
    })
}

#[test]
fn no_broker_is_restarted_while_another_is_not_heard() -> Result<()> {
    alone("roll-waits", async |stack, ns| {
        let brokers = Brokers::start(stack, ns, 3).await?;
        // Its pod stays ready, as in the first seconds in which a node hangs.
        brokers.stack.pause_peer(1, true)?;
        ns.apply(&mesh(3, ", podTemplate: {labels: {team: blue}}")).await?;
        brokers.take_note("the label", has_label).await?;
        let before = brokers.uids().await?;
        let held = brokers.available("RollingOut", &name(1)).await?;
        assert!(held.message.contains("the next restart waits"), "{}", held.message);
        assert_eq!(brokers.uids().await?, before);
        assert!(brokers.restarts().await?.is_empty(), "nothing was restarted");
        brokers.stack.pause_peer(1, false)?;
        brokers.next().await.map(drop)
    })
}

#[test]
fn a_mesh_of_one_broker_is_rolled_too_and_says_that_it_is_away() -> Result<()> {
    alone("roll-one", async |stack, ns| {
        let mut brokers = Brokers::start(stack, ns, 1).await?;
        ns.apply(&mesh(1, ", resources: {requests: {cpu: 150m}}")).await?;
        let asked = |template: &PodTemplateSpec| {
            let container = template.spec.as_ref().map(|spec| spec.containers[0].clone());
            let requests = container.and_then(|c| c.resources).and_then(|resources| resources.requests);
            requests.is_some_and(|requests| requests.get("cpu").is_some_and(|cpu| cpu.0 == "150m"))
        };
        brokers.take_note("the resources", asked).await?;
        ns.until::<Pod, _>(&name(0), "ended", |pod| pod.metadata.deletion_timestamp.clone()).await?;
        brokers.end(0).await?;
        let away = brokers.available("BrokersStarting", "0 of 1 brokers").await?;
        assert_eq!(away.status, "False");
        assert!(away.message.contains("resources changed"), "{}", away.message);
        brokers.begin(0).await?;
        ns.ready::<EventMesh>("m").await.map(drop)
    })
}

#[test]
fn a_setting_is_taken_up_by_a_broker_that_runs() -> Result<()> {
    alone("reload", async |stack, ns| {
        ns.apply(&mesh(1, "")).await?;
        stack.start_configured_broker(ns, "m").await?;
        let brokers = Brokers { stack, ns };
        brokers.take_note("nothing yet", |_| true).await?;
        brokers.create(0, &ready()).await?;
        ns.ready::<EventMesh>("m").await?;
        let template = revision(&ns.get(SET).await?)?;
        let largest = async || -> Result<usize> {
            let options = Login::operator(ns, "m").await?.options()?;
            Ok(options.connect(brokers.stack.broker_address()).await?.server_info().max_payload)
        };
        assert_eq!(largest().await?, 1 << 20);

        ns.apply(&mesh(1, ", settings: {maxPayload: 2Mi}, extraConfig: {ping_max: 4}")).await?;
        let written = |map: &ConfigMap| map.data.as_ref()?.get("nats.conf")?.contains("ping_max").then_some(());
        ns.until::<ConfigMap, _>(SET, "the new setting", written).await?;
        brokers.stack.sync_configuration(ns, "m").await?;
        eventually("the larger limit", ns.kube.patience, async || {
            let largest = largest().await.map_err(|error| format!("{error:#}"))?;
            Ok((largest == 2 << 20).then_some(()))
        })
        .await?;
        ns.ready::<EventMesh>("m").await?;
        assert_eq!(revision(&ns.get(SET).await?)?, template, "the pods are asked for nothing new");
        assert!(brokers.restarts().await?.is_empty());
        assert!(brokers.stack.broker_runs(), "the same process");

        // A key that the broker cannot change while it runs is named as the reason of a restart.
        ns.apply(&mesh(1, ", extraConfig: {max_subscriptions: 77}")).await?;
        brokers
            .take_note("another fingerprint", |new| serde_json::to_value(new).is_ok_and(|new| new != template.1))
            .await?;
        let restarted = |mesh: &EventMesh| mesh.status.as_ref()?.restarts.as_ref()?.first().cloned();
        let restart = ns.until::<EventMesh, _>("m", "restarted", restarted).await?;
        assert_eq!(restart.reason, "ConfigurationChanged");
        assert_eq!(restart.message, "configuration changed: max_subscriptions");
        Ok(())
    })
}
