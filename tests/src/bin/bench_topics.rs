//! `make bench-topics`: 1,000 Topics by `kubectl apply --server-side` against a real API server and broker; how long until
//! all are Ready, and what that costs the operator.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use eventmesh_crds::Topic;
use eventmesh_tests::{
    objects::{Namespace, is_ready},
    paths,
    stack::{MESH, MESH_NAMESPACE, Stack},
};
use futures::StreamExt;
use kube::{ResourceExt, runtime::watcher};

const TOPICS: usize = 1000;
const REST: Duration = Duration::from_secs(30);
/// Ticks a second of /proc/PID/stat, on every Linux that matters.
const TICKS: f64 = 100.0;

#[tokio::main]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-topics: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench() -> Result<()> {
    let stack = Stack::start("bench-topics").await?;
    let namespace = stack.kube.make_namespace("bench").await?;
    let file = paths::scratch("bench-topics-yaml")?.join("topics.yaml");
    std::fs::write(&file, topics(&namespace.name))?;
    let operator = stack.operator.process.pid();

    let before = usage(operator)?;
    let begun = Instant::now();
    let file = file.display().to_string();
    let apply = async {
        stack.api.kubectl(&["apply", "--server-side", "--filename", &file]).await?;
        anyhow::Ok(begun.elapsed())
    };
    let ready = async { all_ready(&namespace).await.map(|()| begun.elapsed()) };
    let both = tokio::time::timeout(Duration::from_mins(5), async { tokio::try_join!(apply, ready) }).await;
    let Ok(both) = both else {
        eprintln!("{}", stack.operator.process.log_tail(40));
        bail!("not all Topics were Ready after 300 s");
    };
    let (applied, ready) = both?;
    let after = usage(operator)?;
    println!(
        "bench-topics: apply {:.1} s, all ready {:.1} s, operator peak RSS {:.0} MiB, cpu {:.1} s",
        applied.as_secs_f64(),
        ready.as_secs_f64(),
        after.peak,
        after.cpu - before.cpu
    );
    println!(
        "bench-topics: the last Topic was Ready {:.2} s after kubectl had ended",
        ready.saturating_sub(applied).as_secs_f64()
    );

    // Not a wait for something: rest is what is measured.
    tokio::time::sleep(REST).await;
    let rest = usage(operator)?;
    println!(
        "bench-topics: at rest for {} s: RSS {:.0} MiB, cpu {:.2} %",
        REST.as_secs(),
        rest.now,
        100.0 * (rest.cpu - after.cpu) / REST.as_secs_f64()
    );
    Ok(())
}

fn topics(namespace: &str) -> String {
    let mut text = String::new();
    for number in 0..TOPICS {
        let _ = write!(
            text,
            "---\napiVersion: eventmesh.dev/v1alpha1\nkind: Topic\nmetadata: {{name: topic-{number:04}, namespace: {namespace}}}\n\
             spec:\n  mesh: {{name: {MESH}, namespace: {MESH_NAMESPACE}}}\n  retention: {{maxAge: 24h, maxBytes: 1Mi}}\n",
        );
    }
    text
}

async fn all_ready(namespace: &Namespace) -> Result<()> {
    let mut ready = BTreeSet::new();
    let mut events = pin!(watcher(namespace.api::<Topic>(), watcher::Config::default()));
    while ready.len() < TOPICS {
        if let watcher::Event::Apply(topic) | watcher::Event::InitApply(topic) =
            events.next().await.context("watch")??
            && is_ready(&topic)
        {
            ready.insert(topic.name_any());
        }
    }
    Ok(())
}

/// What a process has used.
struct Usage {
    /// MiB in memory now, and at most.
    now: f64,
    peak: f64,
    /// Seconds of CPU.
    cpu: f64,
}

fn usage(pid: u32) -> Result<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the operator has ended")?;
    let mebibytes = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
        let kibibytes: f64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kibibytes / 1024.0)
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name, in parentheses, may hold blanks; times are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("a short stat line")?.parse()?) };
    Ok(Usage { now: mebibytes("VmRSS:")?, peak: mebibytes("VmHWM:")?, cpu: (ticks(11)? + ticks(12)?) / TICKS })
}
