//! The bridge's wall clock is put forward and back while events flow. The same for every kind of endpoint: no event is lost, and
//! none comes twice, since nothing was killed or cut that would explain it.

use std::path::Path;

use anyhow::{Result, ensure};
use eventmesh_tests::bridges::{
    FarSide, MqttVersion, Plan,
    amqp::{Amqp1, Amqp091},
    http::Http,
    kafka::KafkaTopics,
    mqtt::Mqtt,
    nats::NatsStream,
    run,
};
use eventmesh_wire::report::Direction;

const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;

/// Forward and back, and then right again.
const ANY: &[i64] = &[HOUR, -HOUR, YEAR, -YEAR, 0];
/// Kafka takes nothing that is more than an hour ahead of it; `kafka/faults.rs` shows what happens then.
const NOT_FAR_AHEAD: &[i64] = &[HOUR / 2, -HOUR, -YEAR, 0];

async fn both_ways<F: FarSide>(clock: &[i64], start: impl AsyncFn() -> Result<F>) -> Result<()> {
    let plan = Plan {
        events: 1_200,
        clock,
        program: Some(Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge"))),
        ..Plan::default()
    };
    for direction in [Direction::Inbound, Direction::Outbound] {
        let row = run(start().await?, direction, plan).await?;
        ensure!(row.is_good() && row.verdict.sent == plan.events as usize, "{row}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_does_not_mind_a_clock_that_moves() -> Result<()> {
    both_ways(ANY, async || Mqtt::start(MqttVersion::V5).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_does_not_mind_a_clock_that_moves() -> Result<()> {
    both_ways(NOT_FAR_AHEAD, KafkaTopics::start).await
}

#[tokio::test(flavor = "multi_thread")]
async fn amqp_091_does_not_mind_a_clock_that_moves() -> Result<()> {
    both_ways(ANY, Amqp091::start).await
}

#[tokio::test(flavor = "multi_thread")]
async fn amqp_1_does_not_mind_a_clock_that_moves() -> Result<()> {
    both_ways(ANY, Amqp1::start).await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_does_not_mind_a_clock_that_moves() -> Result<()> {
    both_ways(ANY, Http::start).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_does_not_mind_a_clock_that_moves() -> Result<()> {
    both_ways(ANY, NatsStream::start).await
}
