//! The connections to the brokers of one mesh, and the calls that keep the view true while they change things.
//!
//! Two connections a mesh, never one an object: one in the mesh's account for streams, consumers and reports, one in
//! the system account for what brokers say of themselves. A NATS connection belongs to one account.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Auth, AuthError, Client, ConnectOptions, Event};
use k8s_openapi::jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    BrokerChange, BrokerEvent, MeshKey,
    api::{Api, BrokerError, Config, ConsumerAction, StreamInfo},
    copies::Copies,
    ends::Ends,
    health::Health,
    links::LeafsByAccount,
    reports::Reports,
    view::View,
};
use crate::{identity::MeshKeys, pki::reading::certificates};

/// How long a broker may take to read its configuration anew.
const RELOAD: Duration = Duration::from_secs(3);

/// How to reach the brokers of a mesh, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectSpec {
    pub address: String,
    /// A fresh token is made of them for each connection.
    pub keys: Arc<MeshKeys>,
    /// The authorities to trust, in PEM; absent: no TLS.
    pub trust: Option<String>,
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
    pub copies: Mutex<Copies>,
    pub health: Mutex<Health>,
    /// Held while a stream is given its brokers; who takes a broker away waits for it.
    pub placing: tokio::sync::RwLock<()>,
    /// Absent while nobody asks.
    pub(super) leafs: Mutex<Option<LeafsByAccount>>,
    pub(super) ends: Mutex<Ends>,
    /// Counts connects of the mesh connection; the refresh loop waits on it.
    pub(super) connects: watch::Receiver<u64>,
    events: broadcast::Sender<BrokerEvent>,
    stop: CancellationToken,
}

impl MeshBroker {
    /// Starts connecting in the background; it never gives up until dropped by the registry.
    ///
    /// What `before` knew stays known: a connection that takes another's place, as with new credentials or another
    /// authority, is a short break and no news.
    pub(super) async fn start(
        key: MeshKey,
        spec: ConnectSpec,
        events: broadcast::Sender<BrokerEvent>,
        stop: CancellationToken,
        before: Option<&Self>,
    ) -> Result<Self, BrokerError> {
        let (connects_tx, connects) = watch::channel(0);
        let name = key.clone();
        let client = connect(&spec, MeshKeys::sign_in, move |event| match event {
            Event::Connected => {
                info!(mesh = %name, "connected to the brokers");
                connects_tx.send_modify(|count| *count += 1);
            }
            Event::Disconnected => warn!(mesh = %name, "lost the connection to the brokers"),
            other => debug!(mesh = %name, event = %other, "broker connection event"),
        })
        .await?;
        let system = connect(&spec, MeshKeys::sign_in_to_system, |_| {}).await?;
        Ok(Self {
            key,
            spec,
            api: Api::new(client.clone()),
            client,
            system,
            view: RwLock::new(before.map(|before| before.view().clone()).unwrap_or_default()),
            ready: AtomicBool::new(before.is_some_and(Self::is_ready)),
            reports: Mutex::new(before.map(|before| copy(&before.reports)).unwrap_or_default()),
            copies: Mutex::new(before.map(|before| copy(&before.copies)).unwrap_or_default()),
            health: Mutex::new(before.map(|before| copy(&before.health)).unwrap_or_default()),
            placing: tokio::sync::RwLock::default(),
            leafs: Mutex::new(before.and_then(Self::leafs)),
            ends: Mutex::new(before.map(|before| Ends::of(&before.ends)).unwrap_or_default()),
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

    /// Cancelled when the mesh is removed or another connection takes the place of this one.
    pub fn stop(&self) -> &CancellationToken {
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

    pub fn announce(&self, change: BrokerChange) {
        // Nobody listening is fine: the operator is shutting down.
        let _ = self.events.send(BrokerEvent { mesh: self.key.clone(), change });
    }

    pub async fn create_stream(&self, name: &str, config: &Config) -> Result<(), BrokerError> {
        let _placing = self.placing.read().await;
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

    /// Asks a broker to read its configuration and its certificates anew.
    pub async fn reload(&self, broker: &str) -> Result<(), BrokerError> {
        let id = self.health.lock().unwrap_or_else(PoisonError::into_inner).brokers.get(broker).map(|b| b.id.clone());
        let Some(id) = id else { return Err(BrokerError::Unavailable(format!("{broker} has not answered yet"))) };
        let request = self.system.request(format!("$SYS.REQ.SERVER.{id}.RELOAD"), bytes::Bytes::new());
        let answer = tokio::time::timeout(RELOAD, request).await;
        let answer = answer.map_err(|_| BrokerError::Unavailable(format!("{broker} does not answer")))?;
        let answer = answer.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
        match answer["error"]["description"].as_str() {
            None => Ok(()),
            Some(problem) => Err(BrokerError::Unavailable(problem.to_owned())),
        }
    }

    /// Asks the brokers now what they say of themselves.
    pub async fn ask_health(&self) -> Result<(), BrokerError> {
        let asked = super::health::ask_and_note(self).await;
        asked.map(drop).map_err(|error| BrokerError::Unavailable(error.to_string()))
    }

    fn learn_stream(&self, name: &str, info: StreamInfo) -> bool {
        self.change_view(|view| view.put_stream(name.to_owned(), info))
    }
}

fn copy<T: Clone>(from: &Mutex<T>) -> T {
    from.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn connect(
    spec: &ConnectSpec,
    sign_in: fn(&MeshKeys, &[u8], i64) -> Result<Auth, AuthError>,
    on_event: impl Fn(Event) + Send + Sync + 'static,
) -> Result<Client, BrokerError> {
    let on_event = Arc::new(on_event);
    let keys = spec.keys.clone();
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let keys = keys.clone();
        async move { sign_in(&keys, &nonce, Timestamp::now().as_second()) }
    });
    if let Some(trust) = &spec.trust {
        let config = trusting(trust).map_err(BrokerError::Unavailable)?;
        options = options.require_tls(true).tls_client_config(config);
    }
    options
        .name("eventmesh-operator")
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
        .connect(&spec.address)
        .await
        .map_err(|error| BrokerError::Unavailable(error.to_string()))
}

/// A client's side of TLS that trusts these authorities and no others.
fn trusting(authorities: &str) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(|error| format!("an authority of the mesh cannot be used: {error}"))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
