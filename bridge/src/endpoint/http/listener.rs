//! The port on which events come in: accepts connections, and ends them without losing an answer.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use eventmesh_wire::config::http::HttpListen;
use eventmesh_wire::config::{BridgeConfig, EndpointConfig, HttpEndpoint};
use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::Guard;
use super::rate::Bucket;
use super::request;
use crate::backoff::Backoff;
use crate::endpoint::{Endpoint, LinkState, Setup, Standing};
use crate::event::{Delivery, Sink};
use crate::mesh::Mesh;
use crate::route::inbound::Inbound;
use crate::tls;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// How long a connection may take over the head of a request, and so be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for the head of a request; bodies are read through the same buffer.
const BUFFER: usize = 64 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to send their last answer when the endpoint stops.
const GOODBYE: Duration = Duration::from_secs(3);
/// Bytes of bodies in memory at once. A pod has 256 MiB where the user says nothing else.
const BODIES: usize = 32 * 1024 * 1024;

/// What a configuration says, ready to be used. Requests that came before a change are judged by what was true then.
pub(super) struct Settings {
    pub config: HttpListen,
    pub guard: Guard,
    pub rate: Option<Arc<Bucket>>,
    tls: Option<TlsAcceptor>,
}

impl Settings {
    fn new(config: &HttpListen, before: Option<&Self>) -> anyhow::Result<Self> {
        let kept =
            before.and_then(|before| before.rate.as_ref()).filter(|bucket| Some(bucket.limit) == config.rate_limit);
        let rate = kept.cloned().or_else(|| Some(Arc::new(Bucket::new(config.rate_limit?, Instant::now()))));
        let acceptor = config
            .tls
            .as_ref()
            .map(|tls| tls::server_config(&tls.cert_pem, tls.key_pem.expose(), tls.client_ca_pem.as_deref()))
            .transpose()?
            .map(|config| TlsAcceptor::from(Arc::new(config)));
        Ok(Self { config: config.clone(), guard: Guard::new(&config.authentication), rate, tls: acceptor })
    }
}

/// What the tasks of a listener share.
pub(super) struct Shared {
    pub settings: watch::Sender<Arc<Settings>>,
    pub routes: watch::Sender<Arc<Vec<Arc<Inbound>>>>,
    pub bridge: BridgeConfig,
    pub mesh: Mesh,
    /// Room for events that are on their way.
    pub window: Arc<Semaphore>,
    /// Room for bodies, in KiB.
    pub bodies: Arc<Semaphore>,
    pub drain: CancellationToken,
    pub stop: CancellationToken,
    standing: Standing,
    tasks: TaskTracker,
}

/// A running listener.
pub struct Listener(Arc<Shared>);

impl Listener {
    /// # Errors
    /// Certificates that can not be used.
    pub fn start(config: &HttpListen, setup: Setup) -> anyhow::Result<Self> {
        let bodies = BODIES.max(2 * config.max_body_bytes as usize) / 1024;
        let shared = Arc::new(Shared {
            settings: watch::Sender::new(Arc::new(Settings::new(config, None)?)),
            routes: watch::Sender::new(Arc::new(setup.inbound)),
            window: Arc::new(Semaphore::new(setup.config.delivery.max_in_flight as usize)),
            bodies: Arc::new(Semaphore::new(bodies)),
            bridge: setup.config,
            mesh: setup.mesh,
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            standing: Standing::new("the HTTP listener"),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(run(Arc::clone(&shared)));
        Ok(Self(shared))
    }
}

impl Endpoint for Listener {
    fn state(&self) -> watch::Receiver<LinkState> {
        self.0.standing.watch()
    }

    fn set_routes(&self, inbound: Vec<Arc<Inbound>>) {
        self.0.routes.send_replace(Arc::new(inbound));
    }

    /// Everything but the port, and the largest body, by which memory was set aside.
    fn can_adopt(&self, next: &EndpointConfig) -> bool {
        let EndpointConfig::Http(HttpEndpoint::Listen(next)) = next else { return false };
        let now = &self.0.settings.borrow().config;
        now.port == next.port && now.max_body_bytes == next.max_body_bytes
    }

    fn adopt(&self, next: &EndpointConfig) -> anyhow::Result<()> {
        let EndpointConfig::Http(HttpEndpoint::Listen(next)) = next else { return Ok(()) };
        let before = Arc::clone(&self.0.settings.borrow());
        self.0.settings.send_replace(Arc::new(Settings::new(next, Some(&before))?));
        Ok(())
    }

    fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(NoTarget)
    }

    fn drain(&self) {
        self.0.drain.cancel();
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.0.stop.cancel();
            self.0.tasks.close();
            let _ = timeout(2 * GOODBYE, self.0.tasks.wait()).await;
            self.0.standing.ended();
        })
    }
}

/// A listener has no outbound routes; `validate` refuses them.
struct NoTarget;

impl Sink for NoTarget {
    fn send(&self, delivery: Delivery) {
        drop(delivery);
    }
}

async fn run(shared: Arc<Shared>) {
    let port = shared.settings.borrow().config.port;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match bind(port).await {
            Ok(listener) => {
                shared.standing.up();
                tokio::select! {
                    () = accept(&shared, &listener, &connections) => {},
                    () = shared.stop.cancelled() => return,
                }
            }
            Err(error) => shared.standing.down(&format!("can not listen on port {port}: {error}"), false),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {},
            () = shared.stop.cancelled() => return,
        }
    }
}

/// All addresses of the pod, of both families where the node has both.
async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
    }
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener, connections: &Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => drop(shared.tasks.spawn(connection(Arc::clone(shared), socket, place))),
            // Of one connection, or no file descriptor is left: others end, and then there is one.
            Err(error) => {
                tracing::warn!(%error, "can not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, socket: TcpStream, _place: OwnedSemaphorePermit) {
    let _ = socket.set_nodelay(true);
    let acceptor = shared.settings.borrow().tls.clone();
    let Some(acceptor) = acceptor else { return serve(shared, socket).await };
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => serve(shared, stream).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let own = Arc::clone(&shared);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&own);
        async move { Ok::<_, Infallible>(request::answer(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
