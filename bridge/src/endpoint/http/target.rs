//! A server that takes events: one request an event, and what its answer means.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eventmesh_wire::config::http::HttpTarget;
use eventmesh_wire::config::{EndpointConfig, HttpEndpoint};
use futures::future::BoxFuture;
use hyper::body::Incoming as Body;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::Link;
use super::exchange::{self, Trouble};
use super::outgoing::Outgoing;
use super::{answer, path, signature};
use crate::backoff::Backoff;
use crate::endpoint::{Endpoint, LinkState, Setup, Standing};
use crate::event::{Delivery, Sink};
use crate::route::dispatch::{Dispatch, Dispatcher, Failure, Target};
use crate::route::inbound::Inbound;

/// What the tasks of a target share.
struct Shared {
    link: watch::Sender<Arc<Link>>,
    /// `/<namespace>/<bridge>`: where events come from that do not say it themselves.
    source: String,
    standing: Standing,
    stop: CancellationToken,
}

/// A running target.
pub struct Sender {
    shared: Arc<Shared>,
    dispatcher: Arc<Dispatcher>,
}

impl Sender {
    /// # Errors
    /// What `validate` would have found, and certificates that can not be used.
    pub fn start(config: &HttpTarget, setup: Setup) -> anyhow::Result<Self> {
        let bridge = &setup.config.bridge;
        let shared = Arc::new(Shared {
            link: watch::Sender::new(Arc::new(Link::new(config, None)?)),
            source: format!("/{}/{}", bridge.namespace, bridge.name),
            standing: Standing::new("the HTTP target"),
            stop: CancellationToken::new(),
        });
        let settings = Dispatch {
            delivery: setup.config.delivery.clone(),
            mesh: setup.mesh,
            targets: setup.targets,
            endpoint: shared.standing.watch(),
        };
        let dispatcher = Dispatcher::start(Arc::new(Requests(Arc::clone(&shared))), settings);
        tokio::spawn(watch_over(Arc::clone(&shared)));
        Ok(Self { shared, dispatcher })
    }
}

impl Endpoint for Sender {
    fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.standing.watch()
    }

    /// A target has no inbound routes; `validate` refuses them.
    fn set_routes(&self, _: Vec<Arc<Inbound>>) {}

    /// Everything, the address too: requests on their way end as they began.
    fn can_adopt(&self, next: &EndpointConfig) -> bool {
        matches!(next, EndpointConfig::Http(HttpEndpoint::Target(_)))
    }

    fn adopt(&self, next: &EndpointConfig) -> anyhow::Result<()> {
        let EndpointConfig::Http(HttpEndpoint::Target(next)) = next else { return Ok(()) };
        let before = Arc::clone(&self.shared.link.borrow());
        self.shared.link.send_replace(Arc::new(Link::new(next, Some(&before))?));
        Ok(())
    }

    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.dispatcher) as Arc<dyn Sink>
    }

    /// Nothing comes in by a target.
    fn drain(&self) {}

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.shared.stop.cancel();
            self.dispatcher.stop();
            self.shared.standing.ended();
        })
    }
}

/// Keeps the state true: a connection that can be made (TCP, and TLS with its certificates) is what counts as connected.
/// Requests tell when it is not so any more; from then on no event is tried until one can be made again.
async fn watch_over(shared: Arc<Shared>) {
    let (mut links, mut state) = (shared.link.subscribe(), shared.standing.watch());
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    loop {
        let link = Arc::clone(&links.borrow_and_update());
        match link.probe().await {
            Ok(()) => {
                shared.standing.up();
                tokio::select! {
                    _ = state.wait_for(|state| !state.connected) => {},
                    changed = links.changed() => if changed.is_ok() { continue } else { return },
                    () = shared.stop.cancelled() => return,
                }
                // A target that takes connections and refuses what comes over them is not asked more often.
                if link.has_answered() {
                    backoff.reset();
                }
            }
            Err(trouble) => shared.down(&trouble),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {},
            changed = links.changed() => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

impl Shared {
    fn down(&self, trouble: &Trouble) {
        self.standing.down(&trouble.message, trouble.refused);
    }

    async fn send(&self, path: String, outgoing: Outgoing) -> Result<(), Failure> {
        let mut link = Arc::clone(&self.link.borrow());
        let Ok(_place) = Arc::clone(&link.room).acquire_owned().await else { return Err(Failure::Lost) };
        let mut links = self.link.subscribe();
        tokio::select! {
            () = link.pause() => {},
            _ = links.changed() => {},
        }
        // While it waited, credentials may have changed, and the target may have gone.
        link = Arc::clone(&self.link.borrow());
        if !self.standing.is_connected() {
            return Err(Failure::Lost);
        }
        let Outgoing { mut headers, body, id } = outgoing;
        sign(&link, &mut headers, &id, &body);
        let request = link.request(&path, headers, body).map_err(Failure::Refused)?;
        match link.send(request).await {
            Ok(response) => self.judge(&link, response).await,
            Err(trouble) if trouble.before_the_request => {
                self.down(&trouble);
                Err(Failure::Lost)
            }
            Err(trouble) => Err(Failure::later(trouble.message)),
        }
    }

    async fn judge(&self, link: &Link, response: Response<Body>) -> Result<(), Failure> {
        let status = response.status();
        let says = || format!("{} answered {status}", link.name());
        if status.is_success() {
            link.answered();
            answer::discard(response.into_body());
            return Ok(());
        }
        // Nothing is wrong with the event, and all others would be refused too.
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED) {
            let message = format!("{}: it refuses the credentials of the bridge; change them, or the target's", says());
            self.down(&Trouble { message, refused: true, before_the_request: false });
            return Err(Failure::Lost);
        }
        link.answered();
        let again =
            matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
                || status.is_server_error();
        if again {
            let after = exchange::wait_asked_for(&response);
            if let Some(after) = after.filter(|_| exchange::asks_for_rest(status)) {
                link.rest(after);
            }
            answer::discard(response.into_body());
            return Err(Failure::Later { problem: says(), after });
        }
        Err(Failure::Refused(exchange::complaint(&link.name(), response).await))
    }
}

/// Standard Webhooks; the time is that of this try.
fn sign(link: &Link, headers: &mut HeaderMap, id: &str, body: &[u8]) {
    if link.keys.is_empty() {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let signed = [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", now.to_string()),
        ("webhook-signature", signature::sign(&link.keys, id, now, body)),
    ];
    for (name, value) in signed {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

/// One try at a time, for the dispatcher.
struct Requests(Arc<Shared>);

impl Target for Requests {
    fn deliver(&self, delivery: &Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        let shared = Arc::clone(&self.0);
        let mode = shared.link.borrow().config.mode;
        let outgoing = Outgoing::of(delivery, &shared.source, mode);
        let path = path::path(&delivery.target);
        Box::pin(async move { shared.send(path, outgoing).await })
    }
}
