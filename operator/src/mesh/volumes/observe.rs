//! The sizes of the StatefulSet, of the claims and of the volumes. Reads nothing while the StatefulSet has the wanted size.

use std::collections::{BTreeMap, BTreeSet};

use eventmesh_crds::quantity::ByteQuantity;
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim, storage::v1::StorageClass},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{Api, ResourceExt, api::ListParams, runtime::reflector::ObjectRef};

use super::plan::{Claim, Observed};
use crate::{
    engine::{Context, Error},
    labels::{COMPONENT, INSTANCE},
    mesh::{build::names, validate::ValidMesh},
};

pub async fn run(context: &Context, mesh: &ValidMesh, is_settled: bool) -> Result<Observed, Error> {
    let set = ObjectRef::<StatefulSet>::new(&names::brokers(&mesh.key.name)).within(&mesh.key.namespace);
    let set = context.cache.stateful_sets.get(&set);
    let template = set.as_ref().and_then(|set| size_of(set));
    let replicas = set.as_ref().and_then(|set| set.spec.as_ref()?.replicas).unwrap_or_default();
    let used: Vec<String> = (0..replicas).map(|ordinal| names::claim(&mesh.key.name, ordinal)).collect();
    let uid = set.and_then(|set| set.uid()).unwrap_or_default();
    let mut observed =
        Observed { wanted: mesh.storage_size.clone(), template, uid, is_settled, claims: Vec::new(), obstacle: None };
    if observed.template.as_ref().is_none_or(|template| *template == observed.wanted) {
        return Ok(observed);
    }
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &mesh.key.namespace);
    let labels = format!("{INSTANCE}={},{COMPONENT}=broker", mesh.key.name);
    let found = api.list(&ListParams::default().labels(&labels)).await;
    let found = found.map_err(Error::kubernetes("list the volumes of the brokers"))?;
    let classes = found.iter().filter_map(|claim| claim.spec.as_ref()?.storage_class_name.clone());
    observed.obstacle = obstacle(context, classes.collect()).await?;
    observed.claims = found.iter().map(|found| claim(found, &used)).collect();
    Ok(observed)
}

/// The size in its claim template.
fn size_of(set: &StatefulSet) -> Option<ByteQuantity> {
    let claim = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?;
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.parse().ok()
}

fn claim(claim: &PersistentVolumeClaim, used: &[String]) -> Claim {
    let bytes = |amounts: Option<&BTreeMap<String, Quantity>>| {
        amounts.and_then(|amounts| amounts.get("storage")?.0.parse().ok()).map_or(0, |size: ByteQuantity| size.bytes())
    };
    let status = claim.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    Claim {
        used: used.contains(&claim.name_any()),
        name: claim.name_any(),
        asked: bytes(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref())),
        capacity: bytes(status.and_then(|status| status.capacity.as_ref())),
        says: conditions.into_iter().find_map(|condition| condition.message.clone()).filter(|says| !says.is_empty()),
    }
}

/// Why volumes of one of these classes cannot grow.
async fn obstacle(context: &Context, classes: BTreeSet<String>) -> Result<Option<String>, Error> {
    let api = Api::<StorageClass>::all(context.client.clone());
    for name in classes.into_iter().filter(|name| !name.is_empty()) {
        let class = api.get_opt(&name).await.map_err(Error::kubernetes("read the StorageClass of the volumes"))?;
        if class.and_then(|class| class.allow_volume_expansion) != Some(true) {
            return Ok(Some(format!(
                "volumes of StorageClass {name} cannot grow: set `allowVolumeExpansion: true` there if its provisioner \
                 can do it, or create a new EventMesh with larger volumes and move the events"
            )));
        }
    }
    Ok(None)
}
