//! Who looks again when something changes: the only place where events become work.
//!
//! Watch events and broker events come in, references to objects go out to the queues of the controllers. The queues
//! merge what is asked for twice, so a rule may be generous; it must never forget anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use eventmesh_wire::names;
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    broker::{BrokerChange, BrokerEvent, Brokers, MeshKey},
    cache::{
        Cache,
        feed::{Observed, fingerprint},
        mesh_key, namespaced,
        topics::TopicKey,
    },
    labels,
};

/// The sending ends of the controllers' queues.
#[derive(Clone)]
pub struct Wakers {
    meshes: UnboundedSender<ObjectRef<EventMesh>>,
    topics: UnboundedSender<ObjectRef<Topic>>,
    subscriptions: UnboundedSender<ObjectRef<Subscription>>,
    bridges: UnboundedSender<ObjectRef<Bridge>>,
}

/// The receiving ends.
pub struct Queues {
    pub meshes: UnboundedReceiver<ObjectRef<EventMesh>>,
    pub topics: UnboundedReceiver<ObjectRef<Topic>>,
    pub subscriptions: UnboundedReceiver<ObjectRef<Subscription>>,
    pub bridges: UnboundedReceiver<ObjectRef<Bridge>>,
}

#[must_use]
pub fn queues() -> (Wakers, Queues) {
    let (meshes_tx, meshes) = unbounded();
    let (topics_tx, topics) = unbounded();
    let (subscriptions_tx, subscriptions) = unbounded();
    let (bridges_tx, bridges) = unbounded();
    let wakers = Wakers { meshes: meshes_tx, topics: topics_tx, subscriptions: subscriptions_tx, bridges: bridges_tx };
    (wakers, Queues { meshes, topics, subscriptions, bridges })
}

impl Wakers {
    fn mesh(&self, key: &MeshKey) {
        // A closed queue means that the operator is shutting down.
        let _ = self.meshes.unbounded_send(ObjectRef::new(&key.name).within(&key.namespace));
    }

    fn topic(&self, (namespace, name): &TopicKey) {
        let _ = self.topics.unbounded_send(ObjectRef::new(name).within(namespace));
    }

    fn subscription(&self, namespace: &str, name: &str) {
        let _ = self.subscriptions.unbounded_send(ObjectRef::new(name).within(namespace));
    }

    fn bridge(&self, namespace: &str, name: &str) {
        let _ = self.bridges.unbounded_send(ObjectRef::new(name).within(namespace));
    }
}

/// Meshes whose numbers of Topics, Subscriptions or Bridges have changed.
pub type Counts = UnboundedReceiver<MeshKey>;

/// How long changes of a mesh's numbers are gathered before the mesh looks: a thousand Topics come one by one.
const GATHER: Duration = Duration::from_secs(2);

/// The rules.
#[derive(Clone)]
pub struct Rules {
    cache: Arc<Cache>,
    brokers: Arc<Brokers>,
    wake: Wakers,
    counts: UnboundedSender<MeshKey>,
}

impl Rules {
    #[must_use]
    pub fn new(cache: Arc<Cache>, brokers: Arc<Brokers>, wake: Wakers) -> (Self, Counts) {
        let (counts_tx, counts) = unbounded();
        (Self { cache, brokers, wake, counts: counts_tx }, counts)
    }

    /// Wakes meshes whose numbers have changed, until the rules are dropped.
    pub async fn follow_counts(self, mut counts: Counts) {
        let Self { wake, counts: own, .. } = self;
        // Not held open by this task itself.
        drop(own);
        while let Some(first) = counts.next().await {
            tokio::time::sleep(GATHER).await;
            let mut meshes = BTreeSet::from([first]);
            while let Ok(more) = counts.try_recv() {
                meshes.insert(more);
            }
            for mesh in &meshes {
                wake.mesh(mesh);
            }
        }
    }

    fn count(&self, mesh: MeshKey) {
        let _ = self.counts.unbounded_send(mesh);
    }

    /// Observer of EventMeshes.
    pub fn meshes(self) -> impl FnMut(Observed<'_, EventMesh>) {
        let mut seen = Seen::default();
        move |observed| {
            let (mesh, gone) = match observed {
                Observed::Applied(mesh) if seen.changed(mesh) => (mesh, false),
                Observed::Deleted(mesh) => {
                    seen.forget(mesh);
                    (mesh, true)
                }
                Observed::Applied(_) => return,
                Observed::Listed => {
                    for (namespace, name) in seen.retain(|key| self.cache.mesh(&mesh_key_of(key)).is_some()) {
                        let key = MeshKey { namespace, name };
                        self.brokers.remove(&key);
                        self.users_of(&key);
                    }
                    return;
                }
            };
            let (namespace, name) = namespaced(mesh);
            let key = MeshKey { namespace, name };
            if gone {
                self.brokers.remove(&key);
            }
            self.wake.mesh(&key);
            self.users_of(&key);
        }
    }

    /// Observer of Topics; also keeps the index of their subjects.
    pub fn topics(self) -> impl FnMut(Observed<'_, Topic>) {
        let mut seen = Seen::default();
        move |observed| {
            let (topic, freed) = match observed {
                Observed::Applied(topic) => {
                    // A status counts too: it tells whose stream exists.
                    let freed = self.cache.change_topic_index(|index| index.put(topic));
                    if !seen.changed(topic) {
                        return;
                    }
                    (topic, freed)
                }
                Observed::Deleted(topic) => {
                    seen.forget(topic);
                    (topic, self.cache.change_topic_index(|index| index.remove(&namespaced(topic))))
                }
                Observed::Listed => {
                    let gone = seen.retain(|key| self.cache.topic(&key.0, &key.1).is_some());
                    for key in gone {
                        let freed = self.cache.change_topic_index(|index| index.remove(&key));
                        for freed in &freed {
                            self.wake.topic(freed);
                        }
                    }
                    return;
                }
            };
            let key = namespaced(topic);
            self.wake.topic(&key);
            for freed in &freed {
                self.wake.topic(freed);
            }
            self.subscriptions_of(&key);
            let mesh = mesh_key(&topic.spec.mesh, &key.0);
            self.count(mesh.clone());
            self.bridges_where(|namespace, bridge| mesh_key(&bridge.spec.mesh, namespace) == mesh);
        }
    }

    /// Observer of Subscriptions.
    pub fn subscriptions(self) -> impl FnMut(Observed<'_, Subscription>) {
        let mut seen = Seen::default();
        move |observed| {
            let subscription = match observed {
                Observed::Applied(subscription) if seen.changed(subscription) => subscription,
                Observed::Deleted(subscription) => {
                    seen.forget(subscription);
                    subscription
                }
                Observed::Applied(_) | Observed::Listed => return,
            };
            let (namespace, name) = namespaced(subscription);
            self.wake.subscription(&namespace, &name);
            if let Some(topic) = self.cache.topic(&namespace, &subscription.spec.topic.name) {
                self.count(mesh_key(&topic.spec.mesh, &namespace));
            }
        }
    }

    /// Observer of Bridges.
    pub fn bridges(self) -> impl FnMut(Observed<'_, Bridge>) {
        let mut seen = Seen::default();
        move |observed| {
            let bridge = match observed {
                Observed::Applied(bridge) if seen.changed(bridge) => bridge,
                Observed::Deleted(bridge) => {
                    seen.forget(bridge);
                    bridge
                }
                Observed::Applied(_) | Observed::Listed => return,
            };
            let (namespace, name) = namespaced(bridge);
            self.wake.bridge(&namespace, &name);
            self.count(mesh_key(&bridge.spec.mesh, &namespace));
        }
    }

    /// Observer of namespaces: their labels decide who may use a mesh.
    pub fn namespaces<K: ResourceExt>(self) -> impl FnMut(Observed<'_, K>) {
        let mut labels = BTreeMap::new();
        move |observed| {
            let Observed::Applied(namespace) = observed else { return };
            let name = namespace.name_any();
            let before = labels.insert(name.clone(), namespace.labels().clone());
            // The first sight of a namespace changes nothing for objects that are not there yet.
            if before.is_none_or(|before| before == *namespace.labels()) {
                return;
            }
            for topic in self.cache.topics.state() {
                let key = namespaced(&*topic);
                if key.0 == name {
                    self.wake.topic(&key);
                }
            }
            self.bridges_where(|namespace, _| namespace == name);
        }
    }

    /// Observer of Secrets: those that Bridges name, and those that belong to a mesh or a Bridge.
    pub fn secrets<K: ResourceExt>(self) -> impl FnMut(Observed<'_, K>) {
        let mut children = self.clone().children();
        move |observed| {
            if let Observed::Applied(secret) | Observed::Deleted(secret) = &observed {
                let (secret_namespace, secret) = namespaced(*secret);
                self.bridges_where(|namespace, bridge| {
                    namespace == secret_namespace && bridge.spec.secret_names().contains(&secret.as_str())
                });
            }
            children(observed);
        }
    }

    /// Observer of any child: wakes the object that owns it, or that its labels name.
    pub fn children<K: ResourceExt>(self) -> impl FnMut(Observed<'_, K>) {
        move |observed| {
            if let Observed::Applied(child) | Observed::Deleted(child) = observed {
                self.owner(child.meta());
            }
        }
    }

    fn owner(&self, child: &ObjectMeta) {
        let namespace = child.namespace.clone().unwrap_or_default();
        let label = |name: &str| child.labels.as_ref().and_then(|all| all.get(name)).map(String::as_str);
        let owner =
            child.owner_references.iter().flatten().find(|owner| owner.api_version.starts_with("eventmesh.dev/"));
        let (kind, name) = match (owner, label(labels::COMPONENT), label(labels::INSTANCE)) {
            (Some(owner), ..) => (owner.kind.as_str(), owner.name.clone()),
            (None, Some("broker"), Some(name)) => ("EventMesh", name.to_owned()),
            (None, Some("bridge"), Some(name)) => ("Bridge", name.to_owned()),
            _ => return,
        };
        match kind {
            "EventMesh" => self.wake.mesh(&MeshKey { namespace, name }),
            "Bridge" => self.wake.bridge(&namespace, &name),
            _ => {}
        }
    }

    /// Turns broker events into work until the channel closes.
    pub async fn follow_brokers(self, mut events: Receiver<BrokerEvent>) {
        loop {
            match events.recv().await {
                Ok(event) => self.broker(&event),
                // Too many at once to be told one by one: everybody looks.
                Err(RecvError::Lagged(_)) => self.everybody(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn broker(&self, event: &BrokerEvent) {
        match &event.change {
            BrokerChange::Synced | BrokerChange::Lost => {
                self.wake.mesh(&event.mesh);
                self.users_of(&event.mesh);
            }
            BrokerChange::Health => self.wake.mesh(&event.mesh),
            BrokerChange::Stream(stream) => {
                if let Some(topic) = topic_of(stream) {
                    self.wake.topic(&topic);
                    self.dependents_of(&topic);
                }
            }
            BrokerChange::StreamReady(stream) => {
                if let Some(topic) = topic_of(stream) {
                    self.dependents_of(&topic);
                }
            }
            BrokerChange::Consumer { stream, consumer } => self.consumer(stream, consumer),
            BrokerChange::Report { namespace, bridge } => self.wake.bridge(namespace, bridge),
        }
    }

    fn consumer(&self, stream: &str, consumer: &str) {
        let mut parts = consumer.splitn(4, '_');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("sub"), Some(namespace), Some(name)) => self.wake.subscription(namespace, name),
            (Some("bridge"), Some(namespace), Some(name)) => self.wake.bridge(namespace, name),
            _ => {}
        }
        // The number of consumers is part of the Topic's status.
        if let Some(topic) = topic_of(stream) {
            self.wake.topic(&topic);
        }
    }

    fn users_of(&self, mesh: &MeshKey) {
        for topic in self.cache.topics.state() {
            let key = namespaced(&*topic);
            if mesh_key(&topic.spec.mesh, &key.0) == *mesh {
                self.wake.topic(&key);
            }
        }
        // A Subscription names no mesh; those without a Topic must hear of a mesh that goes as well.
        for subscription in self.cache.subscriptions.state() {
            let (namespace, name) = namespaced(&*subscription);
            let topic = self.cache.topic(&namespace, &subscription.spec.topic.name);
            if topic.is_none_or(|topic| mesh_key(&topic.spec.mesh, &namespace) == *mesh) {
                self.wake.subscription(&namespace, &name);
            }
        }
        self.bridges_where(|namespace, bridge| mesh_key(&bridge.spec.mesh, namespace) == *mesh);
    }

    fn subscriptions_of(&self, (topic_namespace, topic): &TopicKey) {
        for subscription in self.cache.subscriptions.state() {
            let (namespace, name) = namespaced(&*subscription);
            if namespace == *topic_namespace && subscription.spec.topic.name == *topic {
                self.wake.subscription(&namespace, &name);
            }
        }
    }

    fn dependents_of(&self, topic: &TopicKey) {
        self.subscriptions_of(topic);
        self.bridges_where(|namespace, bridge| {
            namespace == topic.0 && bridge.spec.outbound.iter().flatten().any(|route| route.from.topic == topic.1)
        });
    }

    fn bridges_where(&self, wanted: impl Fn(&str, &Bridge) -> bool) {
        for bridge in self.cache.bridges.state() {
            let (namespace, name) = namespaced(&*bridge);
            if wanted(&namespace, &bridge) {
                self.wake.bridge(&namespace, &name);
            }
        }
    }

    fn everybody(&self) {
        for mesh in self.cache.meshes.state() {
            let (namespace, name) = namespaced(&*mesh);
            let key = MeshKey { namespace, name };
            self.wake.mesh(&key);
            self.users_of(&key);
        }
    }
}

fn mesh_key_of((namespace, name): &(String, String)) -> MeshKey {
    MeshKey { namespace: namespace.clone(), name: name.clone() }
}

/// The Topic whose stream this is: the inverse of [`names::stream`].
fn topic_of(stream: &str) -> Option<TopicKey> {
    let (namespace, topic) = stream.split_once('_')?;
    (names::stream(namespace, topic) == stream).then(|| (namespace.to_owned(), topic.to_owned()))
}

/// Which objects have been seen with which fingerprint, so that status writes wake nobody.
#[derive(Default)]
struct Seen(BTreeMap<(String, String), u64>);

impl Seen {
    fn changed<K: ResourceExt>(&mut self, object: &K) -> bool {
        let now = fingerprint(object);
        self.0.insert(namespaced(object), now) != Some(now)
    }

    fn forget<K: ResourceExt>(&mut self, object: &K) {
        self.0.remove(&namespaced(object));
    }

    /// Forgets what `keep` refuses and returns it.
    fn retain(&mut self, keep: impl Fn(&(String, String)) -> bool) -> Vec<(String, String)> {
        let gone: Vec<_> = self.0.keys().filter(|key| !keep(key)).cloned().collect();
        for key in &gone {
            self.0.remove(key);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_names_its_topic() {
        assert_eq!(topic_of("shop_accounts"), Some(("shop".into(), "accounts".into())));
        assert_eq!(topic_of("KV"), None);
    }

    #[tokio::test]
    async fn a_consumer_event_wakes_its_owner_and_the_topic() {
        let (cache, _writers) = Cache::new();
        let (wakers, mut queues) = queues();
        let brokers = Arc::new(Brokers::new(tokio_util::sync::CancellationToken::new()));
        let (rules, _counts) = Rules::new(Arc::new(cache), brokers, wakers);
        rules.consumer("shop_accounts", "sub_shop_ledger");
        rules.consumer("shop_accounts", "bridge_shop_factory_commands");
        rules.consumer("shop_accounts", "by-hand");
        assert_eq!(queues.subscriptions.try_recv().expect("woken").name, "ledger");
        assert_eq!(queues.bridges.try_recv().expect("woken").name, "factory");
        assert!(queues.subscriptions.try_recv().is_err() && queues.bridges.try_recv().is_err());
        assert_eq!(queues.topics.try_recv().expect("woken").name, "accounts");
    }
}
