//! Push to an application: a sidecar that empties a stream into a bare HTTP server, beside what pulls and posts alone come to.

use std::time::Duration;

use anyhow::Result;
use eventmesh_wire::report::Direction;
use serde_json::json;

use super::http::Http;
use super::{Arrivals, Far as _, Feed, Mesh, USUAL};
use crate::child::{Child, Start, free_port};
use crate::paths::{release, scratch};

/// How long the events of a run may take.
const LIMIT: Duration = Duration::from_mins(5);

/// What one run showed.
#[derive(Debug, Clone, Copy)]
pub struct PushRun {
    /// Events a second, from the first to the last.
    pub rate: f64,
    /// Of the sidecar: seconds of CPU for a million events, and memory in MiB before the first event and at its highest.
    pub cpu: f64,
    pub rest: f64,
    pub memory: f64,
    /// Seconds of CPU of the broker for a million events.
    pub broker_cpu: f64,
    /// Events a second of the pull client alone, and of the HTTP client alone.
    pub pull: f64,
    pub post: f64,
}

impl PushRun {
    #[must_use]
    pub fn header() -> String {
        format!(
            "{:>11}{:>10}{:>9}{:>12}{:>9}{:>14}{:>10}{:>10}",
            "maxInFlight", "events/s", "cpu s/M", "at rest MiB", "RSS MiB", "broker cpu/M", "pull/s", "post/s"
        )
    }

    /// A line of the table.
    #[must_use]
    pub fn row(&self, max_in_flight: u32) -> String {
        let Self { rate, cpu, rest, memory, broker_cpu, pull, post } = self;
        format!(
            "{max_in_flight:>11}{rate:>10.0}{cpu:>9.1}{rest:>12.1}{memory:>9.1}{broker_cpu:>14.1}{pull:>10.0}{post:>10.0}"
        )
    }
}

/// A million events a second would cost this much CPU each.
fn per_million(seconds: f64, events: u32) -> f64 {
    seconds * 1e6 / f64::from(events)
}

fn mebibytes(child: &Child, field: &str) -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    let kibibytes = child.memory(field)? as f64;
    Ok(kibibytes / 1024.0)
}

/// Everything new: over TLS, in an account of its own, as on a cluster.
pub async fn run(events: u32, max_in_flight: u32) -> Result<PushRun> {
    let pull = Box::pin(Mesh::ceiling(Direction::Outbound, USUAL, events)).await?;
    let post = Http::start()?.alone(Direction::Outbound, events).await?;
    let (mesh, app) = (Mesh::start(USUAL).await?, Http::start()?);
    let binding = scratch("binding")?;
    let push = json!([{"name": "bench", "stream": "OUT", "consumer": "c", "port": app.target_port(), "path": "/events",
        "maxInFlight": max_in_flight, "timeoutMs": 10_000}]);
    mesh.bind(&binding, &push)?;
    let sidecar = Start::new(&release("eventmesh-sidecar")?, &scratch("sidecar")?)
        .arg("run")
        .arg("--binding")
        .arg(&binding)
        .args(["--nats-addr", &format!("127.0.0.1:{}", free_port()?)])
        .args(["--http-addr", &format!("127.0.0.1:{}", free_port()?)])
        .args(["--admin-addr", "none", "--app-ready", &format!("tcp://127.0.0.1:{}", app.target_port())])
        .spawn()?;
    // One event, so that all connections stand. Who counts is there before it is sent.
    let (mut first, one) = (Arrivals::all(1), Feed::all(1));
    let came = async { tokio::try_join!(app.receive(Direction::Outbound, &mut first), mesh.fill(&one)) };
    tokio::time::timeout(LIMIT, came).await??;
    let rest = mebibytes(&sidecar, "VmRSS")?;
    let cpu = sidecar.cpu()?;
    // The events are stored while the sidecar is stopped: it finds them all at once.
    sidecar.pause()?;
    mesh.fill(&Feed::all(events)).await?;
    let stored = mesh.nats.cpu()?;
    let mut arrivals = Arrivals::all(events);
    let go_on = async { sidecar.go_on() };
    let came = async { tokio::try_join!(app.receive(Direction::Outbound, &mut arrivals), go_on) };
    tokio::time::timeout(LIMIT, came).await??;
    Ok(PushRun {
        rate: arrivals.rate(),
        cpu: per_million(sidecar.cpu()? - cpu, events),
        rest,
        memory: mebibytes(&sidecar, "VmHWM")?,
        broker_cpu: per_million(mesh.nats.cpu()? - stored, events),
        pull,
        post,
    })
}
