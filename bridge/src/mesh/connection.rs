//! The one connection to the mesh. It connects and reconnects by itself, for ever; this only watches it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use eventmesh_wire::config::MeshConfig;
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::tls;

/// A connection to the mesh, and whether it stands.
#[derive(Clone)]
pub struct Mesh {
    pub client: Client,
    connected: watch::Receiver<bool>,
    last_error: Arc<Mutex<Option<String>>>,
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
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                match &event {
                    Event::Connected => drop(state.send_replace(true)),
                    Event::Disconnected | Event::Closed => drop(state.send_replace(false)),
                    Event::ServerError(_) | Event::ClientError(_) => {
                        let message = Some(event.to_string());
                        let mut last = errors.lock().unwrap_or_else(PoisonError::into_inner);
                        if *last != message {
                            tracing::warn!(error = message, "trouble with the mesh connection");
                            *last = message;
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
        Ok(Self { client, connected, last_error })
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// What the server or the network last said against it.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
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

fn reconnect_delay(attempts: usize) -> Duration {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    for _ in 1..attempts.min(8) {
        backoff.next_wait();
    }
    backoff.next_wait()
}
