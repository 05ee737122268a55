//! `make bench-sidecar`: what a sidecar costs an application, beside the same client with credentials and TLS of its own, in the
//! same run. docs/benchmarks.md tells what each row measures.
//!
//! `EVENTS` (200,000) messages are published, `RUNS` (5) times each way, one after the other.

use anyhow::{Result, ensure};
use eventmesh_tests::bench::sidecar::{Figures, World};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let number = |name, default: u32| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let (events, runs) = (number("EVENTS", 200_000)?, number("RUNS", 5)?);
    ensure!(events > 0 && runs > 0, "EVENTS and RUNS are numbers above 0");
    // The memory of a sidecar that has carried nothing before.
    let memory = World::start().await?.memory().await?;
    let world = World::start().await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        without.push(world.measure(false, events).await?);
        with.push(world.measure(true, events).await?);
    }
    let (with, without) = (Figures::median(&with), Figures::median(&without));
    println!("{:<28}{:>12}{:>12}{:>12}{:>16}", "", "without", "with", "", "aim");
    let time = |name: &str, without: f64, with: f64, aim: &str| {
        println!("{name:<28}{without:>9.0} µs{with:>9.0} µs{:>+9.0} µs{aim:>16}", with - without);
    };
    time("request, p50", without.p50, with.p50, "+60 µs");
    time("request, p99", without.p99, with.p99, "");
    let rate = |name: &str, without: f64, with: f64| {
        println!("{name:<28}{without:>10.0}/s{with:>10.0}/s{:>11.0}%{:>16}", 100.0 * with / without, "85 %");
    };
    rate("published, core", without.core, with.core);
    rate("stored, JetStream", without.stored, with.stored);
    let room =
        |name: &str, mebibytes: f64, aim: &str| println!("{name:<28}{:>12}{mebibytes:>8.1} MiB{:>12}{aim:>16}", "", "");
    room("RSS at rest", memory.rest, "8 MiB");
    room("RSS, 100 connections", memory.load, "16 MiB");
    Ok(())
}
