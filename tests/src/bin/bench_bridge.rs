//! `make bench-bridge`: how fast a bridge is, beside the ceiling of the same machine in the same run.
//!
//! One broker with file storage, mosquitto, loopback. 200,000 events of 200 bytes wait in a persistent `QoS` 1 session; the
//! clock runs from the start of the bridge process to the last event stored. Each figure is the median of three runs. Ingest is
//! what the operator would choose: fast ingest with a sync interval, atomic batches with `sync_interval: always`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventmesh_tests::process::nats::{api, create_consumer, create_stream, stored};
use eventmesh_tests::process::{Bridge, Mosquitto, Nats};
use eventmesh_tests::{paths, wait::eventually};
use eventmesh_wire::report::RouteState;
use futures::StreamExt as _;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions, QoS};
use serde_json::{Value, json};

const EVENTS: u64 = 200_000;
const SIZE: usize = 200;
const RUNS: usize = 3;

/// One measured run.
#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    peak_mib: f64,
    cpu: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let ceiling = median_of(async || ceiling("2m").await).await?;
    println!("ceiling: asynchronous JetStream publish {ceiling:.0} msg/s");
    let inbound = runs(async || inbound("2m", "Fast").await).await?;
    println!(
        "bench-bridge: mqtt-to-mesh {:.0} msg/s, peak RSS {:.1} MiB, cpu {:.1} s",
        inbound.rate, inbound.peak_mib, inbound.cpu
    );
    println!("  that is {:.0} % of the ceiling", 100.0 * inbound.rate / ceiling);
    for ingest in ["Atomic", "Single"] {
        let run = runs(async || self::inbound("2m", ingest).await).await?;
        println!(
            "mqtt-to-mesh, ingest {ingest}: {:.0} msg/s, peak RSS {:.1} MiB, cpu {:.1} s",
            run.rate, run.peak_mib, run.cpu
        );
    }
    let always = runs(async || self::inbound("always", "Atomic").await).await?;
    println!(
        "mqtt-to-mesh, sync always: {:.0} msg/s, peak RSS {:.1} MiB, cpu {:.1} s",
        always.rate, always.peak_mib, always.cpu
    );
    let outbound = runs(outbound).await?;
    println!(
        "mesh-to-mqtt: {:.0} msg/s, peak RSS {:.1} MiB, cpu {:.1} s",
        outbound.rate, outbound.peak_mib, outbound.cpu
    );
    println!("at rest: RSS {:.1} MiB", at_rest().await?);
    Ok(())
}

async fn runs(mut run: impl AsyncFnMut() -> Result<Run>) -> Result<Run> {
    let mut runs = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        runs.push(run().await?);
    }
    runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let highest = runs.iter().map(|run| run.peak_mib).fold(0.0, f64::max);
    Ok(Run { peak_mib: highest, ..runs[RUNS / 2] })
}

async fn median_of(mut figure: impl AsyncFnMut() -> Result<f64>) -> Result<f64> {
    let mut figures = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        figures.push(figure().await?);
    }
    figures.sort_by(f64::total_cmp);
    Ok(figures[RUNS / 2])
}

/// Asynchronous publish of the same payloads, a window at a time, nothing between.
async fn ceiling(sync: &str) -> Result<f64> {
    let nats = Nats::start(paths::scratch("nats")?, sync, "").await?;
    let client = nats.client().await?;
    create_stream(&client, "T", &["t.>"], &json!({})).await?;
    let began = Instant::now();
    fill(&client).await?;
    Ok(rate(began))
}

async fn fill(client: &async_nats::Client) -> Result<()> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let payload = bytes::Bytes::from(vec![b'x'; SIZE]);
    let (mut sent, mut answered) = (0, 0);
    while answered < EVENTS {
        while sent < EVENTS && sent - answered < 4_000 {
            client.publish_with_reply("t.a.b", inbox.clone(), payload.clone()).await?;
            sent += 1;
        }
        let answer = answers.next().await.context("the broker went away")?;
        ensure!(!answer.payload.windows(7).any(|text| text == b"\"error\""), "{answer:?}");
        answered += 1;
    }
    Ok(())
}

fn config(nats: &Nats, mosquitto: &Mosquitto) -> Value {
    json!({
        "version": 1,
        "bridge": {"namespace": "bench", "name": "bench", "uid": "8d5c6f1e-0000-4000-8000-000000000000"},
        "mesh": {"servers": [nats.url()]},
        "endpoint": {"mqtt": {"url": mosquitto.url(), "version": "V5", "clientId": "bench"}},
        "delivery": {"maxInFlight": 1000}
    })
}

async fn inbound(sync: &str, ingest: &str) -> Result<Run> {
    let nats = Nats::start(paths::scratch("nats")?, sync, "").await?;
    let mosquitto = Mosquitto::start(paths::scratch("mosquitto")?, "max_inflight_messages 0").await?;
    let client = nats.client().await?;
    create_stream(&client, "T", &["t.>"], &json!({})).await?;
    let mut config = config(&nats, &mosquitto);
    config["inbound"] = json!([{"name": "in", "from": "t/+/b", "to": "t.{1}.b", "stream": "T", "ingest": ingest}]);
    let mut bridge = start(&config)?;
    running(&bridge, "in").await?;
    bridge.child.terminate()?;
    bridge.ended().await?;
    publish(mosquitto.port).await?;
    let began = Instant::now();
    bridge.start_again()?;
    while stored(&client, "T").await? < EVENTS {
        ensure!(
            began.elapsed() < Duration::from_mins(2),
            "stored {} only\n{}",
            stored(&client, "T").await?,
            bridge.child.log_tail(10)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    measured(rate(began), &bridge)
}

async fn outbound() -> Result<Run> {
    let nats = Nats::start(paths::scratch("nats")?, "2m", "").await?;
    let mosquitto = Mosquitto::start(paths::scratch("mosquitto")?, "max_inflight_messages 0").await?;
    let client = nats.client().await?;
    create_stream(&client, "T", &["t.>"], &json!({})).await?;
    create_consumer(&client, "T", "c", 30).await?;
    fill(&client).await?;
    let mut config = config(&nats, &mosquitto);
    config["outbound"] =
        json!([{"name": "out", "stream": "T", "consumer": "c", "subjects": ["t.*.b"], "to": "out/{1}"}]);
    let began = Instant::now();
    let bridge = start(&config)?;
    loop {
        let info = api(&client, "CONSUMER.INFO.T.c", &json!({})).await?;
        if info["num_pending"] == 0 && info["num_ack_pending"] == 0 {
            break;
        }
        ensure!(began.elapsed() < Duration::from_mins(2), "{info}\n{}", bridge.child.log_tail(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    measured(rate(began), &bridge)
}

/// Connected to both sides with a route each way, and nothing to do.
async fn at_rest() -> Result<f64> {
    let nats = Nats::start(paths::scratch("nats")?, "2m", "").await?;
    let mosquitto = Mosquitto::start(paths::scratch("mosquitto")?, "").await?;
    let client = nats.client().await?;
    create_stream(&client, "T", &["t.>"], &json!({})).await?;
    create_consumer(&client, "T", "c", 30).await?;
    let mut config = config(&nats, &mosquitto);
    config["inbound"] = json!([{"name": "in", "from": "t/+/b", "to": "u.{1}.b", "stream": "T", "ingest": "Atomic", "filter": "event.data.celsius > 80"}]);
    config["outbound"] =
        json!([{"name": "out", "stream": "T", "consumer": "c", "subjects": ["t.*.b"], "to": "out/{1}"}]);
    let bridge = start(&config)?;
    running(&bridge, "in").await?;
    running(&bridge, "out").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    mebibytes(bridge.memory("VmRSS")?)
}

fn start(config: &Value) -> Result<Bridge> {
    let program: PathBuf = paths::release("eventmesh-bridge")?;
    Bridge::start(&program, paths::scratch("bridge")?, config)
}

async fn running(bridge: &Bridge, route: &str) -> Result<()> {
    bridge.route(route, "running route", |route| route.state == RouteState::Running).await.map(drop)
}

/// Leaves the events in the session that the bridge left behind.
async fn publish(port: u16) -> Result<()> {
    let mut options = MqttOptions::new("loader", ("127.0.0.1".to_owned(), port));
    options.set_outgoing_inflight_upper_limit(1000);
    let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
    let payload = bytes::Bytes::from(vec![b'x'; SIZE]);
    tokio::spawn(async move {
        for _ in 0..EVENTS {
            let sent = client.publish("t/a/b", payload.clone(), PublishOptions::new(QoS::AtLeastOnce)).await;
            if sent.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    let mut acknowledged = 0;
    eventually("acknowledged load", Duration::from_mins(2), async || {
        while acknowledged < EVENTS {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.map_err(|error| error.to_string())? {
                acknowledged += 1;
            }
        }
        Ok(Some(()))
    })
    .await
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(began: Instant) -> f64 {
    EVENTS as f64 / began.elapsed().as_secs_f64()
}

fn measured(rate: f64, bridge: &Bridge) -> Result<Run> {
    Ok(Run { rate, peak_mib: mebibytes(bridge.memory("VmHWM")?)?, cpu: bridge.cpu()? })
}

#[expect(clippy::cast_precision_loss, clippy::unnecessary_wraps, reason = "far below 2^52; chains with `?`")]
fn mebibytes(kibibytes: u64) -> Result<f64> {
    Ok(kibibytes as f64 / 1024.0)
}
