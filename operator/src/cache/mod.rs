//! The operator's picture of the cluster: read-only stores that watches keep up to date, and indexes over them.
//!
//! Reconcilers read here and nowhere else, so a pass costs no request to the API server for what it reads.

pub mod feed;
pub mod topics;

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic, mesh::ServiceMesh};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{Namespace, Pod, Secret, Service, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store, store::Writer},
};

use crate::{
    broker::MeshKey,
    labels::{self, MESH_NAMESPACE, PARTY},
    service_mesh::Proxies,
};
use topics::TopicIndex;

/// The stores.
pub struct Cache {
    pub meshes: Store<EventMesh>,
    pub topics: Store<Topic>,
    pub subscriptions: Store<Subscription>,
    pub bridges: Store<Bridge>,
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// All of the cluster: grants name them.
    pub service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    /// The Secrets that the operator issues to those who connect.
    pub credentials: Store<PartialObjectMeta<Secret>>,
    pub stateful_sets: Store<StatefulSet>,
    pub deployments: Store<Deployment>,
    pub pods: Store<Pod>,
    pub services: Store<Service>,
    topic_index: RwLock<TopicIndex>,
}

/// The writing ends of the stores; the feeds own them.
pub struct Writers {
    pub meshes: Writer<EventMesh>,
    pub topics: Writer<Topic>,
    pub subscriptions: Writer<Subscription>,
    pub bridges: Writer<Bridge>,
    pub namespaces: Writer<PartialObjectMeta<Namespace>>,
    pub service_accounts: Writer<PartialObjectMeta<ServiceAccount>>,
    pub credentials: Writer<PartialObjectMeta<Secret>>,
    pub stateful_sets: Writer<StatefulSet>,
    pub deployments: Writer<Deployment>,
    pub pods: Writer<Pod>,
    pub services: Writer<Service>,
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
            service_accounts: Writer::default(),
            credentials: Writer::default(),
            stateful_sets: Writer::default(),
            deployments: Writer::default(),
            pods: Writer::default(),
            services: Writer::default(),
        };
        let cache = Self {
            meshes: writers.meshes.as_reader(),
            topics: writers.topics.as_reader(),
            subscriptions: writers.subscriptions.as_reader(),
            bridges: writers.bridges.as_reader(),
            namespaces: writers.namespaces.as_reader(),
            service_accounts: writers.service_accounts.as_reader(),
            credentials: writers.credentials.as_reader(),
            stateful_sets: writers.stateful_sets.as_reader(),
            deployments: writers.deployments.as_reader(),
            pods: writers.pods.as_reader(),
            services: writers.services.as_reader(),
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
            self.service_accounts.wait_until_ready(),
            self.credentials.wait_until_ready(),
            self.stateful_sets.wait_until_ready(),
            self.deployments.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.services.wait_until_ready(),
        )
        .is_ok()
    }

    pub fn mesh(&self, key: &MeshKey) -> Option<std::sync::Arc<EventMesh>> {
        self.meshes.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    /// The proxies of service meshes that pods of a namespace get.
    pub fn proxies(&self, setting: ServiceMesh, namespace: &str) -> Proxies {
        let found = self.namespaces.get(&ObjectRef::new(namespace));
        let metadata = found.map(|found| found.metadata.clone()).unwrap_or_default();
        let (labels, annotations) = (metadata.labels.unwrap_or_default(), metadata.annotations.unwrap_or_default());
        Proxies::of_namespace(setting, &labels, &annotations)
    }

    pub fn topic(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Topic>> {
        self.topics.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn bridge(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Bridge>> {
        self.bridges.get(&ObjectRef::new(name).within(namespace))
    }

    /// The uid of a ServiceAccount, if it exists.
    pub fn service_account(&self, namespace: &str, name: &str) -> Option<String> {
        self.service_accounts.get(&ObjectRef::new(name).within(namespace))?.metadata.uid.clone()
    }

    /// Names of the ServiceAccounts of a namespace.
    pub fn service_accounts_of(&self, namespace: &str) -> Vec<String> {
        let found = self.service_accounts.state_filter(|account| account.namespace().as_deref() == Some(namespace));
        found.iter().map(|account| account.name_any()).collect()
    }

    /// The version of a Secret with credentials, if it exists.
    pub fn credentials_version(&self, namespace: &str, name: &str) -> Option<String> {
        self.credentials.get(&ObjectRef::new(name).within(namespace))?.metadata.resource_version.clone()
    }

    /// Namespace and name of the credentials of a mesh whose party, by its name, `wanted` asks for.
    pub fn credentials_of(&self, mesh: &MeshKey, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let found = self.credentials.state_filter(|secret| {
            credentials_mesh(&secret.metadata).as_ref() == Some(mesh)
                && secret.annotations().get(PARTY).is_some_and(|party| wanted(party))
        });
        found.iter().map(|secret| namespaced(&**secret)).collect()
    }

    /// Credentials of meshes that do not exist: mesh, namespace and name.
    pub fn credentials_without_mesh(&self) -> Vec<(MeshKey, String, String)> {
        let all = self.credentials.state().into_iter();
        let found = all.filter_map(|secret| Some((credentials_mesh(&secret.metadata)?, namespaced(&*secret))));
        let lost = found.filter(|(mesh, _)| self.mesh(mesh).is_none());
        lost.map(|(mesh, (namespace, name))| (mesh, namespace, name)).collect()
    }

    pub fn topic_index(&self) -> RwLockReadGuard<'_, TopicIndex> {
        self.topic_index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change_topic_index<T>(&self, change: impl FnOnce(&mut TopicIndex) -> T) -> T {
        change(&mut self.topic_index.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The mesh that credentials are for.
pub fn credentials_mesh(secret: &ObjectMeta) -> Option<MeshKey> {
    let label = |name: &str| secret.labels.as_ref()?.get(name).cloned();
    Some(MeshKey { namespace: label(MESH_NAMESPACE)?, name: label(labels::MESH)? })
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
