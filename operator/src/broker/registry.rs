//! The brokers of all meshes: one [`MeshBroker`] a mesh, started by the mesh controller and used by all others.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    BrokerChange, BrokerError, BrokerEvent, ConnectSpec, MeshBroker, MeshKey, advisories, copies, health, refresh,
    reports,
};

/// Events that may wait for a slow reader; one that falls behind wakes everything instead.
const EVENT_BUFFER: usize = 8192;

/// All meshes that the operator is, or tries to be, connected to.
pub struct Brokers {
    meshes: RwLock<BTreeMap<MeshKey, Arc<MeshBroker>>>,
    events: broadcast::Sender<BrokerEvent>,
    shutdown: CancellationToken,
    started: Instant,
}

/// Time after the operator's start in which a mesh that is not connected is not yet news: the state that an earlier
/// process left in a status still holds.
const STARTING: Duration = Duration::from_secs(20);

impl Brokers {
    #[must_use]
    pub fn new(shutdown: CancellationToken) -> Self {
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        Self { meshes: RwLock::default(), events, shutdown, started: Instant::now() }
    }

    /// Whether the operator has only just started and has not come to this mesh yet.
    pub fn is_starting(&self, key: &MeshKey) -> bool {
        self.started.elapsed() < STARTING && !self.get(key).is_some_and(|broker| broker.is_ready())
    }

    pub fn subscribe(&self) -> broadcast::Receiver<BrokerEvent> {
        self.events.subscribe()
    }

    pub fn get(&self, key: &MeshKey) -> Option<Arc<MeshBroker>> {
        self.meshes.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub fn all(&self) -> Vec<Arc<MeshBroker>> {
        self.meshes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.meshes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes sure that there is a connection with this specification; a changed one replaces the old connection.
    pub async fn ensure(&self, key: &MeshKey, spec: ConnectSpec) -> Result<Arc<MeshBroker>, BrokerError> {
        let before = self.get(key);
        if let Some(broker) = &before
            && *broker.spec() == spec
        {
            return Ok(broker.clone());
        }
        let stop = self.shutdown.child_token();
        let started = MeshBroker::start(key.clone(), spec, self.events.clone(), stop, before.as_deref()).await;
        let broker = Arc::new(started?);
        self.remove(key);
        tokio::spawn(refresh::run(broker.clone()));
        tokio::spawn(health::run(broker.clone()));
        spawn_listener(key, "advisories", advisories::run(broker.clone()));
        spawn_listener(key, "reports", reports::run(broker.clone()));
        spawn_listener(key, "copies", copies::run(broker.clone()));
        self.meshes.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), broker.clone());
        broker.announce(BrokerChange::Opened);
        Ok(broker)
    }

    /// Closes the connection of a mesh that is gone.
    pub fn remove(&self, key: &MeshKey) {
        let removed = self.meshes.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(broker) = removed {
            broker.stop().cancel();
        }
    }
}

fn spawn_listener(
    key: &MeshKey,
    what: &'static str,
    listener: impl Future<Output = Result<(), BrokerError>> + Send + 'static,
) {
    let key = key.clone();
    tokio::spawn(async move {
        if let Err(error) = listener.await {
            warn!(mesh = %key, listener = what, %error, "listener ended; the periodic listing goes on");
        }
    });
}
