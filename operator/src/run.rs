//! Start and end of the operator: client, health, lease, watches, controllers, shutdown.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client,
    runtime::{
        events::{Recorder, Reporter},
        watcher,
    },
};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::{signal::unix::SignalKind, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admin::{self, Admin},
    bridge::BridgeController,
    broker::Brokers,
    cache::{Cache, Writers, feed},
    dead_letters,
    engine::{self, Context},
    identity::{self, IdentityController, Keyring},
    injection,
    labels::{COMPONENT, CREDENTIALS, MANAGED_BY, MANAGED_BY_VALUE},
    mesh::MeshController,
    metrics::Metrics,
    settings::Settings,
    subscription::SubscriptionController,
    topic::TopicController,
    wake::{self, Queues, Rules},
};

const LEASE: &str = "eventmesh-operator";
/// Time that passes under way get to finish after a SIGTERM.
const DRAIN: Duration = Duration::from_secs(15);

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let metrics = Arc::new(Metrics::default());
    let admin =
        Arc::new(Admin { metrics: metrics.clone(), ready: AtomicBool::new(false), webhook: AtomicBool::new(false) });
    let admin_task = tokio::spawn(admin::serve(settings.admin_addr, admin.clone(), shutdown.child_token()));
    let client = Client::try_default().await.context("no access to a Kubernetes cluster is configured")?;
    let version = client.apiserver_version().await.context("the Kubernetes API does not answer")?;
    info!(version = %version.git_version, "connected to the Kubernetes API");
    admin.ready.store(true, Ordering::Relaxed);

    let signal = signalled(shutdown.clone())?;
    // Every replica answers API servers, and goes on for a moment after the lease is given back.
    let webhook = tokio::spawn(injection::run(
        settings.clone(),
        client.clone(),
        metrics.clone(),
        admin.clone(),
        shutdown.child_token(),
    ));
    let mut leading = pin!(lead(&settings, client, metrics, shutdown.clone()));
    // Both servers end well only at a shutdown, and then the lease has still to be given back.
    let admin_ends = async { admin_task.await?.with_context(|| format!("cannot serve on {}", settings.admin_addr)) };
    let mut servers = pin!(async { tokio::try_join!(admin_ends, async { webhook.await? }) });
    let result = tokio::select! {
        result = &mut leading => {
            shutdown.cancel();
            servers.await?;
            result
        }
        served = &mut servers => {
            served?;
            leading.await
        }
    };
    shutdown.cancel();
    signal.abort();
    result
}

fn signalled(shutdown: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("shutting down");
        shutdown.cancel();
    }))
}

/// Runs the controllers while holding the lease, and gives it back at the end.
async fn lead(
    settings: &Settings,
    client: Client,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if !settings.leader_election {
        metrics.leading(true);
        return controllers(settings, client, metrics, shutdown).await;
    }
    let manager = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(&settings.pod_namespace)
        .with_identity(&settings.pod_name)
        .with_duration(15)
        .with_grace(5)
        .build()
        .await
        .context("cannot use the Lease; check the operator's Role in its own namespace")?;
    let (mut leading, manager_task) = manager.watch().await;
    info!(identity = %settings.pod_name, "waiting for the lease");
    loop {
        if *leading.borrow_and_update() {
            break;
        }
        tokio::select! {
            changed = leading.changed() => changed.context("the lease manager ended")?,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
    info!("leading");
    metrics.leading(true);
    let result = tokio::select! {
        result = controllers(settings, client, metrics.clone(), shutdown.clone()) => result,
        _ = leading.changed() => {
            // Somebody else may lead already: stop at once, without finishing what is under way.
            bail!("the lease was lost; ending so that a fresh process can take part again")
        }
    };
    drop(leading);
    match manager_task.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(%error, "could not give back the lease; it expires by itself"),
        Err(error) => warn!(%error, "the lease manager panicked"),
    }
    metrics.leading(false);
    result
}

async fn controllers(
    settings: &Settings,
    client: Client,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (cache, writers) = Cache::new();
    let cache = Arc::new(cache);
    let (wakers, queues) = wake::queues();
    let brokers = Arc::new(Brokers::new(shutdown.child_token()));
    let (rules, counts) = Rules::new(cache.clone(), brokers.clone(), wakers);
    let broker_events = brokers.subscribe();
    let more_broker_events = brokers.subscribe();
    let reporter = Reporter { controller: "eventmesh-operator".into(), instance: Some(settings.pod_name.clone()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
        cache: cache.clone(),
        brokers,
        keyring: Keyring::default(),
        identities: identity::Reports::default(),
        dead_letters: dead_letters::Ledger::default(),
        metrics,
        images: settings.images.clone(),
        broker_address: settings.broker_address.clone(),
    });

    let mut watches = watches(&client, writers, &rules);
    watches.spawn(rules.clone().follow_counts(counts));
    watches.spawn(rules.follow_brokers(broker_events));
    tokio::select! {
        ready = cache.ready() => if !ready { bail!("a watch ended before its first listing") },
        () = shutdown.cancelled() => return Ok(()),
    }
    info!(
        meshes = cache.meshes.len(),
        topics = cache.topics.len(),
        subscriptions = cache.subscriptions.len(),
        bridges = cache.bridges.len(),
        "caches are filled"
    );

    watches.spawn(identity::sweep(context.clone()));
    watches.spawn(dead_letters::follow_brokers(context.clone(), more_broker_events));
    watches.spawn(dead_letters::tell(context.clone()));
    watches.spawn(injection::Keeper::new(client, &settings.pod_namespace, injection::names(settings)).run());
    let tasks = start(&context, queues, &shutdown);
    tokio::select! {
        () = tasks.wait() => {}
        ended = watches.join_next() => bail!("a watch ended: {ended:?}"),
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => warn!("passes were cut off"),
    }
    Ok(())
}

fn start(context: &Arc<Context>, queues: Queues, shutdown: &CancellationToken) -> TaskTracker {
    let tasks = TaskTracker::new();
    let cache = &context.cache;
    tasks.spawn(engine::run(
        MeshController::new(context.clone()),
        context.clone(),
        cache.meshes.clone(),
        queues.meshes,
        shutdown.clone(),
    ));
    tasks.spawn(engine::run(
        TopicController::new(context.clone()),
        context.clone(),
        cache.topics.clone(),
        queues.topics,
        shutdown.clone(),
    ));
    tasks.spawn(engine::run(
        SubscriptionController::new(context.clone()),
        context.clone(),
        cache.subscriptions.clone(),
        queues.subscriptions,
        shutdown.clone(),
    ));
    tasks.spawn(engine::run(
        BridgeController::new(context.clone()),
        context.clone(),
        cache.bridges.clone(),
        queues.bridges,
        shutdown.clone(),
    ));
    tasks.spawn(engine::run(
        IdentityController::new(context.clone()),
        context.clone(),
        cache.meshes.clone(),
        queues.identities,
        shutdown.clone(),
    ));
    tasks.close();
    tasks
}

/// Starts all watches. Kinds that a pass reads have a store; of the others only the news counts.
fn watches(client: &Client, writers: Writers, rules: &Rules) -> JoinSet<()> {
    let everything = watcher::Config::default;
    let children = || watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGED_BY_VALUE}"));
    let mut set = JoinSet::new();
    let all = || client.clone();
    set.spawn(feed::run(Api::all(all()), everything(), Some(writers.meshes), rules.clone().meshes()));
    set.spawn(feed::run(Api::all(all()), everything(), Some(writers.topics), rules.clone().topics()));
    set.spawn(feed::run(Api::all(all()), everything(), Some(writers.subscriptions), rules.clone().subscriptions()));
    set.spawn(feed::run(Api::all(all()), everything(), Some(writers.bridges), rules.clone().bridges()));
    set.spawn(feed::run::<StatefulSet>(
        Api::all(all()),
        children(),
        Some(writers.stateful_sets),
        rules.clone().children(),
    ));
    set.spawn(feed::run::<Deployment>(
        Api::all(all()),
        children(),
        Some(writers.deployments),
        rules.clone().children(),
    ));
    set.spawn(feed::run::<Pod>(Api::all(all()), children(), Some(writers.pods), rules.clone().children()));
    set.spawn(feed::run_metadata::<Namespace>(
        Api::all(all()),
        everything(),
        Some(writers.namespaces),
        rules.clone().namespaces(),
    ));
    set.spawn(feed::run_metadata::<Secret>(Api::all(all()), everything(), None, rules.clone().secrets()));
    set.spawn(feed::run_metadata::<ConfigMap>(Api::all(all()), children(), None, rules.clone().children()));
    set.spawn(feed::run::<Service>(Api::all(all()), children(), Some(writers.services), rules.clone().children()));
    set.spawn(feed::run_metadata::<ServiceAccount>(
        Api::all(all()),
        everything(),
        Some(writers.service_accounts),
        rules.clone().service_accounts(),
    ));
    set.spawn(feed::run_metadata::<Secret>(
        Api::all(all()),
        watcher::Config::default().labels(&format!("{COMPONENT}={CREDENTIALS}")),
        Some(writers.credentials),
        rules.clone().credentials(),
    ));
    set.spawn(feed::run_metadata::<NetworkPolicy>(Api::all(all()), children(), None, rules.clone().children()));
    set.spawn(feed::run_metadata::<PodDisruptionBudget>(Api::all(all()), children(), None, rules.clone().children()));
    set
}
