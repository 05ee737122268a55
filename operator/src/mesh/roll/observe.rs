//! What a roll has to know: the pods against the StatefulSet, and what the brokers say. The only reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{Pod, PodTemplateSpec},
};
use kube::{Api, api::ListParams};

use super::pods::{self, BrokerPod};
use crate::{
    broker::{cluster::Cluster, stopped::StoppedByBroker},
    engine::{Context, Error},
    labels::{COMPONENT, INSTANCE},
    mesh::{apply, build::names, validate::ValidMesh},
};

/// What was seen at one moment.
pub struct Observed {
    /// What every broker should run; absent while Kubernetes has not looked at the newest StatefulSet.
    pub revision: Option<String>,
    pub pods: Vec<BrokerPod>,
    /// Brokers that have no pod.
    pub absent: Vec<String>,
    pub sight: Sight,
    /// Brokers that have stopped storing something, which only a restart ends.
    pub stopped: StoppedByBroker,
    /// What the brokers that are to be restarted run with, by revision, as far as Kubernetes keeps it.
    pub templates: BTreeMap<String, PodTemplateSpec>,
}

/// What the operator sees of the brokers themselves.
pub enum Sight {
    Seen(Box<Cluster>),
    /// Nothing, and why.
    Unseen(String),
    /// Nothing, because the roll changes how they are connected to. A broker that has been restarted becomes ready
    /// when it has caught up, so pods tell enough.
    Changing,
}

impl Sight {
    /// Whether the broker answers.
    #[must_use]
    pub fn hears(&self, broker: &str) -> bool {
        matches!(self, Self::Seen(cluster) if cluster.brokers.contains(broker))
    }
}

pub async fn run(context: &Context, mesh: &ValidMesh, set: &StatefulSet) -> Result<Observed, Error> {
    let revision = revision(set);
    let known: Vec<BrokerPod> =
        apply::pods(context, &mesh.key.namespace, &mesh.key.name).iter().map(|pod| pods::read(pod)).collect();
    let nothing = Observed {
        revision: revision.clone(),
        pods: Vec::new(),
        absent: Vec::new(),
        sight: Sight::Unseen(String::new()),
        stopped: stopped(context, mesh).await,
        templates: BTreeMap::new(),
    };
    let is_needed =
        |revision: &String| !nothing.stopped.is_empty() || known.iter().any(|pod| pod.revision != *revision);
    let Some(revision) = revision.filter(is_needed) else { return Ok(nothing) };
    // A picture that is a moment old could show a broker as ready that is being restarted.
    let pods = list(context, mesh).await?;
    let names = (0..mesh.replicas).map(|ordinal| format!("{}-{ordinal}", names::brokers(&mesh.key.name)));
    Ok(Observed {
        absent: names.filter(|name| !pods.iter().any(|pod| pod.name == *name)).collect(),
        sight: sight(context, mesh, set, &pods).await,
        templates: templates(context, mesh, &revision, &pods).await?,
        pods,
        ..nothing
    })
}

/// What brokers have stopped storing. What they have said some seconds ago is asked again: it may have been before a restart.
async fn stopped(context: &Context, mesh: &ValidMesh) -> StoppedByBroker {
    let Some(broker) = context.brokers.get(&mesh.key) else { return StoppedByBroker::new() };
    let known = broker.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if known.stopped.is_empty() {
        return known.stopped;
    }
    let brokers: BTreeSet<String> = known.brokers.into_keys().collect();
    broker.stopped(&brokers).await.unwrap_or_default()
}

/// The revision of the StatefulSet as it is applied.
fn revision(set: &StatefulSet) -> Option<String> {
    let status = set.status.as_ref()?;
    if status.observed_generation != set.metadata.generation {
        return None;
    }
    status.update_revision.clone()
}

async fn list(context: &Context, mesh: &ValidMesh) -> Result<Vec<BrokerPod>, Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), &mesh.key.namespace);
    let labels = format!("{INSTANCE}={},{COMPONENT}=broker", mesh.key.name);
    let found = api.list(&ListParams::default().labels(&labels)).await;
    let found = found.map_err(Error::kubernetes("list the pods of the brokers"))?;
    let mut found: Vec<BrokerPod> = found.iter().map(pods::read).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

async fn sight(context: &Context, mesh: &ValidMesh, set: &StatefulSet, pods: &[BrokerPod]) -> Sight {
    let wanted = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let wanted = wanted.is_some_and(|pod| pods::has_tls(&pod.containers));
    let cluster = match context.brokers.get(&mesh.key) {
        Some(broker) => broker.cluster(pods.len()).await.map_err(|error| error.to_string()),
        None => Err("there is no connection to them".to_owned()),
    };
    match cluster {
        Ok(cluster) if !cluster.brokers.is_empty() => Sight::Seen(cluster.into()),
        _ if pods.iter().any(|pod| pod.has_tls != wanted) => Sight::Changing,
        Ok(_) => Sight::Unseen("no broker answers".to_owned()),
        Err(why) => Sight::Unseen(why),
    }
}

async fn templates(
    context: &Context,
    mesh: &ValidMesh,
    revision: &str,
    pods: &[BrokerPod],
) -> Result<BTreeMap<String, PodTemplateSpec>, Error> {
    let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &mesh.key.namespace);
    let mut templates = BTreeMap::new();
    for pod in pods {
        if pod.revision == revision || pod.revision.is_empty() || templates.contains_key(&pod.revision) {
            continue;
        }
        let kept = api.get_opt(&pod.revision).await.map_err(Error::kubernetes("read what a broker runs with"))?;
        let template = kept.and_then(|kept| kept.data).map(|mut data| data.0["spec"]["template"].take());
        if let Some(template) = template.and_then(|template| serde_json::from_value(template).ok()) {
            templates.insert(pod.revision.clone(), template);
        }
    }
    Ok(templates)
}
