//! The story on a cluster: accounts are opened while the ledger is away and one pod of every other program is killed, and then
//! each of the three that react has to have seen every account.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic, bridge::MqttVersion};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{Namespace as CoreNamespace, Pod},
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{LIMIT, Seen, open, seen, seen_until};
use crate::{
    cluster::{self, Cluster},
    http::Sender,
    mqtt::Receiver,
    objects::{Namespace, all_ready},
    paths,
    wait::eventually,
};

/// Customers at the counter at once.
const AT_ONCE: usize = 64;

/// The programs that run in pods, by the name of their ServiceAccount and of the label of their pods.
pub const APPS: [&str; 4] = ["accounts-api", "credit-check", "ledger", "notifications"];

/// The applied example, all of it Ready.
pub struct Story {
    cluster: Cluster,
    pub platform: Namespace,
    pub bank: Namespace,
    api: Sender,
    ledger: Sender,
    notifications: Sender,
    crm: Crm,
    say: Box<dyn Fn(&str) + Send + Sync>,
}

/// E, the customer relations outside the cluster: the accounts that it was told of, and how often.
struct Crm {
    told: watch::Receiver<BTreeMap<String, u32>>,
    task: JoinHandle<()>,
}

/// Ids of the accounts of one run that were answered with 201.
type Opened = watch::Sender<BTreeSet<String>>;

/// How many of the opened accounts each has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub opened: usize,
    pub ledger: usize,
    pub notifications: usize,
    pub crm: usize,
    /// Accounts that the CRM was told of more than once, as it may be after a kill.
    pub repeated: usize,
}

impl Outcome {
    #[must_use]
    pub fn lost(&self) -> usize {
        [self.ledger, self.notifications, self.crm].iter().map(|seen| self.opened.saturating_sub(*seen)).sum()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { opened, ledger, notifications, crm, .. } = self;
        write!(f, "opened {opened}, ledger {ledger}/{opened}, notifications {notifications}/{opened}, ")?;
        write!(f, "crm {crm}/{opened}, lost {}", self.lost())
    }
}

impl Story {
    /// Applies the example as `tests/tools/install accounts` has prepared it; `say` hears how it goes.
    pub async fn begin(cluster: &Cluster, say: impl Fn(&str) + Send + Sync + 'static) -> Result<Self> {
        let (platform, bank) = (cluster.kube.namespace("bank-platform"), cluster.kube.namespace("bank"));
        say("applying examples/accounts: a mesh of three brokers, Topics, Subscriptions, a Bridge and four programs");
        gone(cluster, &["bank-platform", "bank"]).await?;
        cluster.kubectl(&["apply", "-k", &folder()]).await.context("run `make accounts` first")?;
        if !cluster.is_local() {
            let endpoint = json!({"mqtt": {"url": format!("mqtt://{}:1883", cluster.site_host())}});
            bank.patch::<Bridge>("crm", json!({"spec": {"endpoint": endpoint}})).await?;
        }
        if let Err(error) = ready(&platform, &bank, &say).await {
            eprintln!("{}{}", platform.show().await, bank.show().await);
            return Err(error);
        }
        let http = async |service: &str| Sender::new(&cluster.http(&bank, service).await?, &[]);
        let (api, ledger, notifications) =
            (http("accounts-api").await?, http("ledger").await?, http("notifications").await?);
        let crm = Crm::start(cluster).await?;
        let (cluster, say) = (cluster.clone(), Box::new(say));
        Ok(Self { cluster, platform, bank, api, ledger, notifications, crm, say })
    }

    /// The whole story, with so many accounts, one each `pause`.
    pub async fn tell(&self, accounts: u32, pause: Duration) -> Result<Outcome> {
        let told = self.through_kills(accounts, pause).await;
        if told.is_err() {
            eprintln!("{}{}", self.platform.show().await, self.bank.show().await);
        }
        told
    }

    async fn through_kills(&self, accounts: u32, pause: Duration) -> Result<Outcome> {
        let run = format!("run-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
        let opened = Opened::default();
        let done = watch::Sender::new(false);
        let part = |tenths: u32| accounts as usize * tenths as usize / 10;

        (self.say)(&format!("opening {accounts} accounts by POST /accounts, one each {} ms", pause.as_millis()));
        let faults = async {
            reached(&opened, part(1)).await?;
            (self.say)("the ledger is stopped");
            self.scale_ledger(0).await?;
            for (tenths, app) in [(3, "accounts-api"), (4, "credit-check"), (5, "notifications")] {
                reached(&opened, part(tenths)).await?;
                self.kill(&format!("app.kubernetes.io/name={app}")).await?;
            }
            reached(&opened, part(6)).await?;
            let bridge: Bridge = self.bank.get("crm").await?;
            self.kill(&bridge.status.and_then(|status| status.selector).context("status.selector")?).await?;
            done.send_replace(true);
            Ok(())
        };
        let opening = self.open_all(&run, accounts, pause, &opened, done.subscribe());
        tokio::try_join!(self.telling(&opened, opening), faults)?;

        let declined = open(&self.api, &format!("{run}-declined"), 1, 11).await?;
        ensure!(declined.status == 422, "credit was not declined: {declined:?}");
        (self.say)("all are opened; the ledger is started again, and finds what has waited for it");
        self.scale_ledger(1).await?;
        self.judge(&run, &opened.borrow().clone()).await
    }

    /// Opens accounts. The last fifth waits until all kills are done, so that each of them comes while accounts are opened.
    async fn open_all(
        &self,
        run: &str,
        accounts: u32,
        pause: Duration,
        opened: &Opened,
        done: watch::Receiver<bool>,
    ) -> Result<()> {
        let held_back = accounts - accounts / 5;
        let mut tick = interval(pause);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let customers = stream::unfold((0, tick, done), async |(number, mut tick, mut done)| {
            if number == held_back {
                done.wait_for(|done| *done).await.ok()?;
            }
            tick.tick().await;
            (number < accounts).then_some((number, (number + 1, tick, done)))
        });
        let requests = customers.map(|number| async move {
            let id = format!("{run}-{number}");
            let answer = open(&self.api, &id, 100, 500).await?;
            ensure!(answer.status == 201, "account {id}: {answer:?}");
            opened.send_modify(|all| {
                all.insert(id);
            });
            Ok(())
        });
        requests.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Says every few seconds how far it has come.
    async fn telling<T>(&self, opened: &Opened, work: impl Future<Output = T>) -> T {
        let mut tick = interval(Duration::from_secs(3));
        tick.tick().await;
        let telling = async {
            loop {
                tick.tick().await;
                (self.say)(&format!(
                    "opened {:5}, crm told of {:5}",
                    opened.borrow().len(),
                    self.crm.told.borrow().len()
                ));
            }
        };
        tokio::select! {
            done = work => done,
            () = telling => unreachable!("it tells until the work is done"),
        }
    }

    async fn kill(&self, label: &str) -> Result<()> {
        let pods = cluster::pods(&self.bank, label).await?;
        let pod = pods.first().with_context(|| format!("no pod has the label {label}"))?;
        (self.say)(&format!("killing pod {pod}"));
        self.cluster.kill_pod(&self.bank, pod).await
    }

    /// Zero means that no pod of it is there any more.
    pub async fn scale_ledger(&self, replicas: i32) -> Result<()> {
        self.bank.patch::<StatefulSet>("ledger", json!({"spec": {"replicas": replicas}})).await?;
        if replicas > 0 {
            return rolled_out(&self.bank).await;
        }
        let pods = self.bank.api::<Pod>();
        eventually("end of the ledger's pod", LIMIT, async || {
            let list = pods.list(&ListParams::default().labels("app.kubernetes.io/name=ledger")).await;
            Ok(list.map_err(|error| error.to_string())?.items.is_empty().then_some(()))
        })
        .await
    }

    /// Waits until everybody has seen everything, and tells what is missing where that does not come.
    async fn judge(&self, run: &str, opened: &BTreeSet<String>) -> Result<Outcome> {
        let (ledger, notifications) =
            tokio::join!(self.seen(&self.ledger, opened), self.seen(&self.notifications, opened));
        let (ledger, notifications) = (ledger?, notifications?);
        let mut told = self.crm.told.clone();
        let all = told.wait_for(|told| opened.iter().all(|id| told.contains_key(id)));
        let _ = tokio::time::timeout(LIMIT, all).await;
        let told = self.crm.told.borrow().clone();
        let declined = format!("{run}-declined");
        for (who, ids) in [("ledger", &ledger.accounts), ("notifications", &notifications.accounts)] {
            ensure!(!ids.contains(&declined), "{who} has seen an account that was declined");
        }
        ensure!(!told.contains_key(&declined), "the CRM was told of an account that was declined");
        Ok(Outcome {
            opened: opened.len(),
            ledger: ledger.count(opened)?,
            notifications: notifications.count(opened)?,
            crm: opened.iter().filter(|id| told.contains_key(*id)).count(),
            repeated: opened.iter().filter(|id| told.get(*id).is_some_and(|times| *times > 1)).count(),
        })
    }

    async fn seen(&self, program: &Sender, opened: &BTreeSet<String>) -> Result<Seen> {
        match seen_until(program, |seen| seen.count(opened).is_ok_and(|count| count == opened.len())).await {
            Ok(seen) => Ok(seen),
            // Not all of them: what is there counts.
            Err(_) => seen(program).await,
        }
    }

    /// Waits until the ledger and notifications have seen an account, and the CRM was told of it.
    pub async fn everybody_sees(&self, id: &str) -> Result<()> {
        let one = BTreeSet::from([id.to_owned()]);
        let outcome = self.judge("none", &one).await?;
        ensure!(outcome.lost() == 0, "{id}: {outcome}");
        Ok(())
    }

    /// Takes the example away, and does not wait for it.
    pub async fn end(self) -> Result<()> {
        self.cluster.kubectl(&["delete", "-k", &folder(), "--wait=false"]).await.map(drop)
    }
}

impl Crm {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let mut receiver = Receiver::new(&cluster.site(), MqttVersion::V5, "crm/accounts/opened").await?;
        let (tell, told) = watch::channel(BTreeMap::new());
        let task = tokio::spawn(async move {
            while let Ok(arrival) = receiver.next().await {
                let account: Value = serde_json::from_slice(&arrival.payload).unwrap_or_default();
                let id = account["id"].as_str().unwrap_or("not an account").to_owned();
                tell.send_modify(|told| *told.entry(id).or_default() += 1);
            }
        });
        Ok(Self { told, task })
    }
}

impl Drop for Crm {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where `tests/tools/install accounts` puts the example with the images of this cluster.
fn folder() -> String {
    paths::repository().join(".build/accounts/deploy").display().to_string()
}

/// An earlier run may still be on its way out.
async fn gone(cluster: &Cluster, namespaces: &[&str]) -> Result<()> {
    let api: Api<CoreNamespace> = Api::all(cluster.kube.client.clone());
    for name in namespaces {
        eventually(&format!("end of the namespace {name}, which is being deleted"), LIMIT, async || {
            let found = api.get_opt(name).await.map_err(|error| error.to_string())?;
            Ok(found.is_none_or(|found| found.metadata.deletion_timestamp.is_none()).then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn ready(platform: &Namespace, bank: &Namespace, say: impl Fn(&str)) -> Result<()> {
    platform.ready::<EventMesh>("core").await?;
    say("EventMesh bank-platform/core: Ready");
    all_ready::<Topic>(bank, &["credit", "accounts", "accounts-dead"]).await?;
    all_ready::<Subscription>(bank, &["ledger", "notifications"]).await?;
    bank.ready::<Bridge>("crm").await?;
    say("Topics, Subscriptions and the Bridge: Ready");
    rolled_out(bank).await?;
    say("accounts-api, credit-check, ledger and notifications: each pod is ready, with a sidecar beside it");
    Ok(())
}

/// Waits until every pod that is wanted is there and ready.
async fn rolled_out(bank: &Namespace) -> Result<()> {
    for name in ["accounts-api", "credit-check"] {
        let all_there = |deployment: &Deployment| {
            let (spec, status) = (deployment.spec.as_ref()?, deployment.status.as_ref()?);
            let current = status.observed_generation == deployment.metadata.generation;
            (current && status.available_replicas == spec.replicas && status.updated_replicas == spec.replicas)
                .then_some(())
        };
        bank.until(name, "a Deployment whose pods are ready", all_there).await?;
    }
    for name in ["ledger", "notifications"] {
        let all_there = |set: &StatefulSet| {
            let (spec, status) = (set.spec.as_ref()?, set.status.as_ref()?);
            let current = status.observed_generation == set.metadata.generation;
            (current && status.ready_replicas == spec.replicas && status.updated_replicas == spec.replicas)
                .then_some(())
        };
        bank.until(name, "a StatefulSet whose pods are ready", all_there).await?;
    }
    Ok(())
}

async fn reached(opened: &Opened, accounts: usize) -> Result<()> {
    let mut opened = opened.subscribe();
    let reached = tokio::time::timeout(LIMIT, opened.wait_for(|all| all.len() >= accounts)).await;
    reached.with_context(|| format!("{accounts} accounts could not be opened in {} s", LIMIT.as_secs()))??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn what_one_has_more_does_not_make_up_for_what_another_has_not() {
        let outcome = Outcome { opened: 5, ledger: 4, notifications: 5, crm: 2, repeated: 1 };
        assert_eq!(outcome.to_string(), "opened 5, ledger 4/5, notifications 5/5, crm 2/5, lost 4");
    }
}
