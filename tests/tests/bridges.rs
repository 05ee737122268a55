//! The trial of `make test-bridges`, in small: so that it can be relied on when it is run in full.

use anyhow::{Result, ensure};
use eventmesh_crds::bridge::MqttVersion;
use eventmesh_tests::RUNTIME;
use eventmesh_tests::bridges::{FarSide, Plan, http::Http, mqtt::Mqtt, run};
use eventmesh_wire::report::Direction;

const SMALL: Plan<'_> = Plan { events: 2_000, kills: 2, restarts: 1, cuts: 1, clock: &[], program: None };

fn good<F: FarSide>(direction: Direction, start: impl AsyncFn() -> Result<F>) -> Result<()> {
    RUNTIME.block_on(async {
        let row = run(start().await?, direction, SMALL).await?;
        ensure!(row.is_good(), "{row}");
        ensure!(row.verdict.sent == SMALL.events as usize, "{row}");
        Ok(())
    })
}

#[test]
fn events_from_mqtt_are_stored_once() -> Result<()> {
    good(Direction::Inbound, async || Mqtt::start(MqttVersion::V5).await)
}

#[test]
fn events_by_http_are_stored_once() -> Result<()> {
    good(Direction::Inbound, Http::start)
}

#[test]
fn events_to_a_web_server_all_arrive() -> Result<()> {
    good(Direction::Outbound, Http::start)
}
