//! A Kafka cluster as endpoint: a member of a consumer group reads, an idempotent producer writes.
//!
//! The client finds brokers again by itself. The link asks the cluster every few seconds, so that it can tell how it stands, and
//! makes a new client where one can not go on.

mod client;
mod group;
mod headers;
mod lane;
mod ledger;
mod source;
mod target;

use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::{Guarantee, KafkaEndpoint};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use krafka::Kafka;
use krafka::admin::DescribeClusterOptions;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::client::Trouble;
use self::source::{Settings, Source};
use self::target::Outlet;
use super::{Endpoint, LinkState, Setup, Standing};
use crate::backoff::Backoff;
use crate::event::Sink;
use crate::mesh::Mesh;
use crate::route::dispatch::{Dispatch, Dispatcher};
use crate::route::inbound::Inbound;

/// Between two questions to the cluster, and how long it may take to answer one.
const ASK_EVERY: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long leaving the group and the last batches may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// A running link to a Kafka cluster.
pub struct Link {
    shared: Arc<Shared>,
    dispatcher: Arc<Dispatcher>,
    task: JoinHandle<()>,
}

struct Shared {
    endpoint: KafkaEndpoint,
    client_id: String,
    guarantee: Guarantee,
    window: usize,
    mesh: Mesh,
    standing: Standing,
    outlet: Arc<Outlet>,
    routes: watch::Sender<Vec<Arc<Inbound>>>,
    drained: CancellationToken,
    stop: CancellationToken,
}

impl Link {
    #[must_use]
    pub fn start(endpoint: KafkaEndpoint, setup: Setup) -> Self {
        let Setup { config, mesh, inbound, targets } = setup;
        let outlet = Arc::new(Outlet::new(config.delivery.clone()));
        let shared = Arc::new(Shared {
            endpoint,
            client_id: format!("eventmesh-{}-{}", config.bridge.namespace, config.bridge.name),
            guarantee: config.delivery.guarantee,
            window: config.delivery.max_in_flight as usize,
            mesh: mesh.clone(),
            standing: Standing::new("Kafka"),
            outlet: Arc::clone(&outlet),
            routes: watch::channel(inbound).0,
            drained: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let endpoint = shared.standing.watch();
        let dispatcher = Dispatcher::start(outlet, Dispatch { delivery: config.delivery, mesh, targets, endpoint });
        let task = tokio::spawn(run(Arc::clone(&shared)));
        Self { shared, dispatcher, task }
    }
}

impl Endpoint for Link {
    fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.standing.watch()
    }

    fn set_routes(&self, inbound: Vec<Arc<Inbound>>) {
        self.shared.routes.send_replace(inbound);
    }

    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.dispatcher) as Arc<dyn Sink>
    }

    fn drain(&self) {
        self.shared.drained.cancel();
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            self.shared.stop.cancel();
            let mut task = self.task;
            if tokio::time::timeout(GOODBYE, &mut task).await.is_err() {
                task.abort();
            }
            self.shared.outlet.close().await;
            self.dispatcher.stop();
        }
        .boxed()
    }
}

/// Makes a client again and again until it is told to stop.
async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    while !shared.stop.is_cancelled() {
        let Err(trouble) = serve(&shared, &mut backoff).await else { continue };
        shared.standing.down(&trouble.message, trouble.refused);
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {},
            () = shared.stop.cancelled() => {},
        }
    }
    shared.standing.ended();
}

/// One client, from its first connection until it can not go on.
async fn serve(shared: &Shared, backoff: &mut Backoff) -> Result<(), Trouble> {
    let explain = |error| client::explain(&error, &shared.endpoint);
    let connected = async {
        let kafka = client::connect(&shared.endpoint, &shared.client_id).await.map_err(explain)?;
        let cluster = ask(&kafka).await.map_err(explain)?;
        let settings = Settings {
            endpoint: shared.endpoint.clone(),
            cluster,
            guarantee: shared.guarantee,
            window: shared.window,
            mesh: shared.mesh.clone(),
            routes: shared.routes.subscribe(),
            drained: shared.drained.clone(),
            stop: shared.stop.clone(),
        };
        let source = Source::new(&kafka, settings).await.map_err(explain)?;
        Ok((kafka, source))
    };
    let (kafka, source) = tokio::select! {
        connected = connected => connected?,
        () = shared.stop.cancelled() => return Ok(()),
    };
    let writer = shared.outlet.open(&shared.endpoint, &shared.client_id);
    shared.standing.up();
    backoff.reset();
    let ended = tokio::select! {
        ended = source.run() => ended.map_err(explain),
        () = watch_over(shared, &kafka) => Ok(()),
        () = writer.broken.cancelled() => Err(Trouble {
            message: "the Kafka client can not go on writing; the bridge connects anew".to_owned(),
            refused: false,
        }),
    };
    if ended.is_err() {
        shared.outlet.close().await;
    }
    ended
}

/// Tells how the link stands, as the cluster's answers have it. Never ends.
async fn watch_over(shared: &Shared, kafka: &Kafka) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        match ask(kafka).await {
            Ok(_) if shared.standing.is_connected() => {}
            Ok(_) => shared.standing.up(),
            Err(error) => {
                let trouble = client::explain(&error, &shared.endpoint);
                shared.standing.down(&trouble.message, trouble.refused);
            }
        }
    }
}

/// The cluster's id: any broker knows it, and needs no right of the user to tell it.
async fn ask(kafka: &Kafka) -> krafka::Result<String> {
    let options = DescribeClusterOptions::default();
    let admin = kafka.admin();
    Ok(tokio::time::timeout(ANSWER_WITHIN, admin.describe_cluster(options)).await??.cluster_id)
}
