//! Three real brokers under load, and one fault.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{EventMesh, Topic};
use futures::future::LocalBoxFuture;

use super::copies;
use crate::{
    broker::Broker,
    brokers::Brokers,
    identity::Login,
    objects::{Namespace, object},
    operations::load::{self, Account, Load},
    stack::Stack,
    wait::eventually,
};

const TOPIC: &str = "events";
/// Events a second.
const RATE: u64 = 200;
/// Events that are acknowledged before a fault begins, and after it.
pub const AROUND: usize = 400;
const PATIENCE: Duration = Duration::from_mins(2);
/// When nothing that is on its way is acknowledged any more.
const STILL: Duration = Duration::from_secs(2);

/// What is done to the brokers. It returns what the operator said of it, when everything is Ready again.
pub struct Fault {
    pub name: &'static str,
    pub run: for<'a, 'b> fn(&'a mut Trial<'b>) -> LocalBoxFuture<'a, Result<String>>,
}

pub struct Trial<'a> {
    pub brokers: Brokers<'a>,
    pub load: Load,
    pub client: Broker,
    pub stream: String,
}

/// What a fault has done.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub account: Account,
    pub said: String,
    /// Why it came to no end.
    pub failure: Option<String>,
}

impl<'a> Trial<'a> {
    /// A mesh of three brokers, a Topic with three copies, and its publisher.
    pub async fn start(stack: &'a mut Stack, ns: &'a Namespace) -> Result<Self> {
        let brokers = Brokers::start(stack, ns, 3).await?;
        ns.apply(&object("Topic", TOPIC, "  mesh: {name: m}")).await?;
        ns.ready::<Topic>(TOPIC).await?;
        let login = Login::operator(ns, "m").await?;
        let client = Broker::connect_with(&brokers.stack.broker_address(), &login, load::options).await?;
        let stream = eventmesh_wire::names::stream(&ns.name, TOPIC);
        let load = Load::start(&client, "events.x", &stream, RATE);
        Ok(Self { brokers, load, client, stream })
    }

    pub async fn row(mut self, fault: &Fault) -> Result<Row> {
        let mark = self.load.mark().await?;
        self.acknowledged(AROUND).await?;
        let done = (fault.run)(&mut self).await;
        let more = self.load.acknowledged() + AROUND;
        let end = async {
            self.acknowledged(more).await?;
            copies::agree(&self.client, &self.stream).await
        };
        let failure = match done {
            Ok(said) => end.await.map(|()| said),
            Err(error) => Err(error),
        };
        let (said, failure) = match failure {
            Ok(said) => (said, None),
            Err(error) => (String::new(), Some(format!("{error:#}"))),
        };
        let account = self.load.account(&mark).await.with_context(|| failure.clone().unwrap_or_default())?;
        Ok(Row { name: fault.name, account, said, failure })
    }

    /// Waits until so many events are acknowledged.
    pub async fn acknowledged(&self, events: usize) -> Result<()> {
        let reached = eventually("events enough", PATIENCE, async || {
            let so_far = self.load.acknowledged();
            if so_far >= events { Ok(Some(())) } else { Err(format!("{so_far} of {events}")) }
        });
        reached.await
    }

    /// Waits until nothing is acknowledged any more, and tells how many events were.
    pub async fn still(&self) -> Result<usize> {
        let still = eventually("end of acknowledgements", PATIENCE, async || {
            Ok((self.load.silence() > STILL).then(|| self.load.acknowledged()))
        });
        still.await
    }

    /// Waits until every copy is up to date and the mesh is Ready.
    pub async fn whole(&self) -> Result<()> {
        copies::current(&self.client, &self.stream).await?;
        self.brokers.ns.ready::<EventMesh>("m").await.map(drop)
    }
}

#[must_use]
pub fn head() -> String {
    format!(
        "{:<28}{:>13}{:>6}{:>12}{:>8}  what the operator said",
        "fault", "acknowledged", "lost", "duplicated", "gap s"
    )
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account { acknowledged, lost, duplicated, gap } = self.account;
        let (name, said, gap) = (self.name, &self.said, gap.as_secs_f64());
        write!(f, "{name:<28}{acknowledged:>13}{lost:>6}{duplicated:>12}{gap:>8.2}  {said}")?;
        self.failure.as_ref().map_or(Ok(()), |failure| write!(f, "\n  FAILED: {failure}"))
    }
}

/// The last line.
///
/// # Errors
/// When a fault came to no end, or an event was lost or stored twice.
pub fn judge(rows: &[Row]) -> Result<String> {
    let sum = |figure: fn(&Account) -> usize| rows.iter().map(|row| figure(&row.account)).sum::<usize>();
    let (acknowledged, lost) = (sum(|account| account.acknowledged), sum(|account| account.lost));
    let duplicated = sum(|account| account.duplicated);
    let line =
        format!("faults: {} rows, acknowledged {acknowledged}, lost {lost}, duplicated {duplicated}", rows.len());
    rows.first().context("no fault is called so")?;
    let failed = rows.iter().filter(|row| row.failure.is_some()).count();
    ensure!(failed == 0, "{line}; {failed} came to no end");
    ensure!(lost == 0 && duplicated == 0, "{line}; events were lost or stored twice");
    Ok(line)
}
