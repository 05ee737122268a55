//! Connections to the application: HTTP/1.1 on the loopback, each driven by the event that uses it.
//!
//! hyper speaks the protocol. Its pool gives a connection a task of its own, and a request two more, which costs more than all the
//! rest of a request here (docs/adr/0046).

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::endpoint::http::exchange::{self, Trouble};

/// How long a connection may take to come about. It goes to the same pod.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Shorter than any server's that is in use: some wait for no more than 2 s, and a connection inside the pod costs next to nothing.
const IDLE: Duration = Duration::from_millis(1500);

type Payload = Full<Bytes>;

/// A connection.
struct Line {
    sender: SendRequest<Payload>,
    /// Nothing when it has ended.
    connection: Option<Connection<TokioIo<TcpStream>, Payload>>,
}

struct Idle {
    line: Box<Line>,
    since: Instant,
}

/// An answer, and the connection that it comes by.
pub(super) struct Answer {
    pub response: Response<Incoming>,
    line: Box<Line>,
}

/// The connections to one port.
pub(super) struct Connections {
    address: SocketAddr,
    /// As problems call the other side.
    name: String,
    /// The one that was used last is the last.
    idle: Mutex<Vec<Idle>>,
}

impl Connections {
    pub fn new(port: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { address, name: format!("http://{address}"), idle: Mutex::default() }
    }

    /// As problems call the other side.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(&self, mut request: Request<Payload>) -> Result<Answer, Trouble> {
        // A connection that the other side has closed meanwhile is no reason to give up.
        while let Some(mut line) = self.take() {
            match line.send(request).await {
                Ok(response) => return Ok(Answer { response, line }),
                Err(Failure::NotSent(back)) => request = *back,
                Err(Failure::Broken(error)) => return Err(self.broken(&error)),
            }
        }
        let mut line = self.connect().await?;
        // Its first step, after which it takes a request.
        line.is_free().await;
        match line.send(request).await {
            Ok(response) => Ok(Answer { response, line }),
            Err(Failure::NotSent(_)) => {
                let message = format!("can not connect to {}: the connection was closed at once", self.name);
                Err(Trouble { message, refused: false, before_the_request: true })
            }
            Err(Failure::Broken(error)) => Err(self.broken(&error)),
        }
    }

    /// Works on what is left of an answer; the connection is kept where it can take another request.
    pub async fn finish<T>(&self, answer: Answer, work: impl AsyncFnOnce(Response<Incoming>) -> T) -> T {
        let Answer { response, mut line } = answer;
        let done =
            if response.body().is_end_stream() { work(response).await } else { line.drive(work(response)).await };
        if line.is_free().await {
            self.lock().push(Idle { line, since: Instant::now() });
        }
        done
    }

    /// Closes those that nobody has used for long; tells whether others are left.
    pub fn sweep(&self) -> bool {
        let mut idle = self.lock();
        let now = Instant::now();
        let old = idle.partition_point(|idle| now.duration_since(idle.since) >= IDLE);
        idle.drain(..old);
        !idle.is_empty()
    }

    fn take(&self) -> Option<Box<Line>> {
        self.lock().pop().filter(|idle| idle.since.elapsed() < IDLE).map(|idle| idle.line)
    }

    async fn connect(&self) -> Result<Box<Line>, Trouble> {
        let connecting = async {
            let socket = TcpStream::connect(self.address).await.map_err(|error| self.unreached(&error))?;
            socket.set_nodelay(true).map_err(|error| self.unreached(&error))?;
            let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(|error| self.unreached(&error))?;
            Ok(Box::new(Line { sender, connection: Some(connection) }))
        };
        timeout(CONNECT_TIMEOUT, connecting).await.map_err(|late| self.unreached(&late))?
    }

    fn unreached(&self, error: &(dyn std::error::Error + 'static)) -> Trouble {
        exchange::trouble(&self.name, error, true)
    }

    fn broken(&self, error: &hyper::Error) -> Trouble {
        exchange::trouble(&self.name, error, false)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Failure {
    /// No part of the request has left.
    NotSent(Box<Request<Payload>>),
    Broken(hyper::Error),
}

impl Line {
    async fn send(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, Failure> {
        let answer = self.sender.try_send_request(request);
        self.drive(answer).await.map_err(|mut error| match error.take_message() {
            Some(request) => Failure::NotSent(Box::new(request)),
            None => Failure::Broken(error.into_error()),
        })
    }

    /// Waits for this while the connection goes on.
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.go_on(context);
            future.as_mut().poll(context)
        })
        .await
    }

    /// Whether it takes a request. A step of it is not for nothing, so none is made where it is known.
    async fn is_free(&mut self) -> bool {
        if !self.sender.is_ready() {
            self.drive(std::future::ready(())).await;
        }
        self.connection.is_some() && self.sender.is_ready()
    }

    fn go_on(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.poll_unpin(context).is_ready()
        {
            self.connection = None;
        }
    }
}
