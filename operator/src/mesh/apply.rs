//! Applies the children of an EventMesh: the only writes to Kubernetes besides the status.

use std::collections::BTreeSet;

use eventmesh_crds::tls::TlsIssuer;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, PodTemplateSpec, Secret, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    runtime::reflector::ObjectRef,
};
use serde_json::{Value, json};

use super::{
    build::{Desired, certificate, names},
    validate::ValidMesh,
};
use crate::{
    engine::{
        Context, Error,
        apply::{self, FIELD_MANAGER},
        error::is_not_found,
    },
    labels::{COMPONENT, INSTANCE},
};

/// What the API server has after the writes.
pub struct Applied {
    pub stateful_set: StatefulSet,
}

/// Services come first: certificates name the addresses that they are given. Returns these addresses.
pub async fn services(context: &Context, mesh: &ValidMesh, wanted: &[Service]) -> Result<BTreeSet<String>, Error> {
    let mut addresses = BTreeSet::new();
    for service in wanted {
        addresses.extend(addresses_of(&apply::child(&context.client, service).await?));
    }
    // Those of listeners that are off now.
    let orphans = context.cache.services.state_filter(|service| {
        let ours = service.namespace().as_deref() == Some(&mesh.key.namespace)
            && service.owner_references().iter().any(|owner| owner.uid == mesh.owner.uid);
        ours && !wanted.iter().any(|wanted| wanted.metadata.name == service.metadata.name)
    });
    for orphan in orphans {
        apply::delete::<Service>(&context.client, &mesh.key.namespace, &orphan.name_any()).await?;
    }
    Ok(addresses)
}

fn addresses_of(service: &Service) -> BTreeSet<String> {
    let spec = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten().cloned());
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let ingress = ingress.flat_map(|ingress| [ingress.ip.clone(), ingress.hostname.clone()]).flatten();
    // Headless: "None".
    spec.filter(|address| address != "None").chain(ingress).filter(|address| !address.is_empty()).collect()
}

/// Asks cert-manager for a certificate, or takes the request back. Returns what it says of it, or why it cannot be asked.
pub async fn certificate(
    context: &Context,
    mesh: &ValidMesh,
    wanted: Option<&DynamicObject>,
    was_asked: bool,
) -> Result<Option<String>, Error> {
    let resource = certificate::resource();
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &mesh.key.namespace, &resource);
    let name = names::brokers(&mesh.key.name);
    let Some(wanted) = wanted else {
        if was_asked {
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(Error::kubernetes("delete the Certificate")(error)),
            }
        }
        return Ok(None);
    };
    match api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(wanted)).await {
        Ok(certificate) => Ok(Some(what_it_says(&certificate))),
        Err(error) if is_not_found(&error) => Ok(Some(
            "cert-manager is not installed: the API server knows no Certificate of cert-manager.io/v1; install it, or \
             choose another spec.tls.issuer"
                .to_owned(),
        )),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
            Ok(Some(format!("cert-manager's Certificate {name} was refused: {}", status.message)))
        }
        Err(error) => Err(Error::kubernetes("apply the Certificate")(error)),
    }
}

fn what_it_says(certificate: &DynamicObject) -> String {
    let name = certificate.name_any();
    let conditions = certificate.data["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    match ready.and_then(|condition| condition["message"].as_str()) {
        Some(message) => format!("waiting for cert-manager's Certificate {name}: {message}"),
        None => format!("waiting for cert-manager, which has not said anything of Certificate {name} yet"),
    }
}

/// The authorities, whole and only over what was read: two operators at once must not mix their keys.
pub async fn authority(context: &Context, secret: &Secret, version: Option<&str>) -> Result<(), Error> {
    let api = Api::<Secret>::namespaced(context.client.clone(), &secret.namespace().unwrap_or_default());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let mut secret = secret.clone();
    secret.metadata.resource_version = version.map(str::to_owned);
    let written = match version {
        None => api.create(&params, &secret).await,
        Some(_) => api.replace(&secret.name_any(), &params, &secret).await,
    };
    written.map(drop).map_err(Error::kubernetes("write the mesh's authority"))
}

/// In order: what pods mount and run as comes before them, so that no pod waits for it; so does their NetworkPolicy, so
/// that no pod is ever open to whom it should not be.
pub async fn run(context: &Context, desired: &Desired) -> Result<Applied, Error> {
    let client = &context.client;
    // Nothing that runs with the keys may come before they are kept.
    apply::child(client, &desired.keys_secret).await?;
    apply::child(client, &desired.service_account).await?;
    apply::child(client, &desired.config_map).await?;
    apply::child(client, &desired.broker_secret).await?;
    apply::child(client, &desired.tls_secret).await?;
    if let Some(links) = &desired.links_secret {
        apply::child(client, links).await?;
    }
    apply::child(client, &desired.budget).await?;
    apply::child(client, &desired.network_policy).await?;
    Ok(Applied { stateful_set: apply::child(client, &desired.stateful_set).await? })
}

/// Takes away what brokers dialled other meshes with.
pub async fn no_links(context: &Context, mesh: &ValidMesh) -> Result<(), Error> {
    apply::delete::<Secret>(&context.client, &mesh.key.namespace, &names::links(&mesh.key.name)).await
}

/// Annotation whose change makes a kubelet look at a pod, and so at its mounted Secrets, at once.
const REVISION: &str = "eventmesh.dev/certificates";

/// The pods of a mesh's brokers.
pub fn pods(context: &Context, namespace: &str, mesh: &str) -> Vec<std::sync::Arc<Pod>> {
    let mut pods = context.cache.pods.state_filter(|pod| {
        let labels = pod.labels();
        pod.namespace().as_deref() == Some(namespace)
            && labels.get(INSTANCE).map(String::as_str) == Some(mesh)
            && labels.get(COMPONENT).map(String::as_str) == Some("broker")
    });
    pods.sort_by_key(|pod| pod.name_any());
    pods
}

/// What the brokers' pods are made from now, in the StatefulSet and in the pods themselves.
pub fn made_from(context: &Context, mesh: &ValidMesh) -> Vec<PodTemplateSpec> {
    let set = ObjectRef::<StatefulSet>::new(&names::brokers(&mesh.key.name)).within(&mesh.key.namespace);
    let set = context.cache.stateful_sets.get(&set);
    let wanted = set.and_then(|set| Some(set.spec.as_ref()?.template.clone()));
    let pods = pods(context, &mesh.key.namespace, &mesh.key.name).into_iter();
    let made = pods.map(|pod| PodTemplateSpec { metadata: Some(pod.metadata.clone()), spec: pod.spec.clone() });
    wanted.into_iter().chain(made).collect()
}

/// Makes the kubelets of these pods bring their files up to date. Returns the pods that had been told before.
pub async fn refresh_pods(
    context: &Context,
    namespace: &str,
    pods: &[std::sync::Arc<Pod>],
    revision: &str,
) -> Result<BTreeSet<String>, Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let patch: Value = json!({ "metadata": { "annotations": { REVISION: revision } } });
    let mut told = BTreeSet::new();
    for pod in pods {
        if pod.annotations().get(REVISION).is_some_and(|current| current == revision) {
            told.insert(pod.name_any());
            continue;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(Error::kubernetes("refresh a broker pod")(error)),
        }
    }
    Ok(told)
}

/// Whether an earlier pass has asked cert-manager.
#[must_use]
pub fn was_asked(issuer_before: Option<&str>) -> bool {
    issuer_before == Some(TlsIssuer::CertManager.as_str())
}
