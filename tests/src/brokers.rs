//! The pods of a mesh's brokers, which are real and one cluster. There are no controllers and no nodes: a test does the part of
//! the StatefulSet's controller and of the kubelet.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{EventMesh, mesh::BrokerRestart};
use eventmesh_wire::volume::MEMBERS_FILE;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::{ConfigMap, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    broker::Broker,
    objects::{Namespace, object},
    paths::release,
    stack::Stack,
    wait::eventually,
};

pub const SET: &str = "m-broker";

/// The brokers of the mesh `m`.
pub struct Brokers<'a> {
    pub stack: &'a mut Stack,
    pub ns: &'a Namespace,
}

impl<'a> Brokers<'a> {
    /// A mesh that is ready.
    pub async fn start(stack: &'a mut Stack, ns: &'a Namespace, replicas: usize) -> Result<Self> {
        Self::start_to_grow(stack, ns, replicas, replicas).await
    }

    /// The same, and its brokers can be joined by others until they are so many.
    pub async fn start_to_grow(stack: &'a mut Stack, ns: &'a Namespace, replicas: usize, size: usize) -> Result<Self> {
        ns.apply(&mesh(replicas, "")).await?;
        if replicas == 1 {
            stack.start_broker(ns, "m").await?;
        } else {
            stack.start_cluster(ns, "m", size).await?;
        }
        let this = Self { stack, ns };
        this.take_note("nothing yet", |_| true).await?;
        for index in 0..replicas {
            this.create(index, &ready()).await?;
        }
        ns.ready::<EventMesh>("m").await?;
        Ok(this)
    }

    /// The StatefulSet's controller looks at it, once it is as wanted, and keeps its template.
    pub async fn take_note(&self, what: &str, wanted: impl Fn(&PodTemplateSpec) -> bool) -> Result<()> {
        let found =
            |set: &StatefulSet| set.spec.as_ref().is_some_and(|spec| wanted(&spec.template)).then(|| set.clone());
        let set = self.ns.until::<StatefulSet, _>(SET, what, found).await?;
        let (revision, template) = revision(&set)?;
        let kept = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": revision}, "revision": 1,
            "data": {"spec": {"template": template}},
        });
        let kept: ControllerRevision = serde_json::from_value(kept)?;
        let params = PatchParams::apply("tests").force();
        self.ns.api::<ControllerRevision>().patch(&revision, &params, &Patch::Apply(&kept)).await?;
        let seen = json!({"status": {"replicas": 3, "observedGeneration": set.metadata.generation, "updateRevision": revision}});
        self.ns.api::<StatefulSet>().patch_status(SET, &PatchParams::default(), &Patch::Merge(&seen)).await?;
        Ok(())
    }

    /// The controller makes a pod, and a kubelet says how it is.
    pub async fn create(&self, index: usize, status: &Value) -> Result<()> {
        let (revision, template) = revision(&self.ns.get(SET).await?)?;
        let mut pod = json!({"metadata": template["metadata"], "spec": template["spec"]});
        let name = name(index);
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["labels"]["controller-revision-hash"] = json!(revision);
        // On a node, so that it is not gone before its kubelet has said so.
        pod["spec"]["nodeName"] = json!("node");
        let volumes = pod["spec"]["volumes"].as_array_mut().context("volumes")?;
        volumes.push(json!({"name": "data", "emptyDir": {}}));
        let pods = self.ns.api::<Pod>();
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&json!({"status": status}))).await?;
        Ok(())
    }

    /// Waits until the operator ends a pod. Nobody else's may be away then.
    pub async fn next(&self) -> Result<usize> {
        let leaving = eventually("a pod that is being ended", self.ns.kube.patience, async || {
            let all = self.ns.api::<Pod>().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let leaving = all.iter().position(|pod| pod.metadata.deletion_timestamp.is_some());
            Ok(leaving.map(|index| (index, all.items.len())))
        });
        let (index, there) = leaving.await?;
        ensure!(there == 3, "{there} pods are there while one is being ended");
        Ok(index)
    }

    /// The kubelet has ended the broker, and the pod is gone.
    pub async fn end(&mut self, index: usize) -> Result<()> {
        self.stack.kill_peer(index);
        self.ns.api::<Pod>().delete(&name(index), &DeleteParams::default().grace_period(0)).await?;
        self.ns.gone::<Pod>(&name(index)).await
    }

    /// It is back. The pod is ready from the first moment, so that the operator has to see by itself whether the broker is.
    pub async fn begin(&mut self, index: usize) -> Result<()> {
        let (_, template) = revision(&self.ns.get(SET).await?)?;
        if !template["spec"]["initContainers"].is_null() {
            let checked = self.check(index).await?;
            ensure!(checked["state"]["terminated"]["exitCode"] == 0, "the check of its volume refuses it: {checked}");
        }
        self.stack.start_peer(index)?;
        self.create(index, &ready()).await
    }

    /// The kubelet says that a pod has become so.
    pub async fn becomes(&self, index: usize, status: &Value) -> Result<()> {
        let status = Patch::Merge(json!({ "status": status }));
        self.ns.api::<Pod>().patch_status(&name(index), &PatchParams::default(), &status).await?;
        Ok(())
    }

    /// The kubelet runs the check of the volume, with the list as it is now. Returns how it tells of it.
    pub async fn check(&self, index: usize) -> Result<Value> {
        let volume = self.stack.store(index);
        let list = volume.with_extension("members");
        let map = self.ns.api::<ConfigMap>().get_opt("m-members").await?;
        match map.and_then(|map| map.data?.remove(MEMBERS_FILE)) {
            Some(file) => std::fs::write(&list, file)?,
            None => ensure!(!list.exists(), "the list does not go"),
        }
        let mut check = Command::new(release("eventmesh-volume-check")?);
        let ended = check.arg(volume).arg(list).env("POD_NAME", name(index)).output()?;
        let message = String::from_utf8(ended.stderr)?;
        let terminated = json!({"exitCode": ended.status.code(), "reason": "Ended", "message": message});
        Ok(
            json!({"name": "volume-check", "image": "i", "imageID": "", "ready": ended.status.success(), "restartCount": 0,
            "state": {"terminated": terminated}}),
        )
    }

    /// The volume of a broker is lost; its pod comes again with an empty one, and does not start.
    pub async fn lose(&mut self, index: usize) -> Result<()> {
        self.end(index).await?;
        self.stack.lose_volume(index)?;
        let check = self.check(index).await?;
        ensure!(check["state"]["terminated"]["exitCode"] == 3, "it is counted on, and would start: {check}");
        self.create(index, &refused(&check)).await
    }

    pub async fn uids(&self) -> Result<Vec<Option<String>>> {
        let pods = self.ns.api::<Pod>().list(&ListParams::default()).await?;
        Ok(pods.iter().map(ResourceExt::uid).collect())
    }

    pub async fn restarts(&self) -> Result<Vec<BrokerRestart>> {
        let status = self.ns.get::<EventMesh>("m").await?.status.context("a status")?;
        Ok(status.restarts.unwrap_or_default())
    }

    /// Waits until the operator asks for so many pods, and takes note of it as the StatefulSet's controller does.
    pub async fn asked_for(&self, replicas: usize) -> Result<()> {
        let asked = |set: &StatefulSet| (set.spec.as_ref()?.replicas == i32::try_from(replicas).ok()).then_some(());
        self.ns.until::<StatefulSet, _>(SET, &format!("with {replicas} pods"), asked).await?;
        self.take_note("the number of pods", |_| true).await
    }

    /// Waits until `Available` says so.
    pub async fn available(&self, reason: &str, part: &str) -> Result<Condition> {
        self.said("Available", reason, part).await
    }

    /// Waits until `Programmed` says so.
    pub async fn programmed(&self, reason: &str, part: &str) -> Result<Condition> {
        self.said("Programmed", reason, part).await
    }

    async fn said(&self, kind: &str, reason: &str, part: &str) -> Result<Condition> {
        let said = |mesh: &EventMesh| {
            let condition = mesh.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)?;
            (condition.reason == reason && condition.message.contains(part)).then(|| condition.clone())
        };
        self.ns.until::<EventMesh, _>("m", &format!("{reason}: {part}"), said).await
    }
}

/// A mesh without TLS, as the cluster of tests is.
#[must_use]
pub fn mesh(replicas: usize, brokers: &str) -> String {
    object("EventMesh", "m", &format!("  brokers: {{replicas: {replicas}{brokers}}}\n  tls: {{issuer: Disabled}}"))
}

#[must_use]
pub fn name(index: usize) -> String {
    format!("{SET}-{index}")
}

/// Name of the revision of a template, and the template.
pub fn revision(set: &StatefulSet) -> Result<(String, Value)> {
    let template = serde_json::to_value(&set.spec.as_ref().context("a spec")?.template)?;
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    Ok((format!("{SET}-{:x}", hasher.finish()), template))
}

/// Who has a copy of the stream of a Topic, and how many events are in it.
pub async fn copies(client: &Broker, ns: &Namespace, topic: &str) -> Result<(BTreeSet<String>, u64)> {
    let stream = eventually("the stream", ns.kube.patience, async || {
        client.stream(&eventmesh_wire::names::stream(&ns.name, topic)).await.map_err(|error| format!("{error:#}"))
    });
    let info: Value = stream.await?;
    let cluster = &info["cluster"];
    let others = cluster["replicas"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    let members = others.chain(cluster["leader"].as_str()).map(str::to_owned).collect();
    Ok((members, info["state"]["messages"].as_u64().context("a number")?))
}

#[must_use]
pub fn ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
}

/// The pod of a broker that does not start.
fn refused(check: &Value) -> Value {
    let waiting = json!({"name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "PodInitializing"}}});
    json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}],
        "initContainerStatuses": [check], "containerStatuses": [waiting]})
}

/// It runs, and its probes fail.
#[must_use]
pub fn not_ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]})
}
