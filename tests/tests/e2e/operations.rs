//! Operations on a mesh under 2,000 events a second, as in `make test-operations`, as far as a minute allows.

use anyhow::{Result, ensure};
use eventmesh_tests::operations::{OPERATIONS, Trial, head, judge};

use crate::alone;

#[test]
fn brokers_are_rolled_and_evicted_under_load_and_lose_nothing() -> Result<()> {
    alone("operations", async |test| {
        let trial = Trial::start(test.cluster, test.ns).await?;
        println!("{}", head());
        let mut rows = Vec::new();
        for operation in OPERATIONS.iter().filter(|operation| ["roll", "eviction"].contains(&operation.name)) {
            let row = trial.row(operation).await?;
            println!("{row}");
            rows.push(row);
        }
        ensure!(rows.len() == 2);
        println!("{}", judge(&rows)?);
        Ok(())
    })
}
