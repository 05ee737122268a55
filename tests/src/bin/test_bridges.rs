//! `make test-bridges`: every kind of endpoint, both directions, with the bridge killed, the far side restarted and the mesh
//! cut off while events flow; judged from the histories.
//!
//! `EVENTS` (50,000) are sent a route. Arguments name the rows wanted, by what they begin with; none: all.

use std::time::Duration;

use anyhow::{Result, ensure};
use eventmesh_crds::bridge::MqttVersion;
use eventmesh_tests::bridges::{
    FarSide, Plan, Row,
    amqp::{Amqp1, Amqp091},
    http::Http,
    kafka::KafkaTopics,
    mqtt::Mqtt,
    nats::NatsStream,
    run,
};
use eventmesh_wire::report::Direction;

const BOTH: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

struct Trials {
    plan: Plan<'static>,
    wanted: Vec<String>,
    rows: Vec<Row>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let events = std::env::var("EVENTS").map_or(Ok(50_000), |text| text.parse())?;
    let plan = Plan { events, kills: 5, restarts: 2, cuts: 2, ..Plan::default() };
    let mut trials = Trials { plan, wanted: std::env::args().skip(1).collect(), rows: Vec::new() };
    println!(
        "{:<14}{:<10}{:>8}{:>6}{:>11}{:>13}{:>10}{:>8}",
        "far side", "direction", "sent", "lost", "explained", "unexplained", "balanced", "s"
    );
    trials.both("mqtt 5", async || Mqtt::start(MqttVersion::V5).await).await?;
    trials.both("mqtt 3.1.1", async || Mqtt::start(MqttVersion::V311).await).await?;
    trials.both("amqp 0-9-1", Amqp091::start).await?;
    trials.both("amqp 1.0", Amqp1::start).await?;
    trials.both("http", Http::start).await?;
    trials.both("kafka", KafkaTopics::start).await?;
    trials.both("nats", NatsStream::start).await?;
    trials.judge()
}

impl Trials {
    async fn both<F: FarSide>(&mut self, name: &str, start: impl AsyncFn() -> Result<F>) -> Result<()> {
        if !self.wanted.is_empty() && !self.wanted.iter().any(|wanted| name.starts_with(wanted.as_str())) {
            return Ok(());
        }
        for direction in BOTH {
            let row = match run(start().await?, direction, self.plan).await {
                Ok(row) => row,
                Err(error) => {
                    println!("{name:<14}{:<10}FAILED: {error:#}", direction.label());
                    Row {
                        name: name.to_owned(),
                        direction,
                        verdict: eventmesh_tests::bridges::Verdict::default(),
                        balanced: false,
                        time: Duration::ZERO,
                        lost: Vec::new(),
                    }
                }
            };
            println!("{row}");
            self.rows.push(row);
        }
        Ok(())
    }

    fn judge(&self) -> Result<()> {
        let sum = |figure: fn(&Row) -> usize| self.rows.iter().map(figure).sum::<usize>();
        let (routes, balanced) = (self.rows.len(), self.rows.iter().filter(|row| row.balanced).count());
        println!(
            "bridges: routes {routes}, sent {}, lost {}, unexplained duplicates {}, balanced {balanced}/{routes}",
            sum(|row| row.verdict.sent),
            sum(|row| row.verdict.lost),
            sum(|row| row.verdict.unexplained),
        );
        ensure!(routes > 0, "no row is called so");
        ensure!(self.rows.iter().all(Row::is_good), "not every route is good");
        Ok(())
    }
}
