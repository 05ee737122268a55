//! Events through a bridge while brokers, bridges and the site's broker are killed. Nothing may be lost.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use eventmesh_crds::{Bridge, EventMesh, bridge::MqttVersion};
use eventmesh_tests::{broker::Broker, flow::Flow};

use crate::{Test, shared};

const EVENTS: u32 = 4_000;

/// Both directions of the Bridge of [`Test::both_ways`].
pub struct Flows {
    inbound: Flow,
    outbound: Flow,
}

impl Test<'_> {
    pub async fn flows(&self, broker: &Broker, version: MqttVersion) -> Result<Flows> {
        let (site, word) = (self.cluster.site(), self.word.to_owned());
        let run = format!("{word}-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
        let stream = self.stream(&format!("{word}-in"));
        let (to, at_site) = (word.clone(), (&site, version));
        let inbound =
            Flow::inbound(&run, EVENTS, at_site, move |n| format!("{to}/{}/in", n % 50), (broker, stream.as_str()))
                .await?;
        let (to, filter) = (word.clone(), format!("{word}/+/out"));
        let at_site = (&site, version, filter.as_str());
        let outbound = Flow::outbound(&run, EVENTS, broker, move |n| format!("{to}-out.{}", n % 50), at_site).await?;
        Ok(Flows { inbound, outbound })
    }
}

impl Flows {
    /// Both directions have come this far.
    pub async fn reached(&self, part: f64) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part between 0 and 1")]
        let events = (f64::from(EVENTS) * part) as usize;
        self.inbound.reached(events).await?;
        self.outbound.reached(events).await
    }

    pub async fn nothing_lost(self) -> Result<()> {
        self.inbound.release();
        self.outbound.release();
        let (inbound, outbound) = tokio::join!(self.inbound.finish(), self.outbound.finish());
        eprintln!("in {:?}, out {:?}", inbound.verdict, outbound.verdict);
        inbound.nothing_lost(EVENTS)?;
        outbound.nothing_lost(EVENTS)
    }
}

async fn all_faults(test: &Test<'_>, version: MqttVersion) -> Result<()> {
    let broker = test.mesh(3, "").await?;
    test.both_ways(version, "").await?;
    let flows = test.flows(&broker, version).await?;
    flows.reached(0.15).await?;
    let leader = test.leader(&broker, &format!("{}-in", test.word)).await?;
    test.cluster.kill_pod(test.ns, &leader).await?;
    flows.reached(0.3).await?;
    test.cluster.kill_pod(test.ns, &test.bridge_pod().await?).await?;
    flows.reached(0.45).await?;
    test.cluster.fault(&["stop-mosquitto"]).await?;
    test.cluster.fault(&["start-mosquitto"]).await?;
    flows.nothing_lost().await?;
    test.ns.ready::<EventMesh>("m").await?;
    test.ns.ready::<Bridge>("b").await?;
    Ok(())
}

#[test]
fn mqtt_5_both_ways_through_kills_of_broker_bridge_and_site() -> Result<()> {
    shared("faults5", async |test| all_faults(test, MqttVersion::V5).await)
}

#[test]
fn mqtt_311_both_ways_through_kills_of_broker_bridge_and_site() -> Result<()> {
    shared("faults311", async |test| all_faults(test, MqttVersion::V311).await)
}
