//! Events flow without the operator. These tests take it away from all others, so they come last and run alone.

use anyhow::Result;
use eventmesh_crds::{Bridge, EventMesh, Topic, bridge::MqttVersion};

use crate::{alone, topic};

#[test]
fn the_operator_is_killed_while_events_flow() -> Result<()> {
    alone("opkill", async |test| {
        let broker = test.mesh(3, "").await?;
        test.both_ways(MqttVersion::V5, "").await?;
        let flows = test.flows(&broker, MqttVersion::V5).await?;
        flows.reached(0.2).await?;
        test.cluster.kill_operators().await?;
        flows.nothing_lost().await?;
        // The next leader takes up the work.
        test.ns.apply(&topic("opkill-later", "")).await?;
        test.ns.ready::<Topic>("opkill-later").await.map(drop)
    })
}

#[test]
fn without_an_operator_brokers_and_bridges_restart_and_events_flow() -> Result<()> {
    alone("opdown", async |test| {
        let broker = test.mesh(3, "").await?;
        test.both_ways(MqttVersion::V5, "").await?;
        test.cluster.scale_operator(0).await?;
        let flowed = async {
            let flows = test.flows(&broker, MqttVersion::V5).await?;
            flows.reached(0.2).await?;
            let leader = test.leader(&broker, "opdown-in").await?;
            test.cluster.kill_pod(test.ns, &leader).await?;
            flows.reached(0.4).await?;
            test.cluster.kill_pod(test.ns, &test.bridge_pod().await?).await?;
            flows.nothing_lost().await
        }
        .await;
        test.cluster.scale_operator(2).await?;
        flowed?;
        test.ns.ready::<EventMesh>("m").await?;
        test.ns.ready::<Bridge>("b").await.map(drop)
    })
}
