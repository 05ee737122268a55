//! What a Bridge refers to: mesh, Topics, Secrets and the mesh's credentials.
//!
//! Everything is in the cache but the contents of Secrets, which are read when a pass needs them: the operator holds
//! no copy of other people's Secrets.

use std::{collections::BTreeMap, sync::Arc};

use eventmesh_crds::{Bridge, Topic, bridge::InboundRoute};
use eventmesh_wire::subject::Pattern;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::{
    cache::namespaced,
    engine::{Context, Error},
    mesh::{Credentials, read_credentials},
    refs::{MeshProblem, ResolvedMesh, resolve_mesh},
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

/// The Secrets that a Bridge names.
#[must_use]
pub fn secret_names(bridge: &Bridge) -> Vec<&str> {
    let Some(mqtt) = &bridge.spec.endpoint.mqtt else { return Vec::new() };
    let credentials = mqtt.credentials.as_ref().map(|credentials| credentials.secret.name.as_str());
    let tls = mqtt.tls.as_ref().map(|tls| tls.secret.name.as_str());
    credentials.into_iter().chain(tls).collect()
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
    for name in secret_names(bridge) {
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
        let pattern = super::validate::delivered_subjects(&route.to)?;
        let claim = index.containing(&mesh.key, &pattern).next()?;
        Some((route.name.clone(), claim.topic.clone()))
    };
    bridge.spec.inbound.iter().flatten().filter_map(store).collect()
}

/// First subject pattern of a Topic as a place for dead letters: wildcards are filled with where they come from.
#[must_use]
pub fn dead_letter_subject(topic: &Topic, namespace: &str, bridge: &str, route: &str) -> Option<String> {
    let subjects = crate::cache::topics::subjects_of(topic);
    let patterns: Vec<Pattern> = subjects.iter().filter_map(|subject| Pattern::parse(subject).ok()).collect();
    // One that can tell where an event comes from is better than one that cannot.
    let pattern = patterns.iter().find(|p| p.as_str().ends_with(".>")).or(patterns.first())?;
    let mut fill = [namespace, bridge, route].into_iter().cycle();
    let tokens: Vec<String> = pattern
        .tokens()
        .map(|token| match token {
            "*" => fill.next().unwrap_or_default().to_owned(),
            ">" => format!("{namespace}.{bridge}.{route}"),
            literal => literal.to_owned(),
        })
        .collect();
    Some(tokens.join("."))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(json!(null), "dead.a.b.r")]
    #[case(json!(["letters"]), "letters")]
    #[case(json!(["letters.*"]), "letters.a")]
    #[case(json!(["letters", "more.>"]), "more.a.b.r")]
    fn dead_letters_tell_where_they_come_from(#[case] subjects: serde_json::Value, #[case] expected: &str) {
        let topic: Topic = serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "dead", "namespace": "a"},
            "spec": {"mesh": {"name": "m"}, "subjects": subjects},
        }))
        .expect("a topic");
        assert_eq!(dead_letter_subject(&topic, "a", "b", "r").as_deref(), Some(expected));
    }
}
