//! The event mesh beside an application: a webhook adds the sidecar to pods that ask for it.
//!
//! Every replica answers, from memory. What it names in a pod (a Secret) belongs to the identity controller and may come
//! after the pod, so a pod never waits for the operator. `docs/injection.md` is the user's side.

pub mod certificate;
pub mod decide;
mod keeper;
pub mod patch;
mod refusals;
pub mod serve;
mod tls;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, runtime::watcher};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{admin::Admin, cache::feed, metrics::Metrics, settings::Settings};

pub use keeper::Keeper;

/// Label of pods and namespaces: `"true"` asks for the sidecar; on a pod, `"false"` declines what its namespace asks for.
pub const INJECT: &str = "eventmesh.dev/inject";
/// Annotation of pods: what has become of the request.
pub const INJECTION: &str = "eventmesh.dev/injection";
/// Value of [`INJECTION`] on pods that have the sidecar.
pub const INJECTED: &str = "injected";
/// Name of the container.
pub const CONTAINER: &str = "eventmesh-sidecar";
/// Name of the volume with the binding.
pub const VOLUME: &str = "eventmesh-binding";

/// Where the sidecar speaks NATS, at `127.0.0.1`.
pub const NATS_PORT: i32 = 4222;
/// Where it speaks HTTP, at `127.0.0.1`.
pub const HTTP_PORT: i32 = 4380;
/// Where it tells of its health, at every address of the pod.
pub const ADMIN_PORT: i32 = 4381;

/// Between the end of readiness and that of the port: time for the API servers to hear of it.
const LINGER: Duration = Duration::from_secs(5);
/// Tries of a replica to make the first certificate.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The names by which API servers reach the webhook: that of its Service, and those of the settings.
#[must_use]
pub fn names(settings: &Settings) -> BTreeSet<String> {
    let service = format!("{}.{}.svc", certificate::SECRET, settings.pod_namespace);
    [service].into_iter().chain(settings.webhook_names.iter().cloned()).collect()
}

/// Answers API servers until some time after the shutdown. Every replica runs this, whoever leads.
///
/// # Errors
/// When the address cannot be used.
pub async fn run(
    settings: Settings,
    client: Client,
    metrics: Arc<Metrics>,
    admin: Arc<Admin>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let address = settings.webhook_addr;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot serve on {address}"))?;
    let (injector, writers) = serve::Injector::new(&settings, client.clone(), metrics);
    let certificates = Arc::new(tls::Certificates::default());
    let server = tls::server_config(certificates.clone())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(feed::run(Api::all(client.clone()), watcher::Config::default(), Some(writers.meshes), |_| ()));
    tasks.spawn(feed::run_metadata::<Namespace>(
        Api::all(client.clone()),
        watcher::Config::default(),
        Some(writers.namespaces),
        |_| (),
    ));
    let taking_up = certificates.clone();
    tasks.spawn(feed::run::<Secret>(
        Api::namespaced(client.clone(), &settings.pod_namespace),
        watcher::Config::default().fields(&format!("metadata.name={}", certificate::SECRET)),
        None,
        move |observed| {
            if let feed::Observed::Applied(secret) = observed {
                taking_up.take_up(secret);
            }
        },
    ));
    tasks.spawn(first_certificate(Keeper::new(client.clone(), &settings.pod_namespace, names(&settings))));
    tasks.spawn(writers.refusals.publish(client, settings.pod_name.clone()));
    let injector = Arc::new(injector);
    let ready = async {
        tokio::join!(injector.ready(), certificates.ready());
        admin.webhook.store(true, Ordering::Relaxed);
        info!(%address, "pods can be injected");
        std::future::pending::<()>().await;
    };
    let closing = CancellationToken::new();
    let serving = serve::serve(listener, server, injector.clone(), closing.clone());
    let ending = async {
        shutdown.cancelled().await;
        admin.webhook.store(false, Ordering::Relaxed);
        tokio::time::sleep(LINGER).await;
        closing.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serving => {}
        () = ready => {}
        () = ending => {}
    }
    Ok(())
}

async fn first_certificate(keeper: Keeper) {
    while let Err(error) = keeper.first().await {
        warn!(%error, "the first certificate of the webhook could not be made; it is tried again");
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
