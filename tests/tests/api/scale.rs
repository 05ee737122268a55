//! Meshes that get more brokers, and fewer, while events are published: real brokers that are one cluster.

use std::{cell::Cell, collections::BTreeSet};

use anyhow::{Result, ensure};
use eventmesh_crds::{EventMesh, Topic};
use k8s_openapi::api::apps::v1::StatefulSet;

use crate::{
    alone,
    brokers::{Brokers, SET, copies, mesh, name, ready},
    object,
};

/// Topics with three copies; one has only one.
const TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];
const ALONE: &str = "alone";

fn topic(name: &str, copies: usize) -> String {
    object("Topic", name, &format!("  mesh: {{name: m}}\n  storage: {{replicas: {copies}}}"))
}

#[test]
fn brokers_come_get_their_share_and_go_again_without_a_loss() -> Result<()> {
    alone("scale", async |stack, ns| {
        let mut brokers = Brokers::start_to_grow(stack, ns, 3, 5).await?;
        for name in TOPICS {
            ns.apply(&topic(name, 3)).await?;
        }
        ns.apply(&topic(ALONE, 1)).await?;
        for name in TOPICS.iter().chain(&[ALONE]) {
            ns.ready::<Topic>(name).await?;
        }
        let client = brokers.stack.broker(ns, "m").await?;
        let sent = Cell::new(0_u64);
        let scale = async {
            ns.apply(&mesh(5, "")).await?;
            for index in [3, 4] {
                brokers.asked_for(index + 1).await?;
                brokers.stack.start_peer(index)?;
                brokers.create(index, &ready()).await?;
            }
            ns.ready::<EventMesh>("m").await?;
            let mut used = BTreeSet::new();
            for topic in TOPICS {
                used.extend(copies(&client, ns, topic).await?.0);
            }
            ensure!(used.len() == 5, "each broker has copies: {used:?}");

            // What cannot be done is refused, and nothing happens.
            ns.apply(&topic("wide", 5)).await?;
            ns.ready::<Topic>("wide").await?;
            ns.apply(&mesh(3, "")).await?;
            brokers.programmed("ScaleBlocked", "wide (5)").await?;
            ensure!(ns.get::<StatefulSet>(SET).await?.spec.and_then(|spec| spec.replicas) == Some(5));
            ns.apply(&topic("wide", 3)).await?;
            brokers.asked_for(4).await?;
            brokers.end(4).await?;
            // Its place is taken by another operator, half way.
            brokers.stack.restart_operator().await?;
            brokers.asked_for(3).await?;
            brokers.end(3).await?;
            ns.ready::<EventMesh>("m").await?;
            anyhow::Ok(())
        };
        client.publish_until(&["a.x", "alone.x"], &sent, scale).await?;
        let left: BTreeSet<String> = (0..3).map(name).collect();
        for topic in TOPICS.iter().chain(&["wide"]) {
            assert_eq!(copies(&client, ns, topic).await?.0, left, "{topic}");
        }
        for topic in ["a", ALONE] {
            let (_, stored) = copies(&client, ns, topic).await?;
            // The one that was under way at the end may be there or not.
            assert!([sent.get(), sent.get() + 1].contains(&stored), "{stored} of {} in {topic}", sent.get());
        }
        assert!(brokers.restarts().await?.is_empty(), "no broker was restarted");
        Ok(())
    })
}
