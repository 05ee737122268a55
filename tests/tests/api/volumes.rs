//! Volumes that grow. There are no controllers: a test makes the claims, gives them their size, and lets the old
//! StatefulSet go.

use anyhow::{Context, Result};
use eventmesh_crds::EventMesh;
use eventmesh_tests::objects::Namespace;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{alone, object};

const SET: &str = "m-broker";
const CLAIM: &str = "data-m-broker-0";

fn mesh(size: &str) -> String {
    object("EventMesh", "m", &format!("  brokers: {{replicas: 1, storage: {{size: {size}, className: local}}}}"))
}

/// A mesh whose volume has 1Gi, of a class whose volumes can grow or not.
async fn start(ns: &Namespace, grows: bool) -> Result<()> {
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
        "provisioner": "example.com/local", "allowVolumeExpansion": grows});
    let classes = Api::<StorageClass>::all(ns.kube.client.clone());
    classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    ns.apply(&mesh("1Gi")).await?;
    let template = |set: &StatefulSet| set.spec.as_ref()?.volume_claim_templates.as_ref()?.first().cloned();
    let mut claim = ns.until::<StatefulSet, _>(SET, "there", template).await?;
    claim.metadata.name = Some(CLAIM.to_owned());
    ns.api::<PersistentVolumeClaim>().create(&PostParams::default(), &claim).await?;
    has(ns, "1Gi").await
}

/// The volume has this size.
async fn has(ns: &Namespace, size: &str) -> Result<()> {
    let status = json!({"status": {"phase": "Bound", "capacity": {"storage": size}}});
    let claims = ns.api::<PersistentVolumeClaim>();
    claims.patch_status(CLAIM, &PatchParams::default(), &Patch::Merge(&status)).await.map(drop).map_err(Into::into)
}

/// The size that a StatefulSet or a claim asks for.
fn asked(claim: &PersistentVolumeClaim) -> Option<String> {
    Some(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.clone())
}

fn size(set: &StatefulSet) -> Option<String> {
    asked(set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?)
}

async fn room(ns: &Namespace) -> Result<String> {
    let config =
        ns.get::<ConfigMap>(SET).await?.data.and_then(|mut data| data.remove("nats.conf")).context("a file")?;
    let line = config.lines().find(|line| line.contains("max_file_store")).context("a limit")?;
    Ok(line.trim().to_owned())
}

#[test]
fn a_volume_grows_and_the_pods_are_asked_for_nothing_new() -> Result<()> {
    alone("grow", async |_, ns| {
        start(ns, true).await?;
        let before = ns.get::<StatefulSet>(SET).await?;
        let small = room(ns).await?;
        ns.apply(&mesh("2Gi")).await?;
        ns.until::<PersistentVolumeClaim, _>(CLAIM, "asked for more", |claim| {
            (asked(claim).as_deref() == Some("2Gi")).then_some(())
        })
        .await?;
        let growing = ns.condition::<EventMesh>("m", "Programmed", "Unknown", "VolumesGrowing").await?;
        assert!(growing.message.contains(CLAIM), "{}", growing.message);
        assert_eq!((size(&ns.get(SET).await?).as_deref(), room(ns).await?), (Some("1Gi"), small.clone()));

        has(ns, "2Gi").await?;
        // Its pods would be left alone; what would let it go is not there.
        ns.until::<StatefulSet, _>(SET, "deleted", |set| set.metadata.deletion_timestamp.clone()).await?;
        let deleted = ns.get::<StatefulSet>(SET).await?;
        assert_eq!(deleted.metadata.finalizers, Some(vec!["orphan".to_owned()]));
        ns.patch::<StatefulSet>(SET, json!({"metadata": {"finalizers": Value::Null}})).await?;
        let larger = |set: &StatefulSet| (size(set).as_deref() == Some("2Gi")).then(|| set.clone());
        let after = ns.until::<StatefulSet, _>(SET, "with larger volumes", larger).await?;
        assert_ne!(after.metadata.uid, before.metadata.uid);
        assert_eq!(after.spec.map(|spec| spec.template), before.spec.map(|spec| spec.template), "no broker restarts");
        assert_ne!(room(ns).await?, small);
        ns.condition::<EventMesh>("m", "Programmed", "True", "Programmed").await.map(drop)
    })
}

#[test]
fn a_volume_that_cannot_grow_stays_and_so_does_the_configuration() -> Result<()> {
    alone("grow-not", async |_, ns| {
        start(ns, false).await?;
        let before = (ns.get::<StatefulSet>(SET).await?.spec, room(ns).await?);
        ns.apply(&mesh("2Gi")).await?;
        let refused = ns.condition::<EventMesh>("m", "Programmed", "False", "VolumesFixed").await?;
        assert!(
            refused.message.contains("allowVolumeExpansion") && refused.message.contains("1Gi"),
            "{}",
            refused.message
        );
        assert_eq!((ns.get::<StatefulSet>(SET).await?.spec, room(ns).await?), before);
        assert_eq!(asked(&ns.get(CLAIM).await?).as_deref(), Some("1Gi"));
        // The class is changed, and it goes on.
        let classes = Api::<StorageClass>::all(ns.kube.client.clone());
        let grows = json!({"allowVolumeExpansion": true});
        classes.patch("local", &PatchParams::default(), &Patch::Merge(&grows)).await?;
        ns.apply(&mesh("3Gi")).await?;
        ns.condition::<EventMesh>("m", "Programmed", "Unknown", "VolumesGrowing").await.map(drop)
    })
}
