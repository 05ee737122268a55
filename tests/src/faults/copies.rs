//! What each copy of a stream holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::stream::Stream;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{broker::Broker, wait::eventually};

const PATIENCE: Duration = Duration::from_mins(2);
/// A broker that was killed while its copy and the leader's had come apart gets nothing until the leader compacts its log: by
/// its source every two to three minutes (`compactInterval` in nats-server's `jetstream_cluster.go`).
const CATCHES_UP: Duration = Duration::from_mins(6);
/// Requests on their way at once.
const AT_ONCE: usize = 64;

/// Waits until all three copies are up to date.
pub async fn current(client: &Broker, name: &str) -> Result<()> {
    let current = eventually("copies that are up to date", CATCHES_UP, async || {
        let info = info(client, name).await?;
        let others = info["cluster"]["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
        let behind: Vec<String> = others.iter().filter(|one| one["current"] != true).map(Value::to_string).collect();
        if others.len() == 2 && behind.is_empty() { Ok(Some(())) } else { Err(format!("behind: {behind:?}")) }
    });
    current.await
}

/// Reads every copy of a stream: all hold the same events at the same places, and each event is what was published.
pub async fn agree(client: &Broker, name: &str) -> Result<()> {
    current(client, name).await?;
    let info = info(client, name).await.map_err(anyhow::Error::msg)?;
    let (first, last) = (info["state"]["first_seq"].as_u64(), info["state"]["last_seq"].as_u64());
    let places = first.context("a place")?..=last.context("a place")?;
    let others = info["cluster"]["replicas"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    let members: BTreeSet<String> = others.chain(info["cluster"]["leader"].as_str()).map(str::to_owned).collect();
    let mut seen: Option<(String, BTreeMap<u64, u64>)> = None;
    for broker in members {
        lead(client, name, &broker).await?;
        // Who has just begun to lead may not answer at once.
        let stream = eventually("the stream", PATIENCE, async || {
            client.jetstream.get_stream(name).await.map(Some).map_err(|error| error.to_string())
        });
        let stream = stream.await?;
        let reads = stream::iter(places.clone()).map(|place| read(&stream, place)).buffer_unordered(AT_ONCE);
        let copy: BTreeMap<u64, u64> = reads.try_filter_map(async |read| Ok(read)).try_collect().await?;
        if let Some((other, known)) = &seen {
            ensure!(*known == copy, "{broker} holds {} events, and not those of {other}", copy.len());
        }
        seen = Some((broker, copy));
    }
    Ok(())
}

/// The number of the event at a place, as the broker has it that leads.
async fn read(stream: &Stream, place: u64) -> Result<Option<(u64, u64)>> {
    use async_nats::jetstream::{ErrorCode, stream::RawMessageErrorKind};
    match stream.get_raw_message(place).await {
        Ok(message) => {
            let number = std::str::from_utf8(&message.payload).ok().and_then(|text| text.trim_start().parse().ok());
            Ok(Some((place, number.with_context(|| format!("place {place} holds {:?}", message.payload))?)))
        }
        Err(error) if matches!(error.kind(), RawMessageErrorKind::JetStream(ref of) if of.error_code() == ErrorCode::NO_MESSAGE_FOUND) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("place {place} cannot be read")),
    }
}

/// Makes a broker lead the stream, which answers from its own copy then.
pub async fn lead(client: &Broker, name: &str, broker: &str) -> Result<()> {
    let leads = eventually("another leader", PATIENCE, async || {
        let leader = info(client, name).await?["cluster"]["leader"].as_str().unwrap_or_default().to_owned();
        if leader == broker {
            return Ok(Some(()));
        }
        let preferred = json!({"placement": {"preferred": broker}});
        let asked = client.api(&format!("STREAM.LEADER.STEPDOWN.{name}"), &preferred).await;
        asked.map(|_| None).map_err(|error| format!("{error:#}"))
    });
    leads.await.with_context(|| format!("{broker} does not lead"))
}

pub async fn info(client: &Broker, name: &str) -> Result<Value, String> {
    client.stream(name).await.map_err(|error| format!("{error:#}"))?.ok_or_else(|| "there is none".to_owned())
}
