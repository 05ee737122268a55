//! Brokers whose volumes are lost for good: three real brokers that are one cluster, and the check that their pods run first.

use std::{cell::Cell, collections::BTreeSet};

use anyhow::{Result, ensure};
use eventmesh_crds::{EventMesh, Topic};
use eventmesh_tests::objects::Namespace;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use crate::{
    alone,
    brokers::{Brokers, copies, name},
    object,
};

async fn three_with_a_topic<'a>(stack: &'a mut crate::Stack, ns: &'a Namespace) -> Result<Brokers<'a>> {
    let brokers = Brokers::start(stack, ns, 3).await?;
    ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
    ns.ready::<Topic>("t").await?;
    let all = |map: &ConfigMap| (map.data.as_ref()?.values().next()?.lines().count() == 3).then_some(());
    ns.until::<ConfigMap, _>("m-members", "all who are counted on", all).await?;
    Ok(brokers)
}

#[test]
fn a_broker_without_its_volume_starts_when_nobody_counts_on_it() -> Result<()> {
    alone("lost-volume", async |stack, ns| {
        let mut brokers = three_with_a_topic(stack, ns).await?;
        let client = brokers.stack.broker(ns, "m").await?;
        let sent = Cell::new(0_u64);
        let two: BTreeSet<String> = [0, 1].map(name).into();
        let replace = async {
            brokers.lose(2).await?;
            // Its place is taken by another operator.
            brokers.stack.restart_operator().await?;
            ensure!(brokers.next().await? == 2, "it is asked anew");
            ensure!(copies(&client, ns, "t").await?.0 == two, "nobody counts on it");
            brokers.end(2).await?;
            brokers.begin(2).await?;
            brokers.programmed("ReplacingBroker", "m-broker-2 starts anew").await?;
            ensure!(copies(&client, ns, "t").await?.0 == two, "it is let in minutes later");
            let listed = ns.get::<ConfigMap>("m-members").await?.data.unwrap_or_default();
            ensure!(listed.values().all(|list| !list.contains("m-broker-2")), "{listed:?}");
            anyhow::Ok(())
        };
        client.publish_until(&["t.a"], &sent, replace).await?;
        let stored = copies(&client, ns, "t").await?.1;
        // The one that was under way at the end may be there or not.
        assert!([sent.get(), sent.get() + 1].contains(&stored), "{stored} of {}", sent.get());
        assert!(ns.event("ReplacingBroker").await?.contains("m-broker-2"));
        Ok(())
    })
}

#[test]
fn two_lost_volumes_of_three_are_given_up_by_a_person() -> Result<()> {
    alone("lost-volumes", async |stack, ns| {
        let mut brokers = three_with_a_topic(stack, ns).await?;
        let client = brokers.stack.broker(ns, "m").await?;
        for number in 0..100 {
            client.publish_surely("t.a", &format!("id {number}"), "event").await;
        }
        brokers.stack.kill_peer(1);
        brokers.lose(2).await?;
        brokers.lose(1).await?;
        brokers.programmed("VolumesLost", "give-up-volumes=m-broker-1,m-broker-2").await?;
        assert!(ns.event("VolumesLost").await?.contains("at the same time"));

        let given_up =
            json!({"metadata": {"annotations": {"eventmesh.dev/give-up-volumes": "m-broker-1, m-broker-2"}}});
        ns.patch::<EventMesh>("m", given_up).await?;
        for _ in 0..2 {
            let index = brokers.next().await?;
            brokers.end(index).await?;
            brokers.begin(index).await?;
        }
        brokers.programmed("ReplacingBroker", "m-broker-1, m-broker-2 starts anew").await?;
        let (members, stored) = copies(&client, ns, "t").await?;
        assert_eq!(
            (members, stored),
            ([name(0)].into(), 100),
            "the one that was left has it all, and nobody else is counted on"
        );
        client.publish_surely("t.a", "id 100", "event").await;
        let conditions = ns.get::<EventMesh>("m").await?.status.map(|status| status.conditions).unwrap_or_default();
        let warned = conditions
            .iter()
            .any(|one| one.reason == "AcceptedWithWarning" && one.message.contains("remove the annotation"));
        assert!(warned, "{conditions:?}");
        Ok(())
    })
}
