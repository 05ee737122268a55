//! `make test-links`: a star of five sites and a chain over two clusters, and a copy, with the cable between them pulled while events
//! flow; judged by what each mesh has stored.
//!
//! `EVENTS` (2,000) are sent a flow, `OUTAGE` (60) seconds lasts the outage.

use std::time::{Duration, Instant};

use anyhow::Result;
use eventmesh_tests::{
    cluster::Cluster,
    links::{Outage, Plan, SITES, World, all, judge},
};

#[tokio::main]
async fn main() -> Result<()> {
    let number = |name: &str, default: u32| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let outage = Duration::from_secs(number("OUTAGE", 60)?.into());
    let plan = Plan { events: number("EVENTS", 2_000)?, outage: Outage::Cable(outage) };
    let clusters = [Cluster::connect().await?, Cluster::connect_to("cluster-far").await?];
    let begun = Instant::now();
    let (near, far) = (clusters[0].kube.clone(), clusters[1].kube.clone());
    near.remove_leftovers().await?;
    far.remove_leftovers().await?;
    near.with_namespace("links", async |near| {
        far.with_namespace("links", async |far| {
            let world = World::start(clusters, near.clone(), far.clone(), SITES).await?;
            println!("{} meshes in two clusters are linked after {} s", 7, begun.elapsed().as_secs());
            judge(&all(&world, plan).await?)
        })
        .await
    })
    .await
}
