//! The faults.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::{
    copies,
    trial::{AROUND, Fault, Trial},
};
use crate::brokers::{mesh, name, not_ready, ready};

macro_rules! fault {
    ($name:literal, $function:ident) => {
        Fault { name: $name, run: |trial| $function(trial).boxed_local() }
    };
}

pub const FAULTS: [Fault; 3] = [
    fault!("two paused, third killed", no_majority),
    fault!("full volume", full_volume),
    fault!("flipped bit", flipped_bit),
];

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
