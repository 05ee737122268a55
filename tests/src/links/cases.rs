//! What is tried over the links.

use std::{cell::Cell, fmt, time::Duration};

use anyhow::{Context as _, Result, ensure};
use eventmesh_crds::EventMesh;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::Notify;

use super::{
    count::{Came, Row, came, publish},
    world::{END, HUB, KEPT, World},
};
use crate::broker::{Broker, Reader};

/// How much is sent, and what cuts the link.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub events: u32,
    pub outage: Outage,
}

#[derive(Debug, Clone, Copy)]
pub enum Outage {
    /// The cable between the clusters is pulled for so long.
    Cable(Duration),
    /// The hub's only broker is killed.
    HubKilled,
}

impl Outage {
    async fn happen(self, world: &World) -> Result<()> {
        let cluster = &world.clusters[0];
        match self {
            Self::Cable(time) => {
                cluster.fault(&["cut", "wan"]).await?;
                tokio::time::sleep(time).await;
                cluster.fault(&["heal", "wan"]).await
            }
            Self::HubKilled => {
                let pod = format!("{HUB}-broker-0");
                let before = world.near.get::<Pod>(&pod).await?.uid();
                cluster.kill_pod(&world.near, &pod).await?;
                world.near.until::<Pod, _>(&pod, "another one", |pod| (pod.uid() != before).then_some(())).await?;
                world.near.ready::<EventMesh>(HUB).await.map(drop)
            }
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cable(time) => write!(f, "{} s without the cable", time.as_secs()),
            Self::HubKilled => f.write_str("the hub's broker was killed"),
        }
    }
}

/// All cases, one after the other. Some take several sites.
pub async fn all(world: &World, plan: Plan) -> Result<Vec<Row>> {
    let mut rows = vec![to_the_hub(world, plan).await.context("to the hub")?];
    rows.push(from_the_hub(world, plan).await.context("from the hub")?);
    rows.push(along_a_chain(world, plan).await.context("along a chain")?);
    if world.sites.len() > 1 {
        rows.push(from_site_to_sites(world, plan).await.context("from site to sites")?);
        rows.push(nobody_wants(world, plan).await.context("without interest")?);
    }
    rows.push(through_an_outage(world, plan).await.context("through an outage")?);
    Ok(rows)
}

async fn to_the_hub(world: &World, plan: Plan) -> Result<Row> {
    let mut row = Row::new("star: the sites to the hub");
    for site in world.sites.iter().copied() {
        let (broker, mut reader) = (world.broker(site).await?, world.reader(HUB, "up").await?);
        let subject = format!("up.{site}.x");
        publish(&broker, &subject, site, plan.events).await?;
        row.add(site, plan.events, &came(&mut reader, site).await?);
    }
    Ok(row)
}

/// Publishes at one mesh what all of these should come to hold.
async fn to_all(row: &mut Row, world: &World, from: (&str, &str), to: &[(&str, &str)], events: u32) -> Result<()> {
    let mut readers = try_join_all(to.iter().map(|(mesh, topic)| world.reader(mesh, topic))).await?;
    let (mesh, subject) = from;
    publish(&world.broker(mesh).await?, subject, subject, events).await?;
    for (reader, (mesh, _)) in readers.iter_mut().zip(to) {
        row.add(subject, events, &came(reader, subject).await.with_context(|| (*mesh).to_owned())?);
    }
    Ok(())
}

async fn from_the_hub(world: &World, plan: Plan) -> Result<Row> {
    let mut row = Row::new("star: the hub to the sites");
    let sites: Vec<(&str, &str)> = world.sites.iter().map(|site| (*site, "down")).collect();
    to_all(&mut row, world, (HUB, "down.x"), &sites, plan.events).await?;
    Ok(row)
}

async fn from_site_to_sites(world: &World, plan: Plan) -> Result<Row> {
    let mut row = Row::new("star: site to site over the hub");
    let others: Vec<(&str, &str)> = world.sites[1..].iter().map(|site| (*site, "all")).collect();
    to_all(&mut row, world, (world.sites[0], "all.site1.x"), &others, plan.events).await?;
    Ok(row)
}

async fn along_a_chain(world: &World, plan: Plan) -> Result<Row> {
    let mut row = Row::new("chain: hub, site, end");
    to_all(&mut row, world, (HUB, "chain.x"), &[(END, "chain")], plan.events).await?;
    Ok(row)
}

/// What both sides list and no Topic of the far side wants does not leave; once one wants it, it does, over that link alone.
async fn nobody_wants(world: &World, plan: Plan) -> Result<Row> {
    let mut row = Row::new("interest: nothing without a Topic");
    let hub = world.broker(HUB).await?;
    let grown =
        bytes_of(world, &hub, "unwanted", async |hub| publish(hub, "quiet.x", "unwanted", plan.events).await).await?;
    ensure!(grown.iter().all(|bytes| *bytes < MARK), "{grown:?} bytes of {} events that nobody wants", plan.events);

    let site = 1;
    world.topic(world.sites[site], "quiet", "quiet.>").await?;
    let mut reader = world.reader(world.sites[site], "quiet").await?;
    wanted(&hub, &mut reader, "quiet.wanted").await?;
    let wanted =
        bytes_of(world, &hub, "wanted", async |hub| publish(hub, "quiet.x", "heard", plan.events).await).await?;
    row.add("heard", plan.events, &came(&mut reader, "heard").await?);
    let elsewhere: Vec<i64> =
        wanted.iter().enumerate().filter(|(at, _)| *at != site).map(|(_, bytes)| *bytes).collect();
    ensure!(wanted[site] > i64::from(plan.events), "{wanted:?} bytes of events that one site wants");
    ensure!(elsewhere.iter().all(|bytes| *bytes < MARK), "{wanted:?} bytes of events that one site wants");
    row.note = format!(
        "{} events that nobody wants: {} bytes, which five marks take; that one site wants: {} bytes to it, {} to the others",
        plan.events,
        grown.iter().sum::<i64>(),
        wanted[site],
        elsewhere.iter().sum::<i64>()
    );
    Ok(row)
}

/// More than a mark takes.
const MARK: i64 = 1024;

/// Bytes that leave the hub to each site by what is done. A mark goes to all of them before and after: what was published before it has
/// left by then, if it leaves at all. The bytes of the second mark are in the result.
async fn bytes_of(
    world: &World,
    hub: &Broker,
    mark: &str,
    done: impl AsyncFnOnce(&Broker) -> Result<()>,
) -> Result<Vec<i64>> {
    let mut readers = try_join_all(world.sites.iter().map(|site| world.reader(site, "down"))).await?;
    let mut marked = async |mark: String| {
        publish(hub, "down.mark", &mark, 0).await?;
        for reader in &mut readers {
            came(reader, &mark).await?;
        }
        world.bytes_out().await
    };
    let before = marked(format!("{mark}-before")).await?;
    done(hub).await?;
    let after = marked(format!("{mark}-after")).await?;
    Ok(after.iter().zip(&before).map(|(after, before)| after - before).collect())
}

/// Publishes probes until one has come to the far side: from then on all that is published comes. Gives what else came.
async fn wanted(broker: &Broker, reader: &mut Reader, subject: &str) -> Result<Came> {
    const TRIES: u32 = 600;
    const PROBE: &str = "probe";
    let mut others = Came::new();
    for _ in 0..TRIES {
        broker.publish(subject, PROBE).await?;
        while let Ok(event) = reader.next_within(Duration::from_millis(500)).await {
            let text = String::from_utf8_lossy(&event.payload).into_owned();
            if text == PROBE {
                return Ok(others);
            }
            *others.entry(text).or_default() += 1;
        }
    }
    anyhow::bail!("nothing has come of {TRIES} probes on {subject}")
}

/// The link is cut while a site publishes. What its ordinary Topic stores meanwhile does not cross later, and is not counted as sent
/// over the link: the note tells of it. All that the Topic stores of which the hub keeps a copy has to come, once; and of the ordinary one
/// what was published before and after.
async fn through_an_outage(world: &World, plan: Plan) -> Result<Row> {
    let mut row = Row::new("outage: site to hub, under load");
    let site = world.copied()?;
    let broker = world.broker(site).await?;
    let (mut reader, mut copy) = (world.reader(HUB, "up").await?, world.reader(HUB, KEPT).await?);
    let subject = format!("up.{site}.x");
    publish(&broker, &subject, "before", plan.events).await?;
    row.add("before", plan.events, &came(&mut reader, "before").await?);

    let (cut, ends) = (Notify::new(), Cell::new(false));
    let outage = async {
        cut.notified().await;
        let ended = plan.outage.happen(world).await;
        ends.set(true);
        ended
    };
    let flows = async {
        tokio::try_join!(flow(&broker, &subject, "meanwhile", &cut, &ends), flow(&broker, "kept.x", KEPT, &cut, &ends))
    };
    let (flows, ended) = tokio::join!(flows, outage);
    let ((published, kept), ()) = (flows?, ended?);
    publish(&broker, "kept.x", "kept after", 0).await?;
    row.add(KEPT, kept, &came(&mut copy, "kept after").await?);

    let mut all = wanted(&broker, &mut reader, &subject).await?;
    publish(&broker, &subject, "after", plan.events).await?;
    for (event, times) in came(&mut reader, "after").await? {
        *all.entry(event).or_default() += times;
    }
    row.add("after", plan.events, &all);
    let (mut crossed, mut twice) = (0, 0);
    for number in 0..published {
        let times = all.get(&format!("meanwhile {number}")).copied().unwrap_or_default();
        crossed += usize::from(times > 0);
        twice += times.saturating_sub(1);
    }
    row.duplicated += twice;
    row.note = format!(
        "{}: all {kept} events of the copied Topic came; of {published} of an ordinary one {crossed} did, as links promise none",
        plan.outage
    );
    Ok(row)
}

/// Publishes at a steady pace until the outage is over, and tells when the first is stored. How many it were.
async fn flow(broker: &Broker, subject: &str, word: &str, begun: &Notify, ends: &Cell<bool>) -> Result<u32> {
    let mut pace = tokio::time::interval(Duration::from_millis(4));
    let mut number = 0;
    while !ends.get() {
        pace.tick().await;
        broker.publish(subject, format!("{word} {number}")).await?;
        number += 1;
        begun.notify_one();
    }
    Ok(number)
}
