//! Events through a bridge in one direction, with a history: sent and confirmed on one side, received on the other.
//!
//! The last fifth of the events waits until [`Flow::release`], so that what is done to the system in between happens
//! while events are still to come.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use eventmesh_crds::bridge::MqttVersion;
use futures::StreamExt;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    broker::{Broker, Reader},
    ledger::{Ledger, Verdict},
    mqtt::{Receiver, Sender, Site},
};

/// Sends on their way at once.
const WINDOW: usize = 256;
/// A direction in which nothing has moved for this long has come to its end.
const STALLED: Duration = Duration::from_mins(3);
/// After the last event: time for second copies to come.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// One direction.
pub struct Flow {
    ledger: Arc<watch::Sender<Ledger>>,
    gate: watch::Sender<bool>,
    events: u32,
    begun: Instant,
    tasks: Vec<JoinHandle<()>>,
}

/// How it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub verdict: Verdict,
    /// From the first send to the last first arrival.
    pub time: Duration,
    /// Some of the numbers that were lost.
    pub lost: Vec<u32>,
}

impl Outcome {
    /// # Errors
    /// When an event was lost or not even sent.
    pub fn nothing_lost(&self, events: u32) -> Result<()> {
        let (sent, lost) = (self.verdict.sent, self.verdict.lost);
        anyhow::ensure!(sent == events as usize, "only {sent} of {events} events could be sent");
        anyhow::ensure!(lost == 0, "{lost} of {sent} events are lost, such as {:?}", self.lost);
        Ok(())
    }
}

impl Flow {
    /// From the site into a stream. `topic` gives the MQTT topic of an event.
    pub async fn inbound(
        run: &str,
        events: u32,
        (site, version): (&Site, MqttVersion),
        topic: impl Fn(u32) -> String + Send + Sync + 'static,
        (broker, stream): (&Broker, &str),
    ) -> Result<Self> {
        let mut flow = Self::new(&format!("{run}-in"), events);
        let reader = broker.read(stream).await.with_context(|| format!("cannot read {stream}"))?;
        flow.receive(reader_events(reader));
        let sender = Arc::new(Sender::new(site, version));
        flow.send(move |number, id, payload| {
            let (sender, topic) = (sender.clone(), topic(number));
            async move { sender.send(&topic, &id, payload.into_bytes()).await }
        });
        Ok(flow)
    }

    /// From the mesh to the site. `subject` gives the subject of an event.
    pub async fn outbound(
        run: &str,
        events: u32,
        broker: &Broker,
        subject: impl Fn(u32) -> String + Send + Sync + 'static,
        (site, version, filter): (&Site, MqttVersion, &str),
    ) -> Result<Self> {
        let mut flow = Self::new(&format!("{run}-out"), events);
        let receiver = Receiver::new(site, version, filter).await?;
        flow.receive(receiver_events(receiver));
        let broker = broker.clone();
        flow.send(move |number, id, payload| {
            let (broker, subject) = (broker.clone(), subject(number));
            async move { broker.publish_surely(&subject, &id, &payload).await }
        });
        Ok(flow)
    }

    fn new(run: &str, events: u32) -> Self {
        let ledger = Arc::new(watch::Sender::new(Ledger::new(run)));
        Self { ledger, gate: watch::Sender::new(false), events, begun: Instant::now(), tasks: Vec::new() }
    }

    fn receive(&mut self, arrivals: impl futures::Stream<Item = Vec<u8>> + Send + 'static) {
        let ledger = self.ledger.clone();
        self.tasks.push(tokio::spawn(arrivals.for_each(move |payload| {
            ledger.send_modify(|ledger| ledger.arrived(&payload));
            std::future::ready(())
        })));
    }

    fn send<F>(&mut self, send: impl Fn(u32, String, String) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let (ledger, gate, events) = (self.ledger.clone(), self.gate.subscribe(), self.events);
        let held_back = events - events / 5;
        self.tasks.push(tokio::spawn(async move {
            let sends = futures::stream::iter(0..events).map(|number| {
                let (id, payload) = ledger.borrow().with(number);
                let (sending, mut gate, ledger) = (send(number, id, payload), gate.clone(), &ledger);
                async move {
                    if number >= held_back {
                        let _ = gate.wait_for(|open| *open).await;
                    }
                    sending.await;
                    ledger.send_modify(|ledger| ledger.confirmed(number));
                }
            });
            sends.buffer_unordered(WINDOW).collect::<()>().await;
        }));
    }

    /// How many events have arrived.
    #[must_use]
    pub fn arrivals(&self) -> usize {
        self.ledger.borrow().arrivals()
    }

    /// Waits until this many events have arrived.
    pub async fn reached(&self, arrivals: usize) -> Result<()> {
        let mut ledger = self.ledger.subscribe();
        let reached = tokio::time::timeout(STALLED, ledger.wait_for(|ledger| ledger.arrivals() >= arrivals)).await;
        match reached {
            Ok(found) => found.map(drop).context("the history has ended"),
            Err(_) => anyhow::bail!("only {} of {arrivals} events have arrived in {STALLED:?}", self.arrivals()),
        }
    }

    /// Lets the last events go.
    pub fn release(&self) {
        self.gate.send_replace(true);
    }

    /// Waits for the end and gives the verdict, which may be that events were lost.
    pub async fn finish(&self) -> Outcome {
        self.release();
        let wanted = self.events as usize;
        let mut history = self.ledger.subscribe();
        let mut last = Instant::now();
        loop {
            let (sent, arrivals) = {
                let ledger = history.borrow_and_update();
                (ledger.confirmations(), ledger.arrivals())
            };
            if sent >= wanted && arrivals >= wanted {
                break;
            }
            if tokio::time::timeout(STALLED, history.changed()).await.is_err() {
                break;
            }
            last = Instant::now();
        }
        let time = last - self.begun;
        tokio::time::sleep(AFTERWARDS).await;
        let ledger = self.ledger.borrow();
        Outcome { verdict: ledger.verdict(), time, lost: ledger.lost() }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn reader_events(reader: Reader) -> impl futures::Stream<Item = Vec<u8>> + Send {
    futures::stream::unfold(reader, async |mut reader| {
        let event = reader.next().await.ok()?;
        Some((event.payload, reader))
    })
}

fn receiver_events(receiver: Receiver) -> impl futures::Stream<Item = Vec<u8>> + Send {
    futures::stream::unfold(receiver, async |mut receiver| {
        let arrival = receiver.next().await.ok()?;
        Some((arrival.payload, receiver))
    })
}
