//! One measured run of a bridge.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use eventmesh_wire::report::{Direction, RouteState};
use serde_json::json;

use super::{Arrivals, Clock, Far, Feed, Mesh, Way, side};
use crate::paths;
use crate::process::Bridge;
use crate::process::nats::{api, stored};

/// How long the events of a run may take.
const LIMIT: Duration = Duration::from_mins(5);
const BOTH: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

/// What one run showed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// Events a second, from the first to the last.
    pub rate: f64,
    /// At half of that rate.
    pub p50: Duration,
    pub p99: Duration,
    /// Of the bridge: the highest memory in MiB, and seconds of CPU for a million events.
    pub memory: f64,
    pub cpu: f64,
    /// The same of the mesh's broker.
    pub broker_memory: f64,
    pub broker_cpu: f64,
}

/// A bridge between a mesh and a far side.
struct World<F> {
    mesh: Mesh,
    far: F,
    bridge: Bridge,
    direction: Direction,
    events: u32,
}

/// One direction, with everything new.
pub async fn run<F: Far>(far: F, direction: Direction, way: Way, events: u32) -> Result<Run> {
    let mesh = Mesh::start(way).await?;
    let config = mesh.config(&far, &[direction])?;
    let program = paths::release("eventmesh-bridge")?;
    let bridge = Bridge::start(&program, paths::scratch("bridge")?, &config)?;
    running(&bridge, direction).await?;
    let mut world = World { mesh, far, bridge, direction, events };
    let mut run = world.throughput().await?;
    (run.p50, run.p99) = world.latency(run.rate / 2.0).await?;
    run.memory = mebibytes(world.bridge.child.memory("VmHWM")?);
    run.broker_memory = mebibytes(world.mesh.nats.memory("VmHWM")?);
    Ok(run)
}

impl<F: Far> World<F> {
    async fn throughput(&mut self) -> Result<Run> {
        let feed = Feed::all(self.events);
        if self.direction == Direction::Inbound && !F::WAITS {
            let before = self.cpu()?;
            self.far.send(self.direction, &feed).await?;
            return self.measured(feed.rate(), before, self.events);
        }
        // It leaves a session, or nothing, in which events wait.
        self.bridge.child.terminate()?;
        self.bridge.ended().await?;
        match self.direction {
            Direction::Inbound => self.far.send(self.direction, &feed).await?,
            Direction::Outbound => self.mesh.fill(&feed).await?,
        }
        self.bridge.start_again()?;
        let begun = Instant::now();
        let (mut first, mut before) = (begun, self.cpu()?);
        loop {
            let done = self.done().await?;
            if done >= self.events {
                return self.measured(f64::from(self.events) / first.elapsed().as_secs_f64(), before, self.events);
            }
            // The clock runs from the last look at which nothing had come.
            if done == 0 {
                (first, before) = (Instant::now(), self.cpu()?);
            }
            let log = || self.bridge.child.log_tail(10);
            ensure!(begun.elapsed() < LIMIT, "only {done} of {} events have gone through\n{}", self.events, log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Events that have gone all the way.
    async fn done(&self) -> Result<u32> {
        if self.direction == Direction::Inbound {
            return Ok(u32::try_from(stored(&self.mesh.client, "IN").await?)?);
        }
        let info = api(&self.mesh.client, "CONSUMER.INFO.OUT.c", &json!({})).await?;
        let count = |name: &str| info[name].as_u64().unwrap_or_default();
        let left = u32::try_from(count("num_pending") + count("num_ack_pending"))?;
        Ok(self.events.saturating_sub(left))
    }

    /// Of the bridge and of the broker.
    fn cpu(&self) -> Result<(f64, f64)> {
        Ok((self.bridge.child.cpu()?, self.mesh.nats.cpu()?))
    }

    fn measured(&self, rate: f64, before: (f64, f64), events: u32) -> Result<Run> {
        let after = self.cpu()?;
        let millions = f64::from(events) / 1e6;
        let (cpu, broker_cpu) = ((after.0 - before.0) / millions, (after.1 - before.1) / millions);
        Ok(Run { rate, cpu, broker_cpu, ..Run::default() })
    }

    /// Half of the events and 99 % of them take no longer, at this rate.
    async fn latency(&self, rate: f64) -> Result<(Duration, Duration)> {
        if self.direction == Direction::Outbound && F::KEEPS {
            // What is still there would go before what is measured.
            self.far.receive(self.direction, &mut Arrivals::all(self.events)).await?;
        }
        let clock = Clock::default();
        let (feed, mut arrivals) = (Feed::paced(rate, &clock), Arrivals::timed(&clock));
        let sending = async {
            match self.direction {
                Direction::Inbound => self.far.send(self.direction, &feed).await?,
                Direction::Outbound => self.mesh.fill(&feed).await?,
            }
            clock.complete().await
        };
        let receiving = async {
            match self.direction {
                Direction::Inbound => self.mesh.watch(&mut arrivals).await,
                Direction::Outbound => self.far.receive(self.direction, &mut arrivals).await,
            }
        };
        tokio::select! {
            complete = sending => complete?,
            ended = receiving => {
                ended?;
                anyhow::bail!("nothing is received any more");
            }
        }
        Ok((clock.within(0.5), clock.within(0.99)))
    }
}

async fn running(bridge: &Bridge, direction: Direction) -> Result<()> {
    bridge.route(side(direction), "running route", |route| route.state == RouteState::Running).await.map(drop)
}

/// MiB of a bridge that is connected to both sides, with a route each way, and has nothing to do.
pub async fn at_rest<F: Far>(far: F) -> Result<f64> {
    let mesh = Mesh::start(super::USUAL).await?;
    let mut config = mesh.config(&far, &BOTH)?;
    config["inbound"][0]["filter"] = json!("event.data.celsius > 80");
    let bridge = Bridge::start(&paths::release("eventmesh-bridge")?, paths::scratch("bridge")?, &config)?;
    for direction in BOTH {
        running(&bridge, direction).await?;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(mebibytes(bridge.child.memory("VmRSS")?))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}
