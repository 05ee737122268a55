//! The faults.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use eventmesh_crds::Topic;
use eventmesh_wire::names;
use futures::FutureExt;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::{
    copies,
    trial::{AROUND, Fault, Trial},
};
use crate::{
    brokers::{mesh, name, not_ready, ready},
    objects::object,
};

macro_rules! fault {
    ($name:literal, $function:ident) => {
        Fault { name: $name, run: |trial| $function(trial).boxed_local() }
    };
}

pub const FAULTS: [Fault; 4] = [
    fault!("two paused, third killed", no_majority),
    fault!("full volume", full_volume),
    fault!("flipped bit", flipped_bit),
    fault!("clocks an hour off", wrong_clocks),
];

const HOUR: i64 = 3_600;
/// Room for the store of one broker, and little more.
const VOLUME: u64 = 64 << 20;

/// In turns, each broker is the one that is killed.
async fn no_majority(trial: &mut Trial<'_>) -> Result<String> {
    let before = trial.brokers.uids().await?;
    let mut said = String::new();
    for (killed, paused) in [(0, [1, 2]), (1, [2, 0]), (2, [0, 1])] {
        for index in paused {
            trial.brokers.stack.pause_peer(index, true)?;
            trial.brokers.becomes(index, &not_ready()).await?;
        }
        let alone = trial.still().await?;
        trial.brokers.stack.kill_peer(killed);
        trial.brokers.becomes(killed, &not_ready()).await?;
        let away = trial.brokers.available("BrokersStarting", "0 of 3 brokers are ready").await?;
        ensure!(away.status == "False" && trial.load.acknowledged() == alone, "acknowledged without a majority");

        for index in paused {
            trial.brokers.stack.pause_peer(index, false)?;
            trial.brokers.becomes(index, &ready()).await?;
        }
        trial.acknowledged(alone + AROUND).await?;
        let degraded = trial.brokers.available("Degraded", &name(killed)).await?;
        ensure!(degraded.status == "True", "two of three work");
        trial.brokers.stack.start_peer(killed)?;
        trial.brokers.becomes(killed, &ready()).await?;
        trial.whole().await?;
        said = format!("{}: {}; {}: {}", away.reason, away.message, degraded.reason, degraded.message);
    }
    ensure!(before == trial.brokers.uids().await? && trial.brokers.restarts().await?.is_empty(), "it restarts nothing");
    Ok(said)
}

/// Something else takes all the room on the volume of one broker, and gives it back after the broker was restarted for it.
async fn full_volume(trial: &mut Trial<'_>) -> Result<String> {
    trial.brokers.stack.kill_peer(2);
    trial.brokers.becomes(2, &not_ready()).await?;
    trial.brokers.stack.move_to_volume(2, VOLUME).await?;
    trial.brokers.stack.start_peer(2)?;
    trial.brokers.becomes(2, &ready()).await?;
    trial.whole().await?;

    trial.brokers.stack.volume(2)?.fill()?;
    let full = trial.brokers.available("StorageStopped", &name(2)).await?;
    ensure!(full.status == "True", "the others serve on");
    ensure!(trial.brokers.next().await? == 2, "a restart is the only way back");
    let restart = trial.brokers.restarts().await?.remove(0);
    ensure!(restart.reason == "StorageStopped" && restart.broker == name(2), "{restart:?}");
    trial.brokers.end(2).await?;
    // On a full volume it does not even start, and its kubelet tries again and again.
    trial.brokers.create(2, &no_room()).await?;
    let down = trial.brokers.available("Degraded", "no space left on device").await?;
    ensure!(down.message.contains(&name(2)) && down.status == "True", "{}", down.message);
    let more = trial.load.acknowledged() + AROUND;
    trial.acknowledged(more).await?;

    // A roll takes the one that is down with it, and nobody else while that has no room.
    trial.brokers.ns.apply(&mesh(3, ", podTemplate: {labels: {team: blue}}")).await?;
    trial.brokers.take_note("the label", has_label).await?;
    ensure!(trial.brokers.next().await? == 2, "the one that is down");
    trial.brokers.end(2).await?;
    trial.brokers.create(2, &no_room()).await?;
    let uids = trial.brokers.uids().await?;
    trial.brokers.available("RollStopped", "no space left on device").await?;
    ensure!(uids == trial.brokers.uids().await?, "a second broker was taken away");

    // There is room again. Its kubelet tries once more, and the roll goes on.
    trial.brokers.stack.volume(2)?.free()?;
    trial.brokers.stack.start_peer(2)?;
    copies::current(&trial.client, &trial.stream).await?;
    trial.brokers.becomes(2, &ready()).await?;
    for _ in 0..2 {
        let next = trial.brokers.next().await?;
        trial.brokers.end(next).await?;
        trial.brokers.begin(next).await?;
    }
    trial.whole().await?;
    Ok(full.message)
}

/// In an event that a broker has stored; it is killed, and reads all of its store at its next start.
async fn flipped_bit(trial: &mut Trial<'_>) -> Result<String> {
    trial.brokers.stack.kill_peer(1);
    trial.brokers.becomes(1, &not_ready()).await?;
    flip(&trial.brokers.stack.store(1), &trial.stream)?;
    trial.brokers.stack.start_peer(1)?;
    trial.brokers.becomes(1, &ready()).await?;
    trial.whole().await?;
    Ok("nothing: the broker has found it and mended its copy".to_owned())
}

/// One is ahead, one is behind, and each of the three leads for a while.
async fn wrong_clocks(trial: &mut Trial<'_>) -> Result<String> {
    for (index, seconds) in [(1, HOUR), (2, -HOUR)] {
        clock(trial, index, seconds).await?;
    }
    let (ahead, behind) = (format!("{} is {HOUR} s ahead", name(1)), format!("{} is {HOUR} s behind", name(2)));
    let told = trial.brokers.available("ClocksDiffer", &format!("{ahead}, {behind}")).await?;
    ensure!(told.status == "True", "events flow");
    for leader in [1, 2, 0, 2, 1, 0] {
        copies::lead(&trial.client, &trial.stream, &name(leader)).await?;
        let more = trial.load.acknowledged() + AROUND;
        trial.acknowledged(more).await?;
    }
    once(trial).await?;
    for index in [1, 2] {
        clock(trial, index, 0).await?;
    }
    trial.brokers.available("Available", "").await?;
    Ok(told.message)
}

/// An event that is published to each leader is stored once. The broker that is ahead lets it expire too early; the others keep it.
async fn once(trial: &Trial<'_>) -> Result<()> {
    trial.brokers.ns.apply(&object("Topic", "short", "  mesh: {name: m}\n  retention: {maxAge: 30m}")).await?;
    trial.brokers.ns.ready::<Topic>("short").await?;
    let stream = names::stream(&trial.brokers.ns.name, "short");
    for leader in [0, 1, 2, 0] {
        copies::lead(&trial.client, &stream, &name(leader)).await?;
        let headers = HeaderMap::from_iter([(HeaderName::from_static("Nats-Msg-Id"), HeaderValue::from("one"))]);
        trial.client.jetstream.publish_with_headers("short.x", headers, "one".into()).await?.await?;
        let state = copies::info(&trial.client, &stream).await.map_err(anyhow::Error::msg)?["state"].take();
        ensure!(state["last_seq"] == 1, "stored twice: {state}");
        ensure!(leader == 1 || state["messages"] == 1, "{} has it no more: {state}", name(leader));
    }
    Ok(())
}

/// Its clock is moved while the broker is away: nothing moves that of a program that runs.
async fn clock(trial: &mut Trial<'_>, index: usize, seconds: i64) -> Result<()> {
    trial.brokers.stack.kill_peer(index);
    trial.brokers.becomes(index, &not_ready()).await?;
    trial.brokers.stack.shift_clock(index, seconds);
    trial.brokers.stack.start_peer(index)?;
    trial.brokers.becomes(index, &ready()).await?;
    trial.whole().await
}

/// In the middle of what is stored of a stream. With its index a broker would not look: docs/durability.md.
fn flip(store: &Path, stream: &str) -> Result<()> {
    let accounts = std::fs::read_dir(store.join("jetstream"))?.collect::<Result<Vec<_>, _>>()?;
    let folders = accounts.iter().map(|account| account.path().join("streams").join(stream).join("msgs"));
    let folder = folders.into_iter().find(|folder| folder.exists()).context("the stream's folder")?;
    if folder.join("index.db").exists() {
        std::fs::remove_file(folder.join("index.db"))?;
    }
    let files = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let block = files.iter().map(std::fs::DirEntry::path).find(|file| file.extension().is_some_and(|end| end == "blk"));
    let block = block.context("a block")?;
    let mut bytes = std::fs::read(&block)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty block")? ^= 0x10;
    Ok(std::fs::write(block, bytes)?)
}

/// As a kubelet tells of a broker that cannot start for want of room.
fn no_room() -> Value {
    let log =
        "[1] 2026/11/28 09:23:06.043339 [FTL] Can't start JetStream: write peers.idx.tmp: no space left on device";
    let ended = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}});
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
        {"name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": waiting, "lastState": ended}]})
}

fn has_label(template: &PodTemplateSpec) -> bool {
    template.metadata.as_ref().and_then(|m| m.labels.as_ref()).is_some_and(|labels| labels.contains_key("team"))
}
