//! HTTP as far side: clients that post to a bridge, a server that takes what a bridge posts, and `hyper` alone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use eventmesh_wire::report::Direction;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Arrivals, Event, Far, Feed};
use crate::child::free_port;

/// Requests on their way at once, and connections: the `maxConcurrency` that a bridge has by default.
const REQUESTS: usize = 64;
const TOKEN: &str = "let-me-in";

/// Clients and a server.
pub struct Http {
    /// Where the bridge listens.
    port: u16,
    server: Server,
}

impl Http {
    pub fn start() -> Result<Self> {
        Ok(Self { port: free_port()?, server: Server::start()? })
    }

    /// Where the server takes what is posted.
    #[must_use]
    pub fn target_port(&self) -> u16 {
        self.server.port
    }
}

impl Far for Http {
    const WAITS: bool = false;
    const KEEPS: bool = false;

    fn endpoint(&self, direction: Direction) -> Value {
        match direction {
            Direction::Inbound => {
                let authentication = json!({"bearer": {"tokens": [TOKEN]}});
                json!({"http": {"listen": {"port": self.port, "authentication": authentication}}})
            }
            Direction::Outbound => {
                let url = format!("http://127.0.0.1:{}", self.server.port);
                json!({"http": {"target": {"url": url, "maxConcurrency": REQUESTS}}})
            }
        }
    }

    fn address(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Inbound => "/in/*",
            Direction::Outbound => "/out/{1}",
        }
    }

    async fn send(&self, direction: Direction, feed: &Feed<'_>) -> Result<()> {
        match direction {
            Direction::Inbound => load(self.port, feed).await,
            Direction::Outbound => post(self.server.port, feed).await,
        }
    }

    async fn receive(&self, direction: Direction, arrivals: &mut Arrivals<'_>) -> Result<()> {
        ensure!(direction == Direction::Outbound, "nothing waits to be fetched by HTTP");
        let mut bodies = self.server.bodies();
        while let Some(body) = bodies.recv().await {
            if arrivals.arrived(&body) {
                return Ok(());
            }
        }
        bail!("the server ended")
    }

    /// Inbound: a server that only answers, under the same load.
    async fn alone(&self, direction: Direction, events: u32) -> Result<f64> {
        let feed = Feed::all(events);
        match direction {
            Direction::Inbound => load(self.server.port, &feed).await?,
            Direction::Outbound => post(self.server.port, &feed).await?,
        }
        Ok(feed.rate())
    }
}

fn request(uri: String, event: Event) -> Result<Request<Full<Bytes>>> {
    let request = Request::post(uri)
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("ce-specversion", "1.0")
        .header("ce-id", event.number.to_string())
        .header("ce-source", "/bench")
        .header("ce-type", "bench")
        .header("content-type", "text/plain");
    Ok(request.body(Full::new(event.payload))?)
}

async fn taken(answer: Response<Incoming>) -> Result<()> {
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status == StatusCode::ACCEPTED, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

/// Posts over connections of its own, which costs less than a client with a pool: it is the server that is measured.
async fn load(port: u16, feed: &Feed<'_>) -> Result<()> {
    let connections = (0..REQUESTS).map(async |_| {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let (mut sender, connection) = client::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        while let Some(event) = feed.next().await {
            let mut request = request(format!("/in/{}", event.lane), event)?;
            request.headers_mut().insert("host", "127.0.0.1".parse()?);
            sender.ready().await?;
            taken(sender.send_request(request).await?).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(connections).await.map(drop)
}

/// Posts as the bridge does: with `hyper`'s client and its pool.
async fn post(port: u16, feed: &Feed<'_>) -> Result<()> {
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(REQUESTS).build_http();
    let posts = (0..REQUESTS).map(async |_| {
        while let Some(event) = feed.next().await {
            let uri = format!("http://127.0.0.1:{port}/out/{}", event.lane);
            taken(client.request(request(uri, event)?).await?).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(posts).await.map(drop)
}

type Listener = Arc<Mutex<Option<mpsc::UnboundedSender<Bytes>>>>;

/// A server that answers everything with 202, in a thread of its own.
struct Server {
    port: u16,
    /// Who wants to see the bodies.
    listener: Listener,
    stop: CancellationToken,
}

impl Server {
    fn start() -> Result<Self> {
        let socket = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        let (listener, stop) = (Listener::default(), CancellationToken::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let serving = stop.clone().run_until_cancelled_owned(serve(socket, Arc::clone(&listener)));
        std::thread::spawn(move || runtime.block_on(serving));
        Ok(Self { port, listener, stop })
    }

    /// Of requests from now on.
    fn bodies(&self) -> mpsc::UnboundedReceiver<Bytes> {
        let (tell, told) = mpsc::unbounded_channel();
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        told
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(socket: std::net::TcpListener, listener: Listener) -> Result<()> {
    let socket = TcpListener::from_std(socket)?;
    loop {
        let (connection, _) = socket.accept().await?;
        connection.set_nodelay(true)?;
        let listener = Arc::clone(&listener);
        let service = service_fn(move |request| take(request, Arc::clone(&listener)));
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}

async fn take(request: Request<Incoming>, listener: Listener) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
    if listener.as_ref().is_some_and(|listener| listener.send(body).is_err()) {
        *listener = None;
    }
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = StatusCode::ACCEPTED;
    Ok(answer)
}
