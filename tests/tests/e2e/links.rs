//! Links as in `make test-links`, as far as one cluster and a minute allow: hub, site and the end of a chain in two namespaces, and a copy
//! that catches up after the hub's broker was killed.

use anyhow::{Result, ensure};
use eventmesh_tests::{
    cluster::Cluster,
    links::{Outage, Plan, SITES, World, all, judge},
};

use crate::shared;

#[test]
fn what_is_sent_over_links_comes_once_and_a_copy_catches_up() -> Result<()> {
    shared("links", async |test| {
        test.ns
            .kube
            .clone()
            .with_namespace("links-far", async |far| {
                let clusters = [Cluster::connect().await?, Cluster::connect().await?];
                let world = World::start(clusters, test.ns.clone(), far.clone(), &SITES[..1]).await?;
                let rows = all(&world, Plan { events: 500, outage: Outage::HubKilled }).await?;
                ensure!(rows.len() == 4);
                judge(&rows)
            })
            .await
    })
}
