//! The one connection to the mesh. It connects and reconnects by itself, for ever; this only watches it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use eventmesh_wire::config::{MeshConfig, MeshCredentials};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::lease::Guard;
use super::sign_in::SignIn;
use super::traffic::{Pass, Traffic};
use crate::backoff::Backoff;
use crate::tls;

/// How long what is on its way may take before the connection is exchanged all the same.
const QUIET: Duration = Duration::from_secs(10);

/// Denials that a listener may be behind by.
const DENIALS: usize = 256;

/// What the server or the network has against the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshError {
    pub message: String,
    /// The mesh does not want the bridge; only a change of configuration helps.
    pub refused: bool,
}

/// How the connection stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    connected: bool,
    /// It is about to be exchanged for one with newer credentials.
    resting: bool,
    /// Another pod is the active one, or could be by now.
    barred: bool,
}

/// A connection to the mesh, and whether it stands.
#[derive(Clone)]
pub struct Mesh {
    pub client: Client,
    sign_in: SignIn,
    traffic: Traffic,
    guard: Guard,
    /// One exchange at a time.
    exchange: Arc<tokio::sync::Mutex<()>>,
    state: Arc<watch::Sender<State>>,
    last_error: Arc<Mutex<Option<MeshError>>>,
    denials: broadcast::Sender<Arc<str>>,
    abandoned: CancellationToken,
}

impl Mesh {
    /// Whether it is the same connection.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// Returns at once; the connection is made in the background.
    ///
    /// # Errors
    /// When a server address or a certificate can not be read.
    pub async fn connect(config: &MeshConfig, name: &str) -> anyhow::Result<Self> {
        let state = Arc::new(watch::Sender::new(State::default()));
        let told = Arc::clone(&state);
        let last_error = Arc::new(Mutex::new(None));
        let errors = Arc::clone(&last_error);
        let denials = broadcast::Sender::new(DENIALS);
        let denied = denials.clone();
        let abandoned = CancellationToken::new();
        let given_up = abandoned.clone();
        let sign_in = SignIn::default();
        sign_in.set(config.credentials.as_ref())?;
        let newest = sign_in.clone();
        let mut options = ConnectOptions::with_auth_callback(move |challenge| {
            let answer = newest.answer(&challenge);
            async move { answer }
        });
        options = options
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, given_up.is_cancelled()))
            .event_callback(move |event| {
                match &event {
                    Event::Connected => told.send_modify(|state| state.connected = true),
                    Event::Disconnected | Event::Closed => told.send_modify(|state| state.connected = false),
                    Event::ServerError(_) | Event::ClientError(_) => {
                        if let Some(subject) = denied_subject(&event.to_string()) {
                            // Fails when nobody listens.
                            let _ = denied.send(subject.into());
                        }
                        let error = Some(explain(&event));
                        let mut last = errors.lock().unwrap_or_else(PoisonError::into_inner);
                        if *last != error {
                            tracing::warn!(%event, "trouble with the mesh connection");
                            *last = error;
                        }
                    }
                    _ => {}
                }
                async {}
            });
        if config.ca_pem.is_some() || config.servers.iter().any(|server| server.starts_with("tls://")) {
            options = options.require_tls(true).tls_client_config(tls::client_config(config.ca_pem.as_deref(), None)?);
        }
        let client = options.connect(config.servers.clone()).await?;
        let (traffic, exchange) = <(Traffic, Arc<tokio::sync::Mutex<()>>)>::default();
        let guard = Guard::default();
        Ok(Self { client, sign_in, traffic, guard, exchange, state, last_error, denials, abandoned })
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state.borrow().connected
    }

    /// Whether something that needs an answer may be sent now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let state = *self.state.borrow();
        state.connected && !state.resting && !state.barred && self.may_carry()
    }

    /// Whether this pod may send an event to either side at this very moment: asked directly before each is sent.
    #[must_use]
    pub fn may_carry(&self) -> bool {
        self.guard.holds()
    }

    /// Until when this pod may carry events; see [`super::lease`].
    pub(super) fn set_lease_end(&self, until: Duration) {
        self.guard.set(until);
        let barred = !self.guard.holds();
        self.state.send_if_modified(|state| std::mem::replace(&mut state.barred, barred) != barred);
    }

    /// For whoever sends something that needs an answer, to hold until it is there.
    #[must_use]
    pub fn pass(&self) -> Pass {
        self.traffic.pass()
    }

    /// Takes up new credentials. Events go on over the old connection until nothing is on its way, so that no answer gets
    /// lost with it and no event is sent twice.
    ///
    /// # Errors
    /// What `validate` would have found.
    pub fn renew(&self, credentials: Option<&MeshCredentials>) -> anyhow::Result<()> {
        self.sign_in.set(credentials)?;
        let mesh = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = mesh.exchange() => {},
                () = mesh.abandoned() => {},
            }
        });
        Ok(())
    }

    async fn exchange(&self) {
        let _one_at_a_time = self.exchange.lock().await;
        if !self.is_connected() {
            return; // The next try takes the new ones.
        }
        self.state.send_modify(|state| state.resting = true);
        let mut state = self.state.subscribe();
        let quiet = tokio::select! {
            () = self.traffic.still() => true,
            () = tokio::time::sleep(QUIET) => true,
            // The brokers have cut it themselves.
            _ = state.wait_for(|state| !state.connected) => false,
        };
        if quiet && self.client.flush().await.is_ok() && self.client.force_reconnect().await.is_ok() {
            let _ = tokio::time::timeout(QUIET, state.wait_for(|state| !state.connected)).await;
        }
        self.state.send_modify(|state| state.resting = false);
    }

    /// Another takes its place. It may never have been connected, so nobody must wait for it any more.
    pub fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// Waits until another has taken its place.
    pub async fn abandoned(&self) {
        self.abandoned.cancelled().await;
    }

    /// What the server or the network last said against it.
    #[must_use]
    pub fn last_error(&self) -> Option<MeshError> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of each subject that the brokers do not let it publish to, from now on.
    #[must_use]
    pub fn denials(&self) -> broadcast::Receiver<Arc<str>> {
        self.denials.subscribe()
    }

    /// Waits until the connection stands. Only the end of the client ends this otherwise.
    pub async fn until_connected(&self) {
        let _ = self.state.subscribe().wait_for(|state| state.connected).await;
    }

    /// Waits until this pod may carry events.
    pub async fn until_allowed(&self) {
        while self.state.subscribe().wait_for(|state| !state.barred).await.is_ok() && !self.may_carry() {
            // It has just ended, and will be told to have; the time in between is short.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same connection, without a lease.
    #[must_use]
    pub fn free(self) -> Self {
        self.guard.unset();
        self.state.send_modify(|state| state.barred = false);
        self
    }

    /// The same connection for the time of one lease: [`Mesh::abandon`] ends what works with it, and not the connection.
    #[must_use]
    pub fn for_one_term(&self) -> Self {
        Self { abandoned: self.abandoned.child_token(), ..self.clone() }
    }

    /// As [`Mesh::until_connected`], and nothing keeps what needs an answer from being sent.
    pub async fn until_open(&self) {
        while self.state.subscribe().wait_for(|state| state.connected && !state.resting).await.is_ok() {
            self.until_allowed().await;
            if self.is_open() {
                return;
            }
        }
    }

    /// Waits until the connection is lost.
    pub async fn until_lost(&self) {
        let _ = self.state.subscribe().wait_for(|state| !state.connected).await;
    }

    /// Changes each time the connection comes or goes, opens or rests.
    #[must_use]
    pub fn watch(&self) -> Changes {
        Changes(self.state.subscribe())
    }
}

/// Tells of each change of the connection.
pub struct Changes(watch::Receiver<State>);

impl Changes {
    /// Waits for the next change; `false` when there will be none.
    pub async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// The subject of a publish that was not allowed.
fn denied_subject(said: &str) -> Option<&str> {
    const WORDS: &str = "permissions violation for publish to \"";
    let at = said.to_ascii_lowercase().find(WORDS)? + WORDS.len();
    said[at..].split('"').next()
}

fn explain(event: &Event) -> MeshError {
    let said = event.to_string();
    let refused = [
        "authorization violation",
        "authentication expired",
        "authentication revoked",
        // An account that lets nobody in any more, or not so many.
        "maximum account active connections exceeded",
    ]
    .iter()
    .any(|word| said.to_lowercase().contains(word));
    let message = if refused { format!("it refuses the credentials ({said})") } else { said };
    MeshError { message, refused }
}

fn reconnect_delay(attempts: usize, abandoned: bool) -> Duration {
    if abandoned {
        return Duration::from_hours(24 * 365);
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    for _ in 1..attempts.min(8) {
        backoff.next_wait();
    }
    backoff.next_wait()
}

#[cfg(test)]
mod tests {
    use async_nats::{ClientError, ServerError};

    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_absence() {
        assert!(explain(&Event::ServerError(ServerError::AuthorizationViolation)).refused);
        assert!(explain(&Event::ClientError(ClientError::Other("authorization violation".into()))).refused);
        let said = |text: &str| explain(&Event::ServerError(ServerError::Other(text.into()))).refused;
        assert!(said("User Authentication Expired") && said("User Authentication Revoked"));
        assert!(said("maximum account active connections exceeded"));
        assert!(!explain(&Event::ClientError(ClientError::Other("IO error".into()))).refused);
    }

    #[test]
    fn the_subject_of_a_denied_publish_is_found() {
        let event = Event::ServerError(ServerError::Other("Permissions Violation for Publish to \"a.B\"".into()));
        assert_eq!(denied_subject(&event.to_string()), Some("a.B"));
        assert_eq!(denied_subject("nats: Permissions Violation for Subscription to \"a\""), None);
    }

    #[test]
    fn it_tries_for_ever_at_most_five_seconds_apart_until_it_is_abandoned() {
        for attempts in [0, 1, 5, 100, usize::MAX] {
            let wait = reconnect_delay(attempts, false);
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(5), "{wait:?}");
        }
        assert!(reconnect_delay(1, true) > Duration::from_hours(24));
    }
}
