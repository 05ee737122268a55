//! What a Bridge refers to: mesh, Topics, Secrets and its own credentials.
//!
//! Everything is in the cache but the contents of Secrets, which are read when a pass needs them: the operator holds
//! no copy of other people's Secrets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eventmesh_crds::{
    Bridge, Topic,
    bridge::{InboundRoute, OutboundRoute},
    topic::Right,
};
use eventmesh_wire::{self as wire, config::MeshCredentials};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::{
    cache::{namespaced, topics::TopicKey},
    engine::{Context, Error},
    identity::{credentials, grants::covers, party::Party},
    refs::{MeshProblem, ResolvedMesh, resolve_mesh},
    subjects::delivered_subjects,
    trust,
};

/// Everything a pass over a Bridge reads.
pub struct Resolved {
    pub mesh: Result<ResolvedMesh, MeshProblem>,
    /// By which its pods connect, once the identity controller has issued them.
    pub credentials: Option<MeshCredentials>,
    /// What clients of the mesh trust; absent while it has no certificates.
    pub trust: Option<String>,
    /// Secrets by name; `None` for one that does not exist.
    pub secrets: BTreeMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    /// Topics of outbound routes and of dead letters, by namespace and name.
    pub topics: BTreeMap<TopicKey, Option<Arc<Topic>>>,
    /// The Topic that stores what an inbound route delivers, by route: namespace and name.
    pub stores: BTreeMap<String, TopicKey>,
    /// Those of these Topics that are copies.
    pub copies: BTreeSet<TopicKey>,
    /// Routes to or from Topics whose owners do not let the Bridge use them, and what they would have to allow.
    pub refused: BTreeMap<String, (TopicKey, Right)>,
}

pub async fn run(context: &Context, bridge: &Bridge) -> Result<Resolved, Error> {
    let (namespace, _) = namespaced(bridge);
    let mesh = resolve_mesh(context, &bridge.spec.mesh, &namespace);
    let (credentials, trust) = match &mesh {
        Ok(mesh) => (read_credentials(context, bridge).await?, trust::read(context, &mesh.key).await?),
        Err(_) => (None, None),
    };
    let secrets_api = Api::<Secret>::namespaced(context.client.clone(), &namespace);
    let mut secrets = BTreeMap::new();
    for name in bridge.spec.secret_names() {
        let secret = secrets_api.get_opt(name).await.map_err(Error::kubernetes("read a Secret of the endpoint"))?;
        let data = secret.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect());
        secrets.insert(name.to_owned(), data);
    }
    let topics =
        topic_keys(bridge).map(|key| (key.clone(), context.cache.topic(&key.0, &key.1))).collect::<BTreeMap<_, _>>();
    let stores = match &mesh {
        Ok(mesh) => stores(context, bridge, mesh),
        Err(_) => BTreeMap::new(),
    };
    let refused = refused(context, bridge, &stores);
    let is_copy =
        |key: &&TopicKey| context.cache.topic(&key.0, &key.1).is_some_and(|topic| topic.spec.mirror.is_some());
    let copies = topics.keys().chain(stores.values()).filter(is_copy).cloned().collect();
    Ok(Resolved { mesh, credentials, trust, secrets, topics, stores, copies, refused })
}

async fn read_credentials(context: &Context, bridge: &Bridge) -> Result<Option<MeshCredentials>, Error> {
    let (namespace, name) = namespaced(bridge);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &namespace);
    let secret = secrets.get_opt(&credentials::bridge_secret(&name)).await;
    let secret = secret.map_err(Error::kubernetes("read the credentials of the Bridge"))?;
    let text = |key: &str| {
        let value = secret.as_ref()?.data.as_ref()?.get(key)?.0.clone();
        String::from_utf8(value).ok().map(wire::secret::Secret::new)
    };
    Ok(text(credentials::JWT).zip(text(credentials::SEED)).map(|(jwt, seed)| MeshCredentials { jwt, seed }))
}

/// The Topic that an outbound route reads.
pub fn source(bridge: &Bridge, route: &OutboundRoute) -> TopicKey {
    let namespace = route.from.namespace.clone().unwrap_or_else(|| namespaced(bridge).0);
    (namespace, route.from.topic.clone())
}

/// The Topic that takes dead letters; of the Bridge's own namespace.
pub fn dead_letters(bridge: &Bridge) -> Option<TopicKey> {
    let dead = bridge.spec.delivery.as_ref()?.dead_letter.as_ref()?;
    Some((namespaced(bridge).0, dead.topic.clone()))
}

fn topic_keys(bridge: &Bridge) -> impl Iterator<Item = TopicKey> {
    let outbound = bridge.spec.outbound.iter().flatten().map(|route| source(bridge, route));
    outbound.chain(dead_letters(bridge))
}

/// The routes that lack a grant. Within a namespace none is needed.
fn refused(
    context: &Context,
    bridge: &Bridge,
    stores: &BTreeMap<String, TopicKey>,
) -> BTreeMap<String, (TopicKey, Right)> {
    let party = Party::of_bridge(bridge);
    let topic = |(namespace, name): &TopicKey| context.cache.topic(namespace, name);
    let inbound = bridge.spec.inbound.iter().flatten().filter_map(|route| {
        let key = stores.get(&route.name)?;
        let wanted = [delivered_subjects(&route.to)?.as_str().to_owned()];
        let permitted = covers(&*topic(key)?, &party, Right::Publish, Some(&wanted));
        (!permitted).then(|| (route.name.clone(), (key.clone(), Right::Publish)))
    });
    let outbound = bridge.spec.outbound.iter().flatten().filter_map(|route| {
        let key = source(bridge, route);
        // Within the namespace a filter that is none is told of as such.
        let own = key.0 == namespaced(bridge).0;
        let permitted = own || covers(&*topic(&key)?, &party, Right::Subscribe, route.from.filter.as_deref());
        (!permitted).then(|| (route.name.clone(), (key, Right::Subscribe)))
    });
    inbound.chain(outbound).collect()
}

fn stores(context: &Context, bridge: &Bridge, mesh: &ResolvedMesh) -> BTreeMap<String, TopicKey> {
    let index = context.cache.topic_index();
    let store = |route: &InboundRoute| {
        let pattern = delivered_subjects(&route.to)?;
        let claim = index.containing(&mesh.key, &pattern).next()?;
        let live = context.cache.topic(&claim.topic.0, &claim.topic.1).is_some_and(|topic| topic.spec.is_live());
        (!live).then(|| (route.name.clone(), claim.topic.clone()))
    };
    bridge.spec.inbound.iter().flatten().filter_map(store).collect()
}
