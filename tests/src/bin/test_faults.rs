//! `make test-faults`: what becomes of events while brokers are paused and killed, while a volume is full, and when a store is spoilt.
//!
//! Arguments name the faults wanted, by what they begin with; none: all. Each has an API server, an operator and three brokers
//! of its own.

use anyhow::Result;
use eventmesh_tests::{
    faults::{FAULTS, Trial, head, judge},
    rows,
    stack::Stack,
};

#[tokio::main]
async fn main() -> Result<()> {
    let is_wanted = rows::wanted();
    println!("{}", head());
    let mut rows = Vec::new();
    for fault in FAULTS.iter().filter(|fault| is_wanted(fault.name)) {
        let mut stack = Stack::without_mesh("faults").await?;
        let kube = stack.kube.clone();
        kube.with_namespace("faults", async |ns| {
            let row = Trial::start(&mut stack, ns).await?.row(fault).await?;
            println!("{row}");
            rows.push(row);
            Ok(())
        })
        .await?;
    }
    println!("{}", judge(&rows)?);
    Ok(())
}
