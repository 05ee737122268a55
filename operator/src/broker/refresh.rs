//! Keeps the view of one mesh true: everything after a connect, then one paged listing at an interval.
//!
//! A listing costs a few calls a mesh whatever the number of Topics; consumers are listed only where they may have
//! moved, and all of them once in a while in case an edit was missed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::{BrokerChange, BrokerError, MeshBroker};

/// Age that the numbers in a status may have.
const INTERVAL: Duration = Duration::from_secs(10);
/// Pause after a listing that failed.
const RETRY: Duration = Duration::from_millis(500);
/// How long listings may fail before the brokers count as lost: the restart of one broker takes less.
const PATIENCE: Duration = Duration::from_secs(15);
/// Every so many listings look at all consumers.
const FULL_EVERY: u32 = 30;

/// Runs until the mesh is removed.
pub(super) async fn run(broker: Arc<MeshBroker>) {
    let mut connects = broker.connects.clone();
    let mut round: u32 = 0;
    let mut next = Instant::now();
    let mut failing_since = None;
    loop {
        tokio::select! {
            () = broker.stop().cancelled() => return,
            changed = connects.changed() => {
                if changed.is_err() { return; }
                // Advisories may have been missed: look at everything.
                round = 0;
            }
            () = sleep_until(next), if *connects.borrow() > 0 => {}
        }
        let started = Instant::now();
        let delay = match list(&broker, round.is_multiple_of(FULL_EVERY)).await {
            Ok(()) => {
                round += 1;
                failing_since = None;
                INTERVAL
            }
            Err(error) => {
                debug!(mesh = %broker.key(), %error, "listing failed");
                let since = *failing_since.get_or_insert(started);
                if since.elapsed() > PATIENCE && broker.set_ready(false) {
                    warn!(mesh = %broker.key(), %error, "the brokers do not answer");
                    broker.announce(BrokerChange::Lost);
                }
                RETRY
            }
        };
        next = Instant::now() + delay;
    }
}

async fn list(broker: &MeshBroker, full: bool) -> Result<(), BrokerError> {
    let changed = list_streams(broker).await?;
    for stream in streams_to_look_into(broker, &changed, full) {
        match list_consumers(broker, &stream).await {
            // Deleted in between; its advisory tells the rest.
            Err(error) if error.is_code(super::api::code::STREAM_NOT_FOUND) => {}
            other => other?,
        }
    }
    if broker.set_ready(true) {
        for stream in changed {
            broker.announce(BrokerChange::Stream(stream));
        }
    } else {
        broker.announce(BrokerChange::Synced);
    }
    Ok(())
}

/// The streams whose consumers need to be listed.
fn streams_to_look_into(broker: &MeshBroker, changed: &BTreeSet<String>, full: bool) -> Vec<String> {
    let view = broker.view();
    let has_consumers = |stream: &str| view.stream(stream).is_some_and(|entry| entry.state.consumer_count > 0);
    let mut streams = view.stream_names();
    streams.retain(|stream| {
        full && has_consumers(stream) || view.consumers_may_have_moved(stream, changed.contains(stream))
    });
    streams
}

/// Lists all streams, a page at a time; returns those that differ from what was known.
async fn list_streams(broker: &MeshBroker) -> Result<BTreeSet<String>, BrokerError> {
    let before: BTreeSet<String> = broker.view().stream_names().into_iter().collect();
    let (mut seen, mut changed) = (BTreeSet::new(), BTreeSet::new());
    let mut offset = 0;
    loop {
        let page = broker.api().streams(offset).await?;
        let streams = page.streams.unwrap_or_default();
        if streams.is_empty() {
            break;
        }
        offset += streams.len();
        for info in streams {
            let name = info.name()?;
            seen.insert(name.clone());
            if broker.change_view(|view| view.put_stream(name.clone(), info)) {
                changed.insert(name);
            }
        }
        if offset >= page.total {
            break;
        }
    }
    // A listing is not one moment, and one broker's silence shortens it: look at each missing stream before
    // believing that it is gone.
    for name in before.difference(&seen) {
        broker.reread_stream(name).await?;
        if broker.view().stream(name).is_none() {
            warn!(mesh = %broker.key(), stream = %name, "stream is gone");
            changed.insert(name.clone());
        }
    }
    Ok(changed)
}

async fn list_consumers(broker: &MeshBroker, stream: &str) -> Result<(), BrokerError> {
    let before: BTreeSet<String> = broker.view().consumer_names(stream).into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut offset = 0;
    loop {
        let page = broker.api().consumers(stream, offset).await?;
        let consumers = page.consumers.unwrap_or_default();
        if consumers.is_empty() {
            break;
        }
        offset += consumers.len();
        for info in consumers {
            let consumer = info.name.clone();
            seen.insert(consumer.clone());
            if broker.change_view(|view| view.put_consumer(info)) {
                broker.announce(BrokerChange::Consumer { stream: stream.to_owned(), consumer });
            }
        }
        if offset >= page.total {
            break;
        }
    }
    for consumer in before.difference(&seen) {
        broker.reread_consumer(stream, consumer).await?;
        if broker.view().consumer(stream, consumer).is_none() {
            broker.announce(BrokerChange::Consumer { stream: stream.to_owned(), consumer: consumer.clone() });
        }
    }
    Ok(())
}
