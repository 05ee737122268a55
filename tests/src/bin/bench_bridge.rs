//! `make bench-bridge`: how fast a bridge is, beside what the client libraries do alone on the same machine in the same run.
//! docs/benchmarks.md tells what each row measures.
//!
//! `EVENTS` (100,000) go through each route, `RUNS` (3) times. Arguments name the rows wanted, by what they begin with; none: all
//! but `detail`, which compares ways of a bridge to reach its mesh, and `rest`.

use anyhow::{Result, ensure};
use eventmesh_tests::bench::amqp::{Amqp1, Amqp091};
use eventmesh_tests::bench::http::Http;
use eventmesh_tests::bench::kafka::KafkaTopics;
use eventmesh_tests::bench::mqtt::Mqtt;
use eventmesh_tests::bench::nats::NatsStream;
use eventmesh_tests::bench::{Ceilings, Far, INSIDE, Mesh, Row, Run, USUAL, Way, at_rest, header, run};
use eventmesh_wire::report::Direction;

const BOTH: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

struct Bench {
    events: u32,
    runs: usize,
    wanted: Vec<String>,
    measured: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let number = |name, default: u32| std::env::var(name).map_or(Ok(default), |text| text.parse());
    let (events, runs) = (number("EVENTS", 100_000)?, number("RUNS", 3)? as usize);
    ensure!(events > 0 && runs > 0, "EVENTS and RUNS are numbers above 0");
    let mut bench = Bench { events, runs, wanted: std::env::args().skip(1).collect(), measured: 0 };
    println!("{}", header());
    bench.both("mqtt 5", USUAL, Mqtt::start).await?;
    bench.both("mqtt 5 per source", Way { ordering: "PerSource", ..USUAL }, Mqtt::start).await?;
    bench.both("http", USUAL, async || Http::start()).await?;
    bench.both("nats", USUAL, NatsStream::start).await?;
    bench.both("kafka", USUAL, KafkaTopics::start).await?;
    bench.both("amqp 0-9-1", USUAL, Amqp091::start).await?;
    bench.both("amqp 1.0", USUAL, Amqp1::start).await?;
    bench.detail().await?;
    bench.rest().await?;
    ensure!(bench.measured > 0, "no row is called so");
    Ok(())
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.wanted.iter().any(|wanted| name.starts_with(wanted.as_str()))
    }

    async fn both<F: Far>(&mut self, name: &str, way: Way, start: impl AsyncFn() -> Result<F>) -> Result<()> {
        if !self.wanted.is_empty() && !self.wants(name) {
            return Ok(());
        }
        for direction in BOTH {
            let (mut runs, mut ceilings) = (Vec::new(), Vec::new());
            for _ in 0..self.runs {
                ceilings.push(Ceilings {
                    library: Box::pin(start().await?.alone(direction, self.events)).await?,
                    inside: Box::pin(Mesh::ceiling(direction, INSIDE, self.events)).await?,
                    mesh: Box::pin(Mesh::ceiling(direction, way, self.events)).await?,
                });
                runs.push(Box::pin(run(start().await?, direction, way, self.events)).await?);
            }
            let (run, ceilings) = (Run::median(&runs), Ceilings::median(&ceilings));
            println!("{}", Row { name: name.to_owned(), direction, run, ceilings });
            self.measured += 1;
        }
        Ok(())
    }

    /// MQTT: what the account of its own, TLS, the kind of batch and the broker's synchronisation cost.
    async fn detail(&mut self) -> Result<()> {
        if !self.wants("detail") {
            return Ok(());
        }
        let clear = Way { tls: false, ..USUAL };
        let fast = Way { ingest: "Fast", ..clear };
        let ways = [
            ("as on a cluster", USUAL, &BOTH[..]),
            ("without TLS", clear, &BOTH[..]),
            ("without TLS, inside the mesh's account", INSIDE, &BOTH[..]),
            ("ingest Fast, without TLS", fast, &BOTH[..1]),
            ("ingest Fast, without TLS, inside", Way { ingest: "Fast", ..INSIDE }, &BOTH[..1]),
            ("ingest Atomic, sync always", Way { ingest: "Atomic", sync: "always", ..USUAL }, &BOTH[..1]),
        ];
        for (name, way, directions) in ways {
            for direction in directions {
                let mut runs = Vec::new();
                for _ in 0..self.runs {
                    runs.push(Box::pin(run(Mqtt::start().await?, *direction, way, self.events)).await?);
                }
                let Run { rate, memory, cpu, broker_memory, broker_cpu, .. } = Run::median(&runs);
                print!("detail: mqtt 5 {}, {name}: {rate:.0} msg/s, ", direction.label());
                print!("peak RSS {memory:.1} MiB, cpu {cpu:.1} s/M; ");
                println!("the broker: peak RSS {broker_memory:.0} MiB, cpu {broker_cpu:.1} s/M");
            }
        }
        self.measured += 1;
        Ok(())
    }

    async fn rest(&mut self) -> Result<()> {
        if self.wants("rest") || self.wanted.is_empty() {
            println!("at rest, mqtt 5: RSS {:.1} MiB", at_rest(Mqtt::start().await?).await?);
            self.measured += 1;
        }
        Ok(())
    }
}
