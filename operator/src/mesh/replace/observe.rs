//! Which brokers have lost their volumes, and what the others say. Asks them only while there is something to find out.

use std::{collections::BTreeSet, sync::PoisonError};

use eventmesh_crds::{EventMesh, conditions::Reason};
use kube::ResourceExt;

use crate::{
    broker::cluster::Cluster,
    engine::Context,
    mesh::{
        apply,
        build::names,
        roll::pods::{self, BrokerPod, State},
        validate::ValidMesh,
    },
};

pub struct Observed {
    /// All that there should be.
    pub brokers: Vec<String>,
    /// Those that the others count on, as the list says.
    pub listed: BTreeSet<String>,
    /// Pods that do not start, since their volume is empty.
    pub empty: Vec<BrokerPod>,
    /// Brokers whose volume a user has given up.
    pub given_up: BTreeSet<String>,
    /// Brokers that have answered lately, where one leads the metadata.
    pub answering: BTreeSet<String>,
    /// Whether one is being replaced, as the mesh's condition says.
    pub was_replacing: bool,
    /// Whether it was told that several volumes are lost.
    pub was_lost: bool,
    /// What the brokers say, or why nothing is known; absent where they were not asked.
    pub sight: Option<Result<Cluster, String>>,
}

pub async fn run(context: &Context, object: &EventMesh, mesh: &ValidMesh, listed: BTreeSet<String>) -> Observed {
    let was_lost = was_told(object, Reason::VolumesLost);
    let brokers: Vec<String> = (0..mesh.replicas).map(|ordinal| names::broker(&mesh.key.name, ordinal)).collect();
    let mut seen = Observed {
        empty: empty(context, mesh),
        given_up: given_up(object),
        answering: answering(context, mesh, &brokers),
        was_replacing: was_lost || was_told(object, Reason::ReplacingBroker),
        was_lost,
        sight: None,
        brokers,
        listed,
    };
    if mesh.replicas > 1 && seen.has_to_ask() {
        seen.sight = Some(look(context, mesh, &seen).await);
    }
    seen
}

/// Whether a broker that has lost its volume is on its way back: its pod is ready as soon as it runs.
pub fn lacks_copies(context: &Context, object: &EventMesh, mesh: &ValidMesh) -> bool {
    was_told(object, Reason::ReplacingBroker) && empty(context, mesh).is_empty()
}

fn was_told(object: &EventMesh, reason: Reason) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.reason == reason.as_str())
}

fn empty(context: &Context, mesh: &ValidMesh) -> Vec<BrokerPod> {
    let pods = apply::pods(context, &mesh.key.namespace, &mesh.key.name);
    let is_empty = |pod: &BrokerPod| matches!(pod.state, State::Refused(_));
    pods.iter().map(|pod| pods::read(pod)).filter(is_empty).collect()
}

impl Observed {
    fn has_to_ask(&self) -> bool {
        let is_new = |name: &String| !self.listed.contains(name);
        !self.empty.is_empty() || self.was_replacing || self.answering.iter().any(is_new)
    }
}

fn given_up(object: &EventMesh) -> BTreeSet<String> {
    let named = object.annotations().get(names::GIVE_UP).map(String::as_str).unwrap_or_default();
    named.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn answering(context: &Context, mesh: &ValidMesh, brokers: &[String]) -> BTreeSet<String> {
    let Some(broker) = context.brokers.get(&mesh.key).filter(|_| mesh.replicas > 1) else { return BTreeSet::new() };
    let health = broker.health.lock().unwrap_or_else(PoisonError::into_inner);
    let is_led = health.brokers.values().any(|said| said.meta_leader.is_some());
    let answering = health.brokers.keys().filter(|name| is_led && brokers.contains(name));
    answering.cloned().collect()
}

async fn look(context: &Context, mesh: &ValidMesh, seen: &Observed) -> Result<Cluster, String> {
    // Who does not start is not waited for.
    let expected = seen.brokers.len().saturating_sub(seen.empty.len()).min(seen.answering.len().max(1));
    match context.brokers.get(&mesh.key) {
        Some(broker) => broker.cluster(expected).await.map_err(|error| error.to_string()),
        None => Err("there is no connection to the brokers".to_owned()),
    }
}
