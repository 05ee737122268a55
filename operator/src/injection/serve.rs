//! The webhook: HTTPS for the API servers, an answer from memory for each pod.
//!
//! Memory may be a moment behind: a namespace, a mesh and a Deployment are often applied together. So before a refusal that
//! may follow from that, the API server is asked.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use eventmesh_crds::EventMesh;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    core::{
        PartialObjectMeta,
        admission::{AdmissionRequest, AdmissionResponse, AdmissionReview},
    },
    runtime::reflector::{ObjectRef, Store, store::Writer},
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    decide::{Decision, Home, decide},
    patch,
    refusals::{self, Refusals, Waiting},
};
use crate::{broker::MeshKey, metrics::Metrics, settings::Settings};

/// Path of the webhook.
pub const PATH: &str = "/inject";
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may take over the head of a request, and so be idle: longer than the 90 s of API servers, so that
/// it is they who close and no request meets a closed connection.
const IDLE: Duration = Duration::from_mins(2);
/// How long a request may take over its body.
const BODY: Duration = Duration::from_secs(5);
/// A pod has at most 3 MiB for the API server, and the review around it is small.
const LARGEST: usize = 4 * 1024 * 1024;
/// How long the API server may take to be asked before a refusal, and by how many at once.
const ASKING: Duration = Duration::from_secs(1);
const ASKING_AT_ONCE: usize = 16;
/// How long connections may take to send their last answer.
const GOODBYE: Duration = Duration::from_secs(3);

/// What answers.
pub struct Injector {
    client: Client,
    image: String,
    meshes: Store<EventMesh>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    refusals: Refusals,
    asking: Semaphore,
    metrics: Arc<Metrics>,
}

/// What has to be kept filled, and emptied.
pub struct Writers {
    pub meshes: Writer<EventMesh>,
    pub namespaces: Writer<PartialObjectMeta<Namespace>>,
    pub refusals: Waiting,
}

impl Injector {
    #[must_use]
    pub fn new(settings: &Settings, client: Client, metrics: Arc<Metrics>) -> (Self, Writers) {
        let (refusals, waiting) = refusals::channel();
        let writers = Writers { meshes: Writer::default(), namespaces: Writer::default(), refusals: waiting };
        let injector = Self {
            client,
            image: settings.images.bridge.clone(),
            meshes: writers.meshes.as_reader(),
            namespaces: writers.namespaces.as_reader(),
            refusals,
            asking: Semaphore::new(ASKING_AT_ONCE),
            metrics,
        };
        (injector, writers)
    }

    /// Waits until the caches are filled.
    pub async fn ready(&self) {
        // They end with the process only.
        let _ = tokio::join!(self.meshes.wait_until_ready(), self.namespaces.wait_until_ready());
    }

    async fn answer(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        let review: AdmissionReview<Pod> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let request: AdmissionRequest<Pod> = review.try_into().map_err(|_| "the review holds no request".to_owned())?;
        let begun = Instant::now();
        let (response, result) = self.admit(&request).await;
        self.metrics.injection(result, begun.elapsed());
        serde_json::to_vec(&response.into_review()).map_err(|error| error.to_string())
    }

    async fn admit(&self, request: &AdmissionRequest<Pod>) -> (AdmissionResponse, &'static str) {
        let allowed = AdmissionResponse::from(request);
        let (Some(pod), Some(namespace)) = (&request.object, &request.namespace) else { return (allowed, "unchanged") };
        let (patch, result) = match self.decide(pod, namespace).await {
            Decision::NotAsked | Decision::Nothing => return (allowed, "unchanged"),
            Decision::Inject(sidecar) => (patch::inject(pod, &sidecar, &self.image), "injected"),
            Decision::Refuse(refusal) => {
                if !request.dry_run {
                    self.refusals.tell(namespace, pod, &refusal);
                }
                (patch::refuse(pod, &refusal), "refused")
            }
        };
        match allowed.with_patch(patch) {
            Ok(response) => (response, result),
            Err(error) => {
                warn!(%error, "a patch could not be written");
                (AdmissionResponse::from(request), "failed")
            }
        }
    }

    async fn decide(&self, pod: &Pod, namespace: &str) -> Decision {
        let decision = decide(pod, &self.home(namespace), |key| self.mesh(key));
        if !may_be_outdated(&decision) {
            return decision;
        }
        // Nobody can make the API server busy by pods that are refused.
        let Ok(_permit) = self.asking.try_acquire() else { return decision };
        match timeout(ASKING, self.decide_afresh(pod, namespace)).await {
            Ok(Ok(fresh)) => fresh,
            Ok(Err(error)) => {
                debug!(%error, namespace, "the API server could not be asked");
                decision
            }
            Err(_) => decision,
        }
    }

    async fn decide_afresh(&self, pod: &Pod, namespace: &str) -> kube::Result<Decision> {
        let found = Api::<Namespace>::all(self.client.clone()).get_metadata_opt(namespace).await?;
        let home = found.map_or_else(|| self.home(namespace), |found| home(namespace, &found));
        let mut asked = None;
        let decision = decide(pod, &home, |key| {
            asked = Some(key.clone());
            self.mesh(key)
        });
        let Some(key) = asked.filter(|_| may_be_outdated(&decision)) else { return Ok(decision) };
        let mesh = Api::<EventMesh>::namespaced(self.client.clone(), &key.namespace).get_opt(&key.name).await?;
        Ok(decide(pod, &home, |_| mesh.map(Arc::new)))
    }

    fn home(&self, namespace: &str) -> Home {
        self.namespaces
            .get(&ObjectRef::new(namespace))
            .map_or_else(|| Home { name: namespace.to_owned(), ..Home::default() }, |found| home(namespace, &found))
    }

    fn mesh(&self, key: &MeshKey) -> Option<Arc<EventMesh>> {
        self.meshes.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }
}

/// The API server calls for pods only that ask, or whose namespace does: where none is known to, what is known is old.
fn may_be_outdated(decision: &Decision) -> bool {
    match decision {
        Decision::NotAsked => true,
        Decision::Refuse(refusal) => refusal.may_be_outdated(),
        Decision::Nothing | Decision::Inject(_) => false,
    }
}

fn home(name: &str, namespace: &PartialObjectMeta<Namespace>) -> Home {
    let metadata = &namespace.metadata;
    Home {
        name: name.to_owned(),
        labels: metadata.labels.clone().unwrap_or_default(),
        annotations: metadata.annotations.clone().unwrap_or_default(),
    }
}

/// Serves until `closing`, and then the answers that are under way.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, injector: Arc<Injector>, closing: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = closing.cancelled() => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        let (acceptor, injector, closing) = (acceptor.clone(), injector.clone(), closing.clone());
        connections.spawn(async move {
            connection(stream, &acceptor, injector, closing).await;
            drop(permit);
        });
    }
    connections.close();
    let _ = timeout(GOODBYE, connections.wait()).await;
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // Out of files, say: without a pause this would be a loop.
            warn!(%error, "the webhook could not accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor, injector: Arc<Injector>, closing: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "no TLS"),
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let injector = injector.clone();
        async move { Ok::<_, Infallible>(respond(&injector, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection of the webhook has ended");
    }
}

async fn respond(injector: &Injector, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, "there is nothing but /inject here");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "AdmissionReviews are posted");
    }
    let body = match timeout(BODY, Limited::new(request.into_body(), LARGEST).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {error}")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body takes too long"),
    };
    match injector.answer(&body).await {
        Ok(answer) => {
            let mut response = Response::new(Full::from(answer));
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        Err(problem) => text(StatusCode::BAD_REQUEST, &format!("this is no AdmissionReview of a pod: {problem}")),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}
