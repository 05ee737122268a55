//! `make bench-identities`: 1,000 clients of one mesh, each with a grant of its own, against a real API server and broker:
//! how long until all can connect, what that costs, how large the tokens are, and how soon a changed grant holds.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::Topic;
use eventmesh_tests::{
    broker::Broker,
    identity::Login,
    objects::{Namespace, is_ready},
    stack::Stack,
    wait,
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{ResourceExt, runtime::watcher};

const CLIENTS: usize = 1000;
/// Clients that are tried, and grants that are changed and timed.
const TRIED: usize = 50;
const CHANGES: usize = 10;
/// Grants that a Topic may hold.
const GRANTS: usize = 250;

#[tokio::main]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-identities: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench() -> Result<()> {
    let mut stack = Stack::without_mesh("bench-identities").await?;
    let namespace = stack.kube.make_namespace("identities").await?;
    namespace.apply(&mesh(0)).await?;
    stack.start_broker(&namespace, "m").await?;
    for topic in 0..CLIENTS / GRANTS {
        namespace.apply(&self::topic(topic, None)).await?;
    }
    for topic in 0..CLIENTS / GRANTS {
        namespace.until::<Topic, _>(&format!("t{topic}"), "Ready", |topic| is_ready(topic).then_some(())).await?;
    }

    let begun = Instant::now();
    namespace.apply(&mesh(CLIENTS)).await?;
    tokio::time::timeout(Duration::from_mins(3), all_issued(&namespace))
        .await
        .context("not all were issued in 180 s")??;
    let issued = begun.elapsed();
    let mut largest = 0;
    for client in (0..CLIENTS).step_by(CLIENTS / TRIED) {
        let login = Login::from_secret(&namespace, &format!("m-client-c{client}")).await?;
        largest = largest.max(login.jwt.len());
        let broker = Broker::connect(&stack.broker_address(), &login).await?;
        broker
            .publish(&format!("t{}.c{client}", client / GRANTS), "x")
            .await
            .with_context(|| format!("client {client}"))?;
    }
    println!(
        "bench-identities: {CLIENTS} identities issued in {:.1} s, {TRIED} of them tried, largest user token {largest} bytes",
        issued.as_secs_f64()
    );

    // A grant more for one client: from apply to the first event that is stored.
    let login = Login::from_secret(&namespace, "m-client-c0").await?;
    let broker = Broker::connect(&stack.broker_address(), &login).await?;
    let (mut given, mut taken) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let subject = format!("t0.more-{change}");
        for (allowed, times) in [(true, &mut given), (false, &mut taken)] {
            let begun = Instant::now();
            namespace.apply(&topic(0, allowed.then_some(&subject))).await?;
            wait::eventually("the change of the grant", Duration::from_secs(20), async || {
                let stored = tokio::time::timeout(Duration::from_millis(100), broker.publish(&subject, "x")).await;
                let is_allowed = matches!(stored, Ok(Ok(_)));
                if is_allowed == allowed { Ok(Some(())) } else { Err(format!("allowed: {is_allowed}")) }
            })
            .await?;
            times.push(begun.elapsed());
        }
    }
    for (what, times) in [("given", &mut given), ("taken away", &mut taken)] {
        times.sort();
        println!(
            "bench-identities: a grant {what} holds after {:.2} s (median of {CHANGES}; slowest {:.2} s), kubectl apply included",
            times[CHANGES / 2].as_secs_f64(),
            times[CHANGES - 1].as_secs_f64()
        );
    }
    ensure!(given.len() == CHANGES, "not every change was timed");
    Ok(())
}

fn mesh(clients: usize) -> String {
    let mut text =
        "apiVersion: eventmesh.dev/v1alpha1\nkind: EventMesh\nmetadata: {name: m}\nspec:\n  brokers: {replicas: 1}\n"
            .to_owned();
    if clients > 0 {
        text.push_str("  clients:\n");
        for client in 0..clients {
            let _ = writeln!(text, "  - {{name: c{client}}}");
        }
    }
    text
}

fn topic(number: usize, more: Option<&String>) -> String {
    let mut text = format!(
        "apiVersion: eventmesh.dev/v1alpha1\nkind: Topic\nmetadata: {{name: t{number}}}\nspec:\n  mesh: {{name: m}}\n  grants:\n"
    );
    for client in number * GRANTS..(number + 1) * GRANTS {
        let _ = writeln!(text, "  - {{to: {{client: c{client}}}, allow: [Publish], subjects: [t{number}.c{client}]}}");
    }
    if let Some(subject) = more {
        let _ = writeln!(text, "  - {{to: {{client: c0}}, allow: [Publish], subjects: [{subject}]}}");
    }
    text
}

async fn all_issued(namespace: &Namespace) -> Result<()> {
    let mut issued = BTreeSet::new();
    let mut events = pin!(watcher(namespace.api::<Secret>(), watcher::Config::default()));
    while issued.len() < CLIENTS {
        if let watcher::Event::Apply(secret) | watcher::Event::InitApply(secret) =
            events.next().await.context("watch")??
            && secret.name_any().starts_with("m-client-")
        {
            issued.insert(secret.name_any());
        }
    }
    Ok(())
}
