//! The outside by HTTP: a client that sends events until they are taken, and a server that collects them and can be told
//! to misbehave.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{child::free_port, process::certificates::Identity, tls};

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A client with keep-alive connections, as many as requests are on their way.
#[derive(Clone)]
pub struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    headers: Vec<(String, String)>,
}

impl Sender {
    /// `url` is what paths are appended to; `headers` go with every request.
    pub fn new(url: &str, headers: &[(&str, &str)]) -> Result<Self> {
        Ok(Self::with(url, headers, tls::trusting("")?))
    }

    /// Over TLS, trusting these authorities, with a certificate of its own or without.
    pub fn trusting(url: &str, authorities: &str, identity: Option<&Identity>) -> Result<Self> {
        let Some(identity) = identity else { return Ok(Self::with(url, &[], tls::trusting(authorities)?)) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            roots.add(certificate?)?;
        }
        let (chain, key) = pair(identity)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self::with(url, &[], config))
    }

    fn with(url: &str, headers: &[(&str, &str)], config: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { client, url: url.to_owned(), headers }
    }

    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            request = request.header(name, value);
        }
        let answer = self.client.request(request.body(Full::from(body.to_vec()))?).await?;
        let (head, body) = answer.into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers, body })
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        self.request("POST", path, headers, body).await
    }

    /// Posts a CloudEvent in binary mode until it is taken, whatever comes between: as a sender does that must not lose it.
    pub async fn post_surely(&self, path: &str, id: &str, payload: &str) {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/tests"),
            ("ce-type", "test"),
            ("content-type", "application/json"),
        ];
        loop {
            if self.post(path, &headers, payload.as_bytes()).await.is_ok_and(|answer| answer.status == 202) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Posts many events over this many connections; `event` gives id and payload of a number, and `taken` hears of each.
    pub async fn produce(
        &self,
        path: &str,
        events: std::ops::Range<u32>,
        connections: usize,
        event: impl Fn(u32) -> (String, String),
        taken: impl Fn(u32),
    ) {
        let posts = futures::stream::iter(events).map(|number| {
            let (id, payload) = event(number);
            async move {
                self.post_surely(path, &id, &payload).await;
                number
            }
        });
        let mut posts = std::pin::pin!(posts.buffer_unordered(connections));
        while let Some(number) = posts.next().await {
            taken(number);
        }
    }
}

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

impl Received {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What a collector does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    Status(u16),
    With {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// It has the request, and closes the connection.
    Close,
    /// It has the request, and never answers.
    Hang,
    /// It answers after this time.
    Late(Duration),
}

type Judge = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A server that collects what it is sent. Its port is none that the kernel gives to connections, since it must be free when the
/// server starts again.
pub struct Collector {
    pub port: u16,
    received: Arc<watch::Sender<Vec<Received>>>,
    judge: Arc<Mutex<Judge>>,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    task: Option<JoinHandle<Option<()>>>,
}

impl Collector {
    /// Answers everything with 202.
    pub async fn start() -> Result<Self> {
        Self::listen(free_port()?, None).await
    }

    /// As [`Collector::start`], at this port.
    pub async fn at(port: u16) -> Result<Self> {
        Self::listen(port, None).await
    }

    /// Over TLS; with `clients`, only to those who show a certificate of this authority.
    pub async fn secure(identity: &Identity, clients: Option<&str>) -> Result<Self> {
        Self::listen(free_port()?, Some(acceptor(identity, clients)?)).await
    }

    async fn listen(port: u16, tls: Option<TlsAcceptor>) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let judge: Judge = Arc::new(|_| Reply::Status(202));
        let mut this = Self {
            port: listener.local_addr()?.port(),
            received: Arc::new(watch::Sender::new(Vec::new())),
            judge: Arc::new(Mutex::new(judge)),
            tls,
            stop: CancellationToken::new(),
            task: None,
        };
        this.serve(listener);
        Ok(this)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (received, judge) = (Arc::clone(&self.received), Arc::clone(&self.judge));
        let (tls, stop) = (self.tls.clone(), self.stop.clone());
        self.task = Some(tokio::spawn(stop.run_until_cancelled_owned(async move {
            // Connections end with the listener.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (received, judge, tls) = (Arc::clone(&received), Arc::clone(&judge), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => connection(socket, received, judge).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(socket).await {
                                connection(stream, received, judge).await;
                            }
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        })));
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls.is_some() { "https" } else { "http" }, self.port)
    }

    /// From now on requests are answered so; each is collected before.
    pub fn answer(&self, judge: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.judge.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(judge);
    }

    /// Nobody listens any more, and all connections end.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }

    /// After [`Collector::stop`]: at the same port, with what was collected; `identity` replaces its certificate.
    pub async fn start_again(&mut self, identity: Option<&Identity>) -> Result<()> {
        self.stop = CancellationToken::new();
        if let Some(identity) = identity {
            self.tls = Some(acceptor(identity, None)?);
        }
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], self.port))).await?;
        self.serve(listener);
        Ok(())
    }

    /// Everything that came in so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received.borrow().clone()
    }

    /// Waits until what came in is as wanted.
    pub async fn until(&self, limit: Duration, wanted: impl Fn(&[Received]) -> bool) -> Result<Vec<Received>> {
        let mut received = self.received.subscribe();
        let found = tokio::time::timeout(limit, received.wait_for(|all| wanted(all))).await;
        let found = found
            .with_context(|| format!("{} requests came, and not what was waited for", self.received.borrow().len()))?;
        Ok(found?.clone())
    }

    /// The bodies of requests, as they come.
    pub fn arrivals(&self) -> impl Stream<Item = Vec<u8>> + Send + use<> {
        let (mut received, (tell, told)) = (self.received.subscribe(), mpsc::unbounded_channel());
        tokio::spawn(async move {
            let mut seen = 0;
            while let Ok(all) = received.wait_for(|all| all.len() > seen).await {
                let new: Vec<Vec<u8>> = all[seen..].iter().map(|one| one.body.to_vec()).collect();
                drop(all);
                seen += new.len();
                if new.into_iter().any(|body| tell.send(body).is_err()) {
                    return;
                }
            }
        });
        futures::stream::unfold(told, async |mut told| Some((told.recv().await?, told)))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    received: Arc<watch::Sender<Vec<Received>>>,
    judge: Arc<Mutex<Judge>>,
) {
    let service = service_fn(|request| take(request, &received, &judge));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn take(
    request: Request<Incoming>,
    received: &watch::Sender<Vec<Received>>,
    judge: &Mutex<Judge>,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let request = Received { path: head.uri.path().to_owned(), headers, body };
    let judge = Arc::clone(&judge.lock().unwrap_or_else(PoisonError::into_inner));
    let reply = judge(&request);
    received.send_modify(|all| all.push(request));
    let (status, headers, body) = match reply {
        Reply::Status(status) => (status, Vec::new(), String::new()),
        Reply::With { status, headers, body } => (status, headers, body),
        Reply::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
        Reply::Hang => std::future::pending().await,
        Reply::Late(wait) => {
            tokio::time::sleep(wait).await;
            (202, Vec::new(), String::new())
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Full::from(body)).map_err(io::Error::other)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn pair(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?))
}

fn acceptor(identity: &Identity, clients: Option<&str>) -> Result<TlsAcceptor> {
    let (chain, key) = pair(identity)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
                roots.add(certificate?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    Ok(TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key)?)))
}
