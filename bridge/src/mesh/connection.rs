//! The one connection to the mesh. It connects and reconnects by itself, for ever; this only watches it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use eventmesh_wire::config::MeshConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::tls;

/// What the server or the network has against the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshError {
    pub message: String,
    /// The mesh does not want the bridge; only a change of configuration helps.
    pub refused: bool,
}

/// A connection to the mesh, and whether it stands.
#[derive(Clone)]
pub struct Mesh {
    pub client: Client,
    connected: watch::Receiver<bool>,
    last_error: Arc<Mutex<Option<MeshError>>>,
    abandoned: CancellationToken,
}

impl Mesh {
    /// Returns at once; the connection is made in the background.
    ///
    /// # Errors
    /// When a server address or a certificate can not be read.
    pub async fn connect(config: &MeshConfig, name: &str) -> anyhow::Result<Self> {
        let (state, connected) = watch::channel(false);
        let last_error = Arc::new(Mutex::new(None));
        let errors = Arc::clone(&last_error);
        let abandoned = CancellationToken::new();
        let given_up = abandoned.clone();
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, given_up.is_cancelled()))
            .event_callback(move |event| {
                match &event {
                    Event::Connected => drop(state.send_replace(true)),
                    Event::Disconnected | Event::Closed => drop(state.send_replace(false)),
                    Event::ServerError(_) | Event::ClientError(_) => {
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
        if let Some(username) = &config.username {
            let password = config.password.as_ref().map(|password| password.expose().to_owned());
            options = options.user_and_password(username.clone(), password.unwrap_or_default());
        }
        if config.ca_pem.is_some() || config.servers.iter().any(|server| server.starts_with("tls://")) {
            options = options.require_tls(true).tls_client_config(tls::client_config(config.ca_pem.as_deref(), None)?);
        }
        let client = options.connect(config.servers.clone()).await?;
        Ok(Self { client, connected, last_error, abandoned })
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
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

    /// Waits until the connection stands. Only the end of the client ends this otherwise.
    pub async fn until_connected(&self) {
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
    }

    /// Changes each time the connection comes or goes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

fn explain(event: &Event) -> MeshError {
    let said = event.to_string();
    let refused = ["authorization violation", "authentication expired", "authentication revoked"]
        .iter()
        .any(|word| said.to_lowercase().contains(word));
    let message = if refused { format!("it refuses the bridge's username or password ({said})") } else { said };
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
        assert!(!explain(&Event::ClientError(ClientError::Other("IO error".into()))).refused);
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
