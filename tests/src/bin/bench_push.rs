//! `make bench-push`: events a second that a sidecar pushes to a bare HTTP application, beside what pulls and posts come to alone.
//!
//! `EVENTS` (200,000) are in the stream, and go out `RUNS` (3) times; the median of the runs is printed.

use anyhow::{Context as _, Result};
use eventmesh_tests::bench::push::{PushRun, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let number = |name, default: u32| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let (events, count) = (number("EVENTS", 200_000)?, number("RUNS", 3)?);
    println!("{}", PushRun::header());
    for max_in_flight in [1000, 100] {
        let mut runs = Vec::new();
        for _ in 0..count {
            runs.push(Box::pin(run(events, max_in_flight)).await?);
        }
        runs.sort_by(|one, other| one.rate.total_cmp(&other.rate));
        let median = runs.get(runs.len() / 2).context("RUNS is a number above 0")?;
        println!("{}", median.row(max_in_flight));
    }
    Ok(())
}
