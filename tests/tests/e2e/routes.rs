//! Routes while they are changed, paused or held up.

use std::time::Duration;

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, EventMesh, Topic, bridge::MqttVersion};
use eventmesh_tests::{
    mqtt::{Receiver, Sender},
    wait::eventually,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use crate::{Test, shared, topic};

/// A kubelet that misses the hint exchanges the file of a bridge within a minute and a half.
const SOON: Duration = Duration::from_mins(4);

impl Test<'_> {
    /// A mesh of one broker, a Topic named as the test, and a Bridge `b` from `<word>/+` to `<word>.x`.
    async fn one_way(&self, mesh: &str, topic_more: &str) -> Result<eventmesh_tests::broker::Broker> {
        let broker = self.mesh(1, mesh).await?;
        self.ns.apply(&topic(self.word, topic_more)).await?;
        self.ns.ready::<Topic>(self.word).await?;
        let route = format!("  inbound: [{{name: a, from: '{0}/+', to: '{0}.{{1}}'}}]\n", self.word);
        self.ns.apply(&Self::bridge(&self.site_url(1883), MqttVersion::V5, &route)).await?;
        self.ns.ready::<Bridge>("b").await?;
        Ok(broker)
    }

    /// Waits until the stream holds events of so many subjects: an event may be stored twice, and none is missing.
    async fn stored(&self, broker: &eventmesh_tests::broker::Broker, wanted: u64) -> Result<()> {
        let stream = self.stream(self.word);
        eventually(&format!("stream of {wanted} different events"), SOON, async || {
            let info = broker.stream(&stream).await.map_err(|error| error.to_string())?.ok_or("no stream")?;
            if info["state"]["num_subjects"] == wanted { Ok(Some(())) } else { Err(info["state"].to_string()) }
        })
        .await
    }
}

#[test]
fn routes_are_changed_under_a_running_pod() -> Result<()> {
    shared("edit", async |test| {
        let broker = test.mesh(1, "").await?;
        test.both_ways(MqttVersion::V5, "").await?;
        let pod = test.ns.get::<Pod>(&test.bridge_pod().await?).await?;
        let sender = Sender::new(&test.cluster.site(), MqttVersion::V5);
        let mut stored = broker.read(&test.stream("edit-in")).await?;
        sender.send("edit/1/in", "first", b"1".to_vec()).await;
        assert_eq!(stored.next_within(SOON).await?.subject, "edit-in.1");

        let routes = json!({"spec": {
            "inbound": [{"name": "in", "from": "edit/+/changed", "to": "edit-in.changed.{1}"}],
            "outbound": [{"name": "out", "from": {"topic": "edit-out", "filter": ["edit-out.*"]}, "to": "edit/{1}/elsewhere"}],
        }});
        test.ns.patch::<Bridge>("b", routes).await?;
        test.ns.ready::<Bridge>("b").await?;
        sender.send("edit/2/changed", "second", b"2".to_vec()).await;
        assert_eq!(stored.next_within(SOON).await?.subject, "edit-in.changed.2");
        let mut elsewhere = Receiver::new(&test.cluster.site(), MqttVersion::V5, "edit/+/elsewhere").await?;
        broker.publish("edit-out.3", "3").await?;
        assert_eq!(elsewhere.next_within(SOON).await?.topic, "edit/3/elsewhere");

        let now = test.ns.get::<Pod>(&test.bridge_pod().await?).await?;
        assert_eq!(now.uid(), pod.uid(), "the pod was replaced");
        let restarts = now.status.and_then(|status| status.container_statuses).map(|c| c[0].restart_count);
        assert_eq!(restarts, Some(0), "the bridge was restarted");
        Ok(())
    })
}

#[test]
fn a_paused_bridge_leaves_events_where_they_are() -> Result<()> {
    shared("pause", async |test| {
        let broker = test.one_way("", "").await?;
        test.ns.patch::<Bridge>("b", json!({"spec": {"state": "Paused"}})).await?;
        test.ns
            .until::<Bridge, _>("b", "a Bridge whose pod says that it is paused", |bridge| {
                let routes = bridge.status.as_ref()?.routes.as_ref()?;
                routes.iter().all(|route| route.state == "Paused").then_some(())
            })
            .await?;
        test.ns.condition::<Bridge>("b", "Ready", "True", "Paused").await?;
        let sender = Sender::new(&test.cluster.site(), MqttVersion::V5);
        for number in 0..20 {
            sender.send(&format!("pause/{number}"), &number.to_string(), b"x".to_vec()).await;
        }
        let info = broker.stream(&test.stream("pause")).await?.context("no stream")?;
        assert_eq!(info["state"]["messages"], 0, "a paused Bridge delivered");
        test.ns.patch::<Bridge>("b", json!({"spec": {"state": "Running"}})).await?;
        test.stored(&broker, 20).await
    })
}

#[test]
fn an_event_above_the_limit_holds_its_route_up_until_the_limit_is_raised() -> Result<()> {
    shared("large", async |test| {
        let broker = test.one_way("    settings: {maxPayload: 64Ki}", "").await?;
        let sender = Sender::new(&test.cluster.site(), MqttVersion::V5);
        sender.send("large/a", "small", vec![b'x'; 1000]).await;
        test.stored(&broker, 1).await?;
        sender.send("large/b", "large", vec![b'x'; 100_000]).await;
        let blocked = test.ns.condition::<Bridge>("b", "Connected", "False", "RouteBlocked").await?;
        assert!(!blocked.message.is_empty());

        let raised = json!({"spec": {"brokers": {"settings": {"maxPayload": "1Mi"}}}});
        test.ns.patch::<EventMesh>("m", raised).await?;
        test.stored(&broker, 2).await?;
        test.ns.ready::<Bridge>("b").await.map(drop)
    })
}

#[test]
fn a_full_topic_holds_its_route_up_and_loses_nothing() -> Result<()> {
    shared("full", async |test| {
        let broker = test.one_way("", "  retention: {maxMessages: 5, discard: New}").await?;
        let sender = Sender::new(&test.cluster.site(), MqttVersion::V5);
        for number in 0..12 {
            sender.send(&format!("full/{number}"), &number.to_string(), b"x".to_vec()).await;
        }
        test.ns.condition::<Bridge>("b", "Connected", "False", "RouteBlocked").await?;
        test.stored(&broker, 5).await?;
        test.ns.apply(&topic("full", "  retention: {maxMessages: 100, discard: New}")).await?;
        test.stored(&broker, 12).await?;
        test.ns.ready::<Bridge>("b").await.map(drop)
    })
}
