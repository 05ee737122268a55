//! Who looks again when something changes: the only place where events become work.
//!
//! Watch events and broker events come in, references to objects go out to the queues of the controllers. The queues
//! merge what is asked for twice, so a rule may be generous; it must never forget anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic, common::NamespacedRef, link::Link, mesh::ServiceMesh};
use eventmesh_wire::names;
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    broker::{BrokerChange, BrokerEvent, Brokers, MeshKey, given_up::NOTES},
    cache::{
        Cache, credentials_mesh,
        feed::{Observed, fingerprint},
        mesh_key, namespaced,
        topics::TopicKey,
    },
    dead_letters::target,
    identity::party::Party,
    labels,
    mesh::{build::names as mesh_names, outside_secret},
    service_mesh::Proxies,
};

/// The sending ends of the controllers' queues.
#[derive(Clone)]
pub struct Wakers {
    meshes: UnboundedSender<ObjectRef<EventMesh>>,
    topics: UnboundedSender<ObjectRef<Topic>>,
    subscriptions: UnboundedSender<ObjectRef<Subscription>>,
    bridges: UnboundedSender<ObjectRef<Bridge>>,
    identities: UnboundedSender<ObjectRef<EventMesh>>,
}

/// The receiving ends.
pub struct Queues {
    pub meshes: UnboundedReceiver<ObjectRef<EventMesh>>,
    pub topics: UnboundedReceiver<ObjectRef<Topic>>,
    pub subscriptions: UnboundedReceiver<ObjectRef<Subscription>>,
    pub bridges: UnboundedReceiver<ObjectRef<Bridge>>,
    /// Meshes whose parties, or their rights, may have changed.
    pub identities: UnboundedReceiver<ObjectRef<EventMesh>>,
}

#[must_use]
pub fn queues() -> (Wakers, Queues) {
    let (meshes_tx, meshes) = unbounded();
    let (topics_tx, topics) = unbounded();
    let (subscriptions_tx, subscriptions) = unbounded();
    let (bridges_tx, bridges) = unbounded();
    let (identities_tx, identities) = unbounded();
    let wakers = Wakers {
        meshes: meshes_tx,
        topics: topics_tx,
        subscriptions: subscriptions_tx,
        bridges: bridges_tx,
        identities: identities_tx,
    };
    (wakers, Queues { meshes, topics, subscriptions, bridges, identities })
}

impl Wakers {
    fn mesh(&self, key: &MeshKey) {
        // A closed queue means that the operator is shutting down.
        let _ = self.meshes.unbounded_send(ObjectRef::new(&key.name).within(&key.namespace));
    }

    fn identities(&self, key: &MeshKey) {
        let _ = self.identities.unbounded_send(ObjectRef::new(&key.name).within(&key.namespace));
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
            self.wake.identities(&key);
            self.linked_with(&key, mesh);
            self.users_of(&key);
        }
    }

    /// Meshes that have a link to this one, or had: what both may carry has changed.
    fn linked_with(&self, key: &MeshKey, mesh: &EventMesh) {
        let named = links_of(key, mesh);
        for other in self.cache.meshes.state() {
            let other_key = mesh_key_of(&namespaced(&*other));
            if other_key != *key && (named.contains(&other_key) || links_of(&other_key, &other).contains(key)) {
                self.wake.mesh(&other_key);
                self.wake.identities(&other_key);
            }
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
            self.wake.identities(&mesh);
            self.bridges_where(|namespace, bridge| mesh_key(&bridge.spec.mesh, namespace) == mesh);
            if topic.spec.mirror.is_some() {
                self.copies_in(&mesh);
            }
        }
    }

    /// Of two copies of one Topic, the younger waits for the older to go.
    fn copies_in(&self, mesh: &MeshKey) {
        for topic in self.cache.topics.state().iter().filter(|topic| topic.spec.mirror.is_some()) {
            let key = namespaced(&**topic);
            if mesh_key(&topic.spec.mesh, &key.0) == *mesh {
                self.wake.topic(&key);
            }
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
            // It may have closed a circle of dead letters, or opened one.
            for (namespace, name) in
                target::leading_to(&self.cache.subscriptions.state(), &target::source(subscription))
            {
                self.wake.subscription(&namespace, &name);
            }
            let of = subscription.spec.topic.namespace_or(&namespace);
            match self.cache.topic(of, &subscription.spec.topic.name) {
                Some(topic) => {
                    let mesh = mesh_key(&topic.spec.mesh, of);
                    self.wake.identities(&mesh);
                    self.count(mesh);
                }
                // What it has left may be in any mesh.
                None => self.cache.meshes.state().iter().for_each(|mesh| self.count(mesh_key_of(&namespaced(&**mesh)))),
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
            for topic in self.cache.topics.state() {
                let key = namespaced(&*topic);
                let names = |to: &NamespacedRef| to.name == name && to.namespace_or(&key.0) == namespace;
                if topic.spec.grants.iter().flatten().any(|grant| grant.to.bridge.as_ref().is_some_and(names)) {
                    self.wake.topic(&key);
                }
            }
            let mesh = mesh_key(&bridge.spec.mesh, &namespace);
            self.wake.identities(&mesh);
            self.count(mesh);
        }
    }

    /// Observer of namespaces: their labels decide who may use a mesh, and with their annotations which service mesh is
    /// around pods.
    pub fn namespaces<K: ResourceExt>(self) -> impl FnMut(Observed<'_, K>) {
        let mut labels = BTreeMap::new();
        let mut proxies = BTreeMap::new();
        move |observed| {
            let Observed::Applied(namespace) = observed else { return };
            let name = namespace.name_any();
            let around = Proxies::of_namespace(ServiceMesh::Auto, namespace.labels(), namespace.annotations());
            // A mesh may have been looked at before its namespace was seen.
            if proxies.insert(name.clone(), around).unwrap_or_default() != around {
                for mesh in self.cache.meshes.state() {
                    let key = mesh_key_of(&namespaced(&*mesh));
                    if key.namespace == name {
                        self.wake.mesh(&key);
                    }
                }
                self.bridges_where(|namespace, _| namespace == name);
            }
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
            self.all_identities();
        }
    }

    /// Observer of ServiceAccounts: those that come or go are named by grants and by Subscriptions.
    pub fn service_accounts<K: ResourceExt>(self) -> impl FnMut(Observed<'_, K>) {
        let mut children = self.clone().children();
        let mut seen: BTreeMap<(String, String), Option<String>> = BTreeMap::new();
        move |observed| {
            let news = match &observed {
                Observed::Applied(account) => {
                    let key = namespaced(*account);
                    (seen.insert(key.clone(), account.uid()) != Some(account.uid())).then_some(key)
                }
                Observed::Deleted(account) => {
                    let key = namespaced(*account);
                    seen.remove(&key);
                    Some(key)
                }
                Observed::Listed => {
                    seen.retain(|key, _| self.cache.service_account(&key.0, &key.1).is_some());
                    None
                }
            };
            if let Some((namespace, name)) = news {
                self.users_of_account(&namespace, &name);
            }
            children(observed);
        }
    }

    /// Whom a ServiceAccount concerns: Subscriptions that it reads, Topics that grant it something, and their meshes.
    fn users_of_account(&self, namespace: &str, name: &str) {
        for subscription in self.cache.subscriptions.state() {
            let (own, subscription_name) = namespaced(&*subscription);
            let party = Party::of_subscription(&subscription);
            if matches!(&party, Party::ServiceAccount { namespace: n, name: a } if n == namespace && a == name) {
                self.wake.subscription(&own, &subscription_name);
                let of = subscription.spec.topic.namespace_or(&own);
                if let Some(topic) = self.cache.topic(of, &subscription.spec.topic.name) {
                    self.wake.identities(&mesh_key(&topic.spec.mesh, of));
                }
            }
        }
        for topic in self.cache.topics.state() {
            let key = namespaced(&*topic);
            let concerned = topic.spec.grants.iter().flatten().any(|grant| {
                let account = grant.to.service_account.as_ref();
                grant.to.namespace.as_deref() == Some(namespace)
                    || account.is_some_and(|a| a.name == name && a.namespace_or(&key.0) == namespace)
            });
            if concerned {
                self.wake.topic(&key);
                self.wake.identities(&mesh_key(&topic.spec.mesh, &key.0));
            }
        }
    }

    /// Observer of the Secrets by which parties connect.
    pub fn credentials<K: ResourceExt>(self) -> impl FnMut(Observed<'_, K>) {
        move |observed| {
            if let Observed::Applied(secret) | Observed::Deleted(secret) = observed
                && let Some(mesh) = credentials_mesh(secret.meta())
            {
                self.wake.identities(&mesh);
                // The other side of a link dials with it.
                if secret.annotations().get(labels::PARTY).is_some_and(|party| party.starts_with("link/")) {
                    for other in self.cache.meshes.state() {
                        let key = mesh_key_of(&namespaced(&*other));
                        if links_of(&key, &other).contains(&mesh) {
                            self.wake.mesh(&key);
                        }
                    }
                }
            }
        }
    }

    fn all_identities(&self) {
        for mesh in self.cache.meshes.state() {
            self.wake.identities(&mesh_key_of(&namespaced(&*mesh)));
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
                self.secret_of_a_mesh(&secret_namespace, &secret);
            }
            children(observed);
        }
    }

    /// What a Secret is to a mesh: its certificate from outside, its keys, or what those who connect trust.
    fn secret_of_a_mesh(&self, secret_namespace: &str, secret: &str) {
        for mesh in self.cache.meshes.state() {
            let (namespace, name) = namespaced(&*mesh);
            if namespace != secret_namespace {
                continue;
            }
            let key = MeshKey { namespace, name };
            let links = mesh.spec.links.as_deref().unwrap_or_default();
            let remote = |link: &Link| Some(link.to.remote.as_ref()?.secret.as_ref()?.name == secret);
            let accounts_of_links = !links.is_empty() && mesh_names::identities(&key.name) == secret;
            if accounts_of_links || links.iter().any(|link| remote(link) == Some(true)) {
                self.wake.mesh(&key);
            }
            if outside_secret(&mesh).is_some_and(|outside| outside == secret) {
                self.wake.mesh(&key);
            }
            if mesh_names::identities(&key.name) == secret || mesh_names::keys(&key.name) == secret {
                self.wake.identities(&key);
            }
            if mesh_names::broker_tls(&key.name) == secret {
                // It is part of every party's credentials.
                self.wake.identities(&key);
                self.bridges_where(|namespace, bridge| mesh_key(&bridge.spec.mesh, namespace) == key);
            }
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
            (None, Some("broker" | "keys"), Some(name)) => ("EventMesh", name.to_owned()),
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
                self.wake.identities(&event.mesh);
                self.users_of(&event.mesh);
            }
            // What it leads to is told by itself.
            BrokerChange::Opened => {}
            BrokerChange::Restarted => self.wake.identities(&event.mesh),
            BrokerChange::Health => self.wake.mesh(&event.mesh),
            BrokerChange::Stream(stream) if stream == NOTES => {
                self.subscriptions_where(|one| one.spec.dead_letter.is_some());
            }
            BrokerChange::Stream(stream) if stream == names::LEASE_STREAM => {
                // Its numbers always move. When it is gone, its users make it again.
                let broker = self.brokers.get(&event.mesh);
                if broker.is_some_and(|broker| broker.view().stream(stream).is_none()) {
                    self.bridges_where(|namespace, bridge| mesh_key(&bridge.spec.mesh, namespace) == event.mesh);
                }
            }
            BrokerChange::Stream(stream) => {
                if let Some(topic) = topic_of(stream) {
                    self.wake.topic(&topic);
                    self.dependents_of(&topic);
                    if self.cache.topic(&topic.0, &topic.1).is_none() {
                        self.refused_topics_of(&event.mesh);
                    }
                }
            }
            BrokerChange::StreamReady(stream) => {
                if let Some(topic) = topic_of(stream) {
                    self.dependents_of(&topic);
                }
            }
            BrokerChange::Consumer { stream, consumer } => self.consumer(stream, consumer),
            BrokerChange::Report { namespace, bridge } => self.wake.bridge(namespace, bridge),
            BrokerChange::Copy(stream) => {
                if let Some(topic) = topic_of(stream) {
                    self.wake.topic(&topic);
                }
            }
        }
    }

    /// Topics that the brokers have refused, perhaps for a stream that nobody has.
    fn refused_topics_of(&self, mesh: &MeshKey) {
        for topic in self.cache.topics.state() {
            let key = namespaced(&*topic);
            let conditions = topic.status.iter().flat_map(|status| &status.conditions);
            let is_refused = conditions.into_iter().any(|one| one.type_ == "Programmed" && one.status == "False");
            if is_refused && mesh_key(&topic.spec.mesh, &key.0) == *mesh {
                self.wake.topic(&key);
            }
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
            let of = subscription.spec.topic.namespace_or(&namespace);
            let topic = self.cache.topic(of, &subscription.spec.topic.name);
            if topic.is_none_or(|topic| mesh_key(&topic.spec.mesh, of) == *mesh) {
                self.wake.subscription(&namespace, &name);
            }
        }
        self.bridges_where(|namespace, bridge| mesh_key(&bridge.spec.mesh, namespace) == *mesh);
    }

    /// Those that read a Topic, and those whose dead letters go there.
    fn subscriptions_of(&self, topic: &TopicKey) {
        self.subscriptions_where(|one| target::source(one) == *topic || target::topic(one).as_ref() == Some(topic));
    }

    fn subscriptions_where(&self, wanted: impl Fn(&Subscription) -> bool) {
        for subscription in self.cache.subscriptions.state() {
            if wanted(&subscription) {
                let (namespace, name) = namespaced(&*subscription);
                self.wake.subscription(&namespace, &name);
            }
        }
    }

    fn dependents_of(&self, topic: &TopicKey) {
        self.subscriptions_of(topic);
        self.bridges_where(|namespace, bridge| {
            bridge.spec.outbound.iter().flatten().any(|route| {
                route.from.topic == topic.1 && route.from.namespace.as_deref().unwrap_or(namespace) == topic.0
            })
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
            self.wake.identities(&key);
            self.users_of(&key);
        }
    }
}

/// The meshes of this cluster to which one has links.
fn links_of(key: &MeshKey, mesh: &EventMesh) -> BTreeSet<MeshKey> {
    let links = mesh.spec.links.iter().flatten();
    links.filter_map(|link| Some(mesh_key(link.to.mesh.as_ref()?, &key.namespace))).collect()
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
