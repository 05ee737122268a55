//! The connections to the brokers of one mesh, and the calls that keep the view true while they change things.
//!
//! Two connections a mesh, never one an object: one in the mesh's account for streams, consumers and reports, one in
//! the system account for what brokers say of themselves. A NATS connection belongs to one account.

use std::{
    sync::{
        Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    BrokerChange, BrokerEvent, MeshKey,
    api::{Api, BrokerError, Config, ConsumerAction, StreamInfo},
    health::Health,
    reports::Reports,
    view::View,
};

/// How to reach the brokers of a mesh, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectSpec {
    pub address: String,
    pub user: String,
    pub password: String,
    pub system_user: String,
    pub system_password: String,
}

/// The port to the brokers of one mesh.
pub struct MeshBroker {
    key: MeshKey,
    spec: ConnectSpec,
    api: Api,
    pub(super) client: Client,
    pub(super) system: Client,
    view: RwLock<View>,
    ready: AtomicBool,
    pub reports: Mutex<Reports>,
    pub health: Mutex<Health>,
    /// Counts connects of the mesh connection; the refresh loop waits on it.
    pub(super) connects: watch::Receiver<u64>,
    events: broadcast::Sender<BrokerEvent>,
    stop: CancellationToken,
}

impl MeshBroker {
    /// Starts connecting in the background; it never gives up until dropped by the registry.
    pub(super) async fn start(
        key: MeshKey,
        spec: ConnectSpec,
        events: broadcast::Sender<BrokerEvent>,
        stop: CancellationToken,
    ) -> Result<Self, BrokerError> {
        let (connects_tx, connects) = watch::channel(0);
        let name = key.clone();
        let client = connect(&spec.address, &spec.user, &spec.password, move |event| match event {
            Event::Connected => {
                info!(mesh = %name, "connected to the brokers");
                connects_tx.send_modify(|count| *count += 1);
            }
            Event::Disconnected => warn!(mesh = %name, "lost the connection to the brokers"),
            other => debug!(mesh = %name, event = %other, "broker connection event"),
        })
        .await?;
        let system = connect(&spec.address, &spec.system_user, &spec.system_password, |_| {}).await?;
        Ok(Self {
            key,
            spec,
            api: Api::new(client.clone()),
            client,
            system,
            view: RwLock::default(),
            ready: AtomicBool::new(false),
            reports: Mutex::default(),
            health: Mutex::default(),
            connects,
            events,
            stop,
        })
    }

    pub fn key(&self) -> &MeshKey {
        &self.key
    }

    pub(super) fn spec(&self) -> &ConnectSpec {
        &self.spec
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether the view is complete, so that an absent name means an absent thing. A short break of the connection, as
    /// at the restart of a broker, does not end it: calls fail then and are tried again.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Returns what it was before.
    pub(super) fn set_ready(&self, ready: bool) -> bool {
        self.ready.swap(ready, Ordering::Relaxed)
    }

    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change_view<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn announce(&self, change: BrokerChange) {
        // Nobody listening is fine: the operator is shutting down.
        let _ = self.events.send(BrokerEvent { mesh: self.key.clone(), change });
    }

    pub async fn create_stream(&self, name: &str, config: &Config) -> Result<(), BrokerError> {
        let info = self.api.create_stream(name, config).await?;
        self.learn_stream(name, info);
        // What depends on the stream, above all its consumers, can go on.
        self.announce(BrokerChange::StreamReady(name.to_owned()));
        Ok(())
    }

    pub async fn update_stream(&self, name: &str, config: &Config) -> Result<(), BrokerError> {
        let info = self.api.update_stream(name, config).await?;
        self.learn_stream(name, info);
        Ok(())
    }

    pub async fn delete_stream(&self, name: &str) -> Result<(), BrokerError> {
        self.api.delete_stream(name).await?;
        self.change_view(|view| view.remove_stream(name));
        Ok(())
    }

    pub async fn put_consumer(
        &self,
        stream: &str,
        name: &str,
        config: &Config,
        action: ConsumerAction,
    ) -> Result<(), BrokerError> {
        let info = self.api.put_consumer(stream, name, config, action).await?;
        self.change_view(|view| view.put_consumer(info));
        Ok(())
    }

    pub async fn pause_consumer(&self, stream: &str, name: &str, until: Option<&str>) -> Result<(), BrokerError> {
        self.api.pause_consumer(stream, name, until).await?;
        self.reread_consumer(stream, name).await
    }

    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), BrokerError> {
        self.api.delete_consumer(stream, name).await?;
        self.change_view(|view| view.remove_consumer(stream, name));
        Ok(())
    }

    /// Reads one stream anew, so that the view is true of it.
    pub async fn reread_stream(&self, name: &str) -> Result<(), BrokerError> {
        match self.api.stream(name).await? {
            Some(info) => self.learn_stream(name, info),
            None => self.change_view(|view| view.remove_stream(name)),
        };
        Ok(())
    }

    /// Reads one consumer anew, so that the view is true of it.
    pub async fn reread_consumer(&self, stream: &str, name: &str) -> Result<(), BrokerError> {
        match self.api.consumer(stream, name).await? {
            Some(info) => self.change_view(|view| view.put_consumer(info)),
            None => self.change_view(|view| view.remove_consumer(stream, name)),
        };
        Ok(())
    }

    fn learn_stream(&self, name: &str, info: StreamInfo) -> bool {
        self.change_view(|view| view.put_stream(name.to_owned(), info))
    }
}

async fn connect(
    address: &str,
    user: &str,
    password: &str,
    on_event: impl Fn(Event) + Send + Sync + 'static,
) -> Result<Client, BrokerError> {
    let on_event = std::sync::Arc::new(on_event);
    ConnectOptions::new()
        .name("eventmesh-operator")
        .user_and_password(user.to_owned(), password.to_owned())
        .retry_on_initial_connect()
        // The operator's own calls are known; only what others do is news.
        .no_echo()
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(20))
        // The Service's address is stable; addresses of single pods are not.
        .ignore_discovered_servers()
        .reconnect_delay_callback(|attempts| {
            let ceiling = Duration::from_millis(100 << attempts.min(6));
            ceiling.mul_f64(rand::random::<f64>().mul_add(0.5, 0.5))
        })
        .event_callback(move |event| {
            let on_event = on_event.clone();
            async move { on_event(event) }
        })
        .connect(address)
        .await
        .map_err(|error| BrokerError::Unavailable(error.to_string()))
}
