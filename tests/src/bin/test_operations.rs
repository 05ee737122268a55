//! `make test-operations`: what operations do to a mesh of three brokers under a steady load of 2,000 events a second.
//!
//! Arguments name the operations wanted, by what they begin with; none: all.

use anyhow::Result;
use eventmesh_tests::{
    cluster::Cluster,
    operations::{OPERATIONS, Trial, head, judge},
};

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.starts_with(wanted.as_str()));
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
