//! The HTTP port: publish and request for applications without a NATS library, health, and the description of all that. The
//! admin port for the kubelet is the same without what reaches the mesh.

mod answer;
mod openapi;
mod publish;
mod query;
mod request;
mod send;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventmesh_wire::config::sidecar::SidecarConfig;
use eventmesh_wire::subject::Pattern;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{ALLOW, EXPECT, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::numbers::{Numbers, Operation};
use super::pushes::Pushes;
use crate::endpoint::http::path;
use crate::endpoint::http::problem::Problem;
use crate::endpoint::http::request::discard;
use crate::mesh::Mesh;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// How long a connection may take over the head of a request, and so be idle.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Room for the head of a request; bodies are read through the same buffer.
const BUFFER: usize = 64 * 1024;
/// How long requests may take to be answered when the sidecar stops.
const GOODBYE: Duration = Duration::from_secs(4);
/// Bytes of bodies in memory at once, in KiB; one of the largest size always has room.
const BODIES: usize = 8 * 1024;

/// What is true now.
#[derive(Clone, Default)]
pub struct Situation {
    /// The connection that requests share; `None` before the first good binding.
    pub mesh: Option<Mesh>,
    pub sidecar: Option<Arc<SidecarConfig>>,
    /// Why there is no binding, or why the newest is not in use.
    pub problem: Option<String>,
}

impl Situation {
    /// # Errors
    /// What keeps the application from the mesh.
    pub fn ready(&self) -> Result<(), String> {
        let Some(mesh) = &self.mesh else {
            return Err(self.problem.clone().unwrap_or_else(|| "starting".to_owned()));
        };
        if mesh.is_connected() {
            return Ok(());
        }
        let why = mesh.last_error().map_or_else(|| "no broker has answered yet".to_owned(), |error| error.message);
        Err(format!("the mesh is not connected: {why}"))
    }
}

/// Who listens on a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    Application,
    Kubelet,
}

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Mesh(Operation),
    Live,
    Ready,
    Metrics,
    Description,
}

/// All paths. What ends with `/` is followed by a subject.
const ROUTES: [(Method, &str, Route); 7] = [
    (Method::POST, "/publish/", Route::Mesh(Operation::Publish)),
    (Method::POST, "/request/", Route::Mesh(Operation::Request)),
    (Method::GET, "/healthz", Route::Live),
    (Method::GET, "/livez", Route::Live),
    (Method::GET, "/readyz", Route::Ready),
    (Method::GET, "/metrics", Route::Metrics),
    (Method::GET, "/openapi.json", Route::Description),
];

/// What the tasks of the HTTP ports share.
#[derive(Clone)]
pub struct Port {
    pub situation: watch::Receiver<Situation>,
    pub numbers: Numbers,
    pub pushes: Pushes,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    /// Room for bodies, in KiB.
    bodies: Arc<Semaphore>,
}

impl Port {
    #[must_use]
    pub fn new(
        situation: watch::Receiver<Situation>,
        numbers: Numbers,
        pushes: Pushes,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self { situation, numbers, pushes, stop, tasks, bodies: Arc::new(Semaphore::new(BODIES)) }
    }

    /// The same, ended by something else, and waited for by nobody.
    #[must_use]
    pub fn until(self, stop: CancellationToken) -> Self {
        Self { stop, tasks: TaskTracker::new(), ..self }
    }
}

/// Accepts connections until the port is stopped.
pub async fn serve(port: Port, listener: TcpListener, surface: Surface) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = port.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, _)) => drop(port.tasks.spawn(connection(port.clone(), socket, surface, place))),
            Err(error) => {
                tracing::warn!(%error, "can not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(port: Port, socket: TcpStream, surface: Surface, _place: OwnedSemaphorePermit) {
    let _ = socket.set_nodelay(true);
    let own = port.clone();
    let service = service_fn(move |request| {
        let port = own.clone();
        async move { Ok::<_, Infallible>(respond(&port, surface, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = port.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn respond(port: &Port, surface: Surface, request: Request<Body>) -> Response<Full<Bytes>> {
    let (route, subject) = match find(surface, request.method(), request.uri().path()) {
        Ok(found) => found,
        Err(problem) => return problem.and_close().into_response(),
    };
    let situation = port.situation.borrow().clone();
    match route {
        Route::Live => answer::text(StatusCode::OK, "ok"),
        Route::Ready => match situation.ready() {
            Ok(()) => answer::text(StatusCode::OK, "ok"),
            Err(why) => answer::text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        Route::Metrics => answer::metrics(&port.numbers.render(situation.ready().is_ok()), &port.pushes.render()),
        Route::Description => answer::json(StatusCode::OK, openapi::DESCRIPTION),
        Route::Mesh(operation) => {
            let (head, mut body) = request.into_parts();
            let answer = async {
                // A page in a browser on the same machine is not the application; browsers say whose page asks.
                if head.headers.contains_key(ORIGIN) {
                    let detail = "requests of web pages are not taken: this is the port of the application";
                    return Err(Problem::new(StatusCode::FORBIDDEN, detail));
                }
                let subject =
                    Pattern::parse_concrete(&subject).map_err(|wrong| Problem::bad_request(wrong.to_string()))?;
                let call = send::Call { port, situation: &situation, head: &head, subject: subject.as_str() };
                match operation {
                    Operation::Publish => publish::answer(&call, &mut body).await,
                    Operation::Request => request::answer(&call, &mut body).await,
                }
            };
            let response = match answer.await {
                Ok(response) => response,
                Err(problem) => {
                    // Who waits for permission to send the body has not sent it.
                    if !head.headers.contains_key(EXPECT) {
                        discard(&mut body).await;
                    }
                    problem.into_response()
                }
            };
            port.numbers.answered(operation, response.status().as_u16());
            response
        }
    }
}

/// What a request is for, and the subject that it names.
fn find(surface: Surface, method: &Method, path: &str) -> Result<(Route, String), Problem> {
    let path = path::address(path).ok_or_else(|| Problem::bad_request("the path is not UTF-8"))?;
    for (allowed, known, route) in ROUTES {
        if surface == Surface::Kubelet && !matches!(route, Route::Live | Route::Ready | Route::Metrics) {
            continue;
        }
        let rest = path.strip_prefix(known).filter(|rest| known.ends_with('/') || rest.is_empty());
        let Some(subject) = rest else { continue };
        if *method != allowed {
            let detail = format!("{known} takes {allowed}");
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).with(ALLOW, allowed.as_str()));
        }
        if subject.contains('/') {
            return Err(Problem::bad_request(format!("`{subject}` is no subject: its tokens are joined by dots")));
        }
        return Ok((route, subject.to_owned()));
    }
    let detail = match surface {
        Surface::Application => "there is nothing here; GET /openapi.json describes what there is",
        Surface::Kubelet => "there is nothing here; applications use the other port, 4380",
    };
    Err(Problem::new(StatusCode::NOT_FOUND, detail))
}
