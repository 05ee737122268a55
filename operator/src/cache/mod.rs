//! The operator's picture of the cluster: read-only stores that watches keep up to date, and indexes over them.
//!
//! Reconcilers read here and nowhere else, so a pass costs no request to the API server for what it reads.

pub mod feed;
pub mod topics;

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{Namespace, Pod},
};
use kube::{
    Resource,
    core::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store, store::Writer},
};

use crate::broker::MeshKey;
use topics::TopicIndex;

/// The stores.
pub struct Cache {
    pub meshes: Store<EventMesh>,
    pub topics: Store<Topic>,
    pub subscriptions: Store<Subscription>,
    pub bridges: Store<Bridge>,
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    pub stateful_sets: Store<StatefulSet>,
    pub deployments: Store<Deployment>,
    pub pods: Store<Pod>,
    topic_index: RwLock<TopicIndex>,
}

/// The writing ends of the stores; the feeds own them.
pub struct Writers {
    pub meshes: Writer<EventMesh>,
    pub topics: Writer<Topic>,
    pub subscriptions: Writer<Subscription>,
    pub bridges: Writer<Bridge>,
    pub namespaces: Writer<PartialObjectMeta<Namespace>>,
    pub stateful_sets: Writer<StatefulSet>,
    pub deployments: Writer<Deployment>,
    pub pods: Writer<Pod>,
}

impl Cache {
    #[must_use]
    pub fn new() -> (Self, Writers) {
        let writers = Writers {
            meshes: Writer::default(),
            topics: Writer::default(),
            subscriptions: Writer::default(),
            bridges: Writer::default(),
            namespaces: Writer::default(),
            stateful_sets: Writer::default(),
            deployments: Writer::default(),
            pods: Writer::default(),
        };
        let cache = Self {
            meshes: writers.meshes.as_reader(),
            topics: writers.topics.as_reader(),
            subscriptions: writers.subscriptions.as_reader(),
            bridges: writers.bridges.as_reader(),
            namespaces: writers.namespaces.as_reader(),
            stateful_sets: writers.stateful_sets.as_reader(),
            deployments: writers.deployments.as_reader(),
            pods: writers.pods.as_reader(),
            topic_index: RwLock::default(),
        };
        (cache, writers)
    }

    /// Waits until every store has been filled once.
    pub async fn ready(&self) -> bool {
        tokio::try_join!(
            self.meshes.wait_until_ready(),
            self.topics.wait_until_ready(),
            self.subscriptions.wait_until_ready(),
            self.bridges.wait_until_ready(),
            self.namespaces.wait_until_ready(),
            self.stateful_sets.wait_until_ready(),
            self.deployments.wait_until_ready(),
            self.pods.wait_until_ready(),
        )
        .is_ok()
    }

    pub fn mesh(&self, key: &MeshKey) -> Option<std::sync::Arc<EventMesh>> {
        self.meshes.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    pub fn topic(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Topic>> {
        self.topics.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn topic_index(&self) -> RwLockReadGuard<'_, TopicIndex> {
        self.topic_index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change_topic_index<T>(&self, change: impl FnOnce(&mut TopicIndex) -> T) -> T {
        change(&mut self.topic_index.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Namespace and name of an object of a namespaced kind.
pub fn namespaced<K: Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The mesh that a reference names, seen from an object of `namespace`.
#[must_use]
pub fn mesh_key(reference: &eventmesh_crds::common::MeshRef, namespace: &str) -> MeshKey {
    MeshKey {
        namespace: reference.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
        name: reference.name.clone(),
    }
}
