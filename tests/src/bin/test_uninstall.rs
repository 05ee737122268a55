//! `make test-uninstall`: takes the operator and its objects off the cluster in each order, and looks what hangs, what is left, and
//! whether the same objects find their events.
//!
//! Arguments name the orders wanted, by what they begin with; none: all. Nothing else may use the cluster meanwhile.

use anyhow::{Context, Result};
use eventmesh_tests::{
    cluster::Cluster,
    rows,
    uninstall::{ORDERS, Trial, head, judge},
};

#[tokio::main]
async fn main() -> Result<()> {
    let is_wanted = rows::wanted();
    let cluster = Cluster::connect().await?;
    cluster.kube.remove_leftovers().await?;
    println!("{}", head());
    let mut rows = Vec::new();
    for order in ORDERS.iter().filter(|order| is_wanted(order.name)) {
        let kube = cluster.kube.clone();
        kube.with_namespace(&order.namespace(), async |ns| {
            let row = Trial::new(&cluster, ns).row(order).await.with_context(|| order.name)?;
            println!("{row}");
            rows.push(row);
            Ok(())
        })
        .await?;
    }
    println!("{}", judge(&rows)?);
    Ok(())
}
