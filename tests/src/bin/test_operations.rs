//! `make test-operations`: what operations do to a mesh of three brokers under a steady load of 2,000 events a second.
//!
//! Arguments name the operations wanted, by what they begin with; none: all.

use anyhow::Result;
use eventmesh_tests::{
    cluster::Cluster,
    operations::{OPERATIONS, Trial, head, judge},
    rows,
};

#[tokio::main]
async fn main() -> Result<()> {
    let is_wanted = rows::wanted();
    let cluster = Cluster::connect().await?;
    cluster.kube.remove_leftovers().await?;
    cluster
        .kube
        .with_namespace("operations", async |ns| {
            let trial = Trial::start(&cluster, ns).await?;
            println!("{}", head());
            let mut rows = Vec::new();
            for operation in OPERATIONS.iter().filter(|operation| is_wanted(operation.name)) {
                let row = trial.row(operation).await?;
                println!("{row}");
                rows.push(row);
            }
            println!("{}", judge(&rows)?);
            Ok(())
        })
        .await
}
