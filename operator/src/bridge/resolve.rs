//! What a Bridge refers to: mesh, Topics, Secrets and the mesh's credentials.
//!
//! Everything is in the cache but the contents of Secrets, which are read when a pass needs them: the operator holds
//! no copy of other people's Secrets.

use std::{collections::BTreeMap, sync::Arc};

use eventmesh_crds::{Bridge, Topic, bridge::InboundRoute};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::{
    cache::namespaced,
    engine::{Context, Error},
    mesh::{Credentials, read_credentials},
    refs::{MeshProblem, ResolvedMesh, resolve_mesh},
    subjects::delivered_subjects,
};

/// Everything a pass over a Bridge reads.
pub struct Resolved {
    pub mesh: Result<ResolvedMesh, MeshProblem>,
    pub credentials: Option<Credentials>,
    /// Secrets by name; `None` for one that does not exist.
    pub secrets: BTreeMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    /// Topics of outbound routes and of dead letters, by name.
    pub topics: BTreeMap<String, Option<Arc<Topic>>>,
    /// The Topic that stores what an inbound route delivers, by route: namespace and name.
    pub stores: BTreeMap<String, (String, String)>,
}

pub async fn run(context: &Context, bridge: &Bridge) -> Result<Resolved, Error> {
    let (namespace, _) = namespaced(bridge);
    let mesh = resolve_mesh(context, &bridge.spec.mesh, &namespace);
    let credentials = match &mesh {
        Ok(mesh) => read_credentials(context, &mesh.key).await?,
        Err(_) => None,
    };
    let secrets_api = Api::<Secret>::namespaced(context.client.clone(), &namespace);
    let mut secrets = BTreeMap::new();
    for name in bridge.spec.secret_names() {
        let secret = secrets_api.get_opt(name).await.map_err(Error::kubernetes("read a Secret of the endpoint"))?;
        let data = secret.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect());
        secrets.insert(name.to_owned(), data);
    }
    let topics = topic_names(bridge).map(|name| (name.to_owned(), context.cache.topic(&namespace, name))).collect();
    let stores = match &mesh {
        Ok(mesh) => stores(context, bridge, mesh),
        Err(_) => BTreeMap::new(),
    };
    Ok(Resolved { mesh, credentials, secrets, topics, stores })
}

fn topic_names(bridge: &Bridge) -> impl Iterator<Item = &str> {
    let outbound = bridge.spec.outbound.iter().flatten().map(|route| route.from.topic.as_str());
    let delivery = bridge.spec.delivery.as_ref();
    let dead = delivery.and_then(|delivery| delivery.dead_letter.as_ref()).map(|dead| dead.topic.as_str());
    outbound.chain(dead)
}

fn stores(context: &Context, bridge: &Bridge, mesh: &ResolvedMesh) -> BTreeMap<String, (String, String)> {
    let index = context.cache.topic_index();
    let store = |route: &InboundRoute| {
        let pattern = delivered_subjects(&route.to)?;
        let claim = index.containing(&mesh.key, &pattern).next()?;
        Some((route.name.clone(), claim.topic.clone()))
    };
    bridge.spec.inbound.iter().flatten().filter_map(store).collect()
}
