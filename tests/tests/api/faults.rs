//! A broker whose volume is full: three real brokers that are one cluster, under load. `make test-faults` does this, and more.

use anyhow::{Context, Result, ensure};
use eventmesh_tests::faults::{FAULTS, Trial};

use crate::alone;

fn nothing_is_lost(fault: &str) -> Result<()> {
    let fault = FAULTS.iter().find(|known| known.name == fault).context("no such fault")?;
    alone("faults", async |stack, ns| {
        let row = Trial::start(stack, ns).await?.row(fault).await?;
        ensure!(row.failure.is_none() && row.account.lost + row.account.duplicated == 0, "{row}");
        Ok(())
    })
}

#[test]
fn a_broker_whose_volume_is_full_is_told_of_and_restarted_and_holds_a_roll() -> Result<()> {
    nothing_is_lost("full volume")
}
