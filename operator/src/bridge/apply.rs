//! Makes a Bridge true in the brokers and in Kubernetes: the only writes besides the status.

use std::collections::BTreeSet;

use eventmesh_crds::{Bridge, conditions::Reason};
use eventmesh_wire::names;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;

use super::{
    build::{Desired, child_name},
    lease,
    validate::ValidBridge,
};
use crate::{
    broker::consumers::{self, ConsumerChange},
    broker::overlay::describe,
    engine::{Context, Error, Stopped, apply, error::is_not_found},
};

/// Annotation whose change makes a kubelet look at a pod, and so at its mounted Secret, at once.
const CONFIG_HASH: &str = "eventmesh.dev/config-hash";

/// The stream of leases and the consumers first, so that a pod never finds its route without one; the NetworkPolicy before the pods, so that none is
/// ever open; the consumers of removed routes last, when no pod is told to read them any more.
pub async fn run(context: &Context, bridge: &Bridge, valid: &ValidBridge, desired: &Desired) -> Result<Stopped, Error> {
    if valid.config.lease.is_some()
        && let Err(error) = lease::ensure(&valid.broker, valid.brokers).await
    {
        if error.is_temporary() {
            return Err(Error::broker("make the stream of leases")(error));
        }
        let message = format!("stream {}: {error}", names::LEASE_STREAM);
        return Ok(Stopped::not_programmed(Reason::BrokerRefused, message));
    }
    for consumer in &valid.consumers {
        match consumers::ensure(&valid.broker, consumer).await {
            Ok(change) => announce(context, bridge, &consumer.name, change).await,
            Err(error) if error.is_temporary() || consumers::is_race(&error) => {
                return Err(Error::broker("program the consumer of a route")(error));
            }
            Err(error) => {
                let message = format!("consumer {}: {error}", consumer.name);
                return Ok(Stopped::not_programmed(Reason::BrokerRefused, message));
            }
        }
    }
    let client = &context.client;
    apply::child(client, &desired.service_account).await?;
    apply::child(client, &desired.secret).await?;
    apply::child(client, &desired.network_policy).await?;
    apply_service(context, valid, desired).await?;
    apply::child(client, &desired.deployment).await?;
    refresh_pods(context, valid, &desired.config_hash).await?;
    remove_orphans(valid).await?;
    let message = format!("Deployment {}, configuration {}", child_name(&valid.name), &desired.config_hash[..12]);
    Ok(Stopped::programmed(Reason::Programmed, message))
}

/// A Bridge that does not listen any more has no Service either.
async fn apply_service(context: &Context, valid: &ValidBridge, desired: &Desired) -> Result<(), Error> {
    if let Some(service) = &desired.service {
        return apply::child(&context.client, service).await.map(drop);
    }
    let name = child_name(&valid.name);
    let ours = |service: &Service| service.owner_references().contains(&valid.owner);
    let key = ObjectRef::new(&name).within(&valid.namespace);
    if context.cache.services.get(&key).is_some_and(|service| ours(&service)) {
        apply::delete::<Service>(&context.client, &valid.namespace, &name).await?;
    }
    Ok(())
}

async fn announce(context: &Context, bridge: &Bridge, consumer: &str, change: ConsumerChange) {
    let seen = bridge.status.as_ref().and_then(|status| status.observed_generation) == bridge.metadata.generation;
    match change {
        ConsumerChange::Created if seen => {
            context.metrics.repaired("Bridge");
            context.warn(bridge, "ConsumerRecreated", format!("consumer {consumer} has been created again")).await;
        }
        ConsumerChange::Updated(differences) if seen => {
            context.metrics.repaired("Bridge");
            let note =
                format!("consumer {consumer} was changed by others and has been put back: {}", describe(&differences));
            context.warn(bridge, "DriftRepaired", note).await;
        }
        ConsumerChange::None | ConsumerChange::Created | ConsumerChange::Updated(_) => {}
    }
}

/// The pods of a Bridge.
pub fn pods(context: &Context, namespace: &str, bridge: &str) -> Vec<std::sync::Arc<Pod>> {
    let selector = super::build::selector(bridge);
    context.cache.pods.state_filter(|pod| {
        pod.namespace().as_deref() == Some(namespace)
            && selector.iter().all(|(name, value)| pod.labels().get(name) == Some(value))
    })
}

async fn refresh_pods(context: &Context, valid: &ValidBridge, hash: &str) -> Result<(), Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), &valid.namespace);
    let patch = json!({ "metadata": { "annotations": { CONFIG_HASH: hash } } });
    for pod in pods(context, &valid.namespace, &valid.name) {
        let current = pod.annotations().get(CONFIG_HASH).is_some_and(|current| current == hash);
        if current || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(Error::kubernetes("refresh a bridge pod")(error)),
        }
    }
    Ok(())
}

/// Consumers of routes that the Bridge no longer has.
async fn remove_orphans(valid: &ValidBridge) -> Result<(), Error> {
    let wanted: BTreeSet<(&str, &str)> =
        valid.consumers.iter().map(|consumer| (consumer.stream.as_str(), consumer.name.as_str())).collect();
    let prefix = names::bridge_consumer(&valid.namespace, &valid.name, "");
    let found = valid.broker.view().consumers_with_prefix(&prefix);
    for (stream, consumer) in found {
        if !wanted.contains(&(stream.as_str(), consumer.as_str())) {
            let deleted = valid.broker.delete_consumer(&stream, &consumer).await;
            deleted.map_err(Error::broker("delete the consumer of a removed route"))?;
        }
    }
    Ok(())
}
