//! Kubernetes objects as a test sees them: applied from YAML, watched until they are as wanted, and shown when they do
//! not become so.

use std::{
    fmt::{Debug, Write as _},
    path::PathBuf,
    pin::pin,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace as CoreNamespace, Pod, Secret},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams},
    core::GroupVersionKind,
    runtime::watcher,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{child, wait};

/// Label of the namespaces that tests make, so that a later run finds what a killed one has left.
pub const TEST_LABEL: &str = "eventmesh.dev/test";

const FIELD_MANAGER: &str = "eventmesh-tests";

/// Where the operator writes its log.
#[derive(Debug, Clone)]
pub enum OperatorLog {
    Pods,
    File(PathBuf),
}

/// Access to an API server, and how long things may take there.
#[derive(Clone)]
pub struct Kube {
    pub client: Client,
    pub operator_log: OperatorLog,
    pub patience: Duration,
}

impl Kube {
    /// Applies every document of `yaml` as it is; objects without a namespace go to `namespace`.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> Result<()> {
        for document in documents(yaml)? {
            self.apply_one(namespace, document).await?;
        }
        Ok(())
    }

    async fn apply_one(&self, namespace: &str, object: DynamicObject) -> Result<()> {
        let api = self.dynamic(namespace, &object).await?;
        // A user applies: unknown fields are refused, as kubectl does.
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        let name = object.name_any();
        api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(|| format!("cannot apply {name}"))?;
        Ok(())
    }

    async fn dynamic(&self, namespace: &str, object: &DynamicObject) -> Result<Api<DynamicObject>> {
        let types = object.types.as_ref().context("a document without kind")?;
        let kind = GroupVersionKind::try_from(types)?;
        let (resource, capabilities) = kube::discovery::pinned_kind(&self.client, &kind).await?;
        Ok(match capabilities.scope {
            kube::discovery::Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            kube::discovery::Scope::Namespaced => {
                let namespace = object.namespace().unwrap_or_else(|| namespace.to_owned());
                Api::namespaced_with(self.client.clone(), &namespace, &resource)
            }
        })
    }

    /// Makes a namespace and runs `test` in it. The namespace is deleted when the test has succeeded, and shown and left
    /// when it has not.
    ///
    /// # Errors
    /// Those of `test`.
    pub async fn with_namespace(&self, name: &str, test: impl AsyncFnOnce(&Namespace) -> Result<()>) -> Result<()> {
        let namespace = self.make_namespace(name).await?;
        let outcome = std::panic::AssertUnwindSafe(test(&namespace)).catch_unwind().await;
        if let Ok(Ok(())) = outcome {
            let api: Api<CoreNamespace> = Api::all(self.client.clone());
            return match api.delete(&namespace.name, &DeleteParams::background()).await {
                Ok(_) => Ok(()),
                // The test itself deleted it.
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        eprintln!("{}", namespace.show().await);
        match outcome {
            Ok(result) => result.with_context(|| format!("namespace {}", namespace.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Makes a namespace with a name of its own, in which Pod Security enforces `restricted`.
    pub async fn make_namespace(&self, name: &str) -> Result<Namespace> {
        let unique = std::process::id() % 100_000;
        let name = format!("t-{name}-{unique}");
        let yaml = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{TEST_LABEL}: 'true', \
             pod-security.kubernetes.io/enforce: restricted}}}}}}\n---\n\
             {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: {name}}}}}"
        );
        self.apply(&name, &yaml).await?;
        Ok(self.namespace(&name))
    }

    #[must_use]
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace { kube: self.clone(), name: name.to_owned() }
    }

    /// Deletes the namespaces that earlier runs have left.
    pub async fn remove_leftovers(&self) -> Result<()> {
        let api: Api<CoreNamespace> = Api::all(self.client.clone());
        for namespace in api.list(&ListParams::default().labels(TEST_LABEL)).await? {
            if namespace.metadata.deletion_timestamp.is_none() {
                let _ = api.delete(&namespace.name_any(), &DeleteParams::background()).await;
            }
        }
        Ok(())
    }
}

/// An object of this API; `spec` is indented by two.
#[must_use]
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: eventmesh.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}\n")
}

fn documents(yaml: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for text in yaml.split("\n---\n") {
        let value: Value = serde_saphyr::from_str(text).with_context(|| format!("not YAML: {text}"))?;
        if !value.is_null() {
            objects.push(serde_json::from_value(value)?);
        }
    }
    Ok(objects)
}

/// Objects with `status.conditions` and what goes with them.
pub trait Conditions {
    fn conditions(&self) -> &[Condition];
    fn observed_generation(&self) -> Option<i64>;
}

macro_rules! conditions {
    ($($kind:ty),*) => {$(
        impl Conditions for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map_or(&[], |status| &status.conditions)
            }

            fn observed_generation(&self) -> Option<i64> {
                self.status.as_ref().and_then(|status| status.observed_generation)
            }
        }
    )*};
}

conditions!(EventMesh, Topic, Subscription, Bridge);

/// What a kind has to be for a test to handle it.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

/// One namespace.
#[derive(Clone)]
pub struct Namespace {
    pub kube: Kube,
    pub name: String,
}

impl Namespace {
    #[must_use]
    pub fn api<K: Object>(&self) -> Api<K> {
        Api::namespaced(self.kube.client.clone(), &self.name)
    }

    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.kube.apply(&self.name, yaml).await
    }

    /// Applies what must be refused, and gives the API server's message.
    pub async fn refused(&self, yaml: &str) -> Result<String> {
        match self.apply(yaml).await {
            Ok(()) => bail!("this was accepted and should not have been:\n{yaml}"),
            Err(error) => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) => Ok(status.message.clone()),
                _ => Err(error),
            },
        }
    }

    pub async fn get<K: Object>(&self, name: &str) -> Result<K> {
        self.api::<K>().get(name).await.with_context(|| format!("{} {name}", K::kind(&())))
    }

    /// Changes fields of a spec, as `kubectl patch` does.
    pub async fn patch<K: Object>(&self, name: &str, patch: Value) -> Result<K> {
        Ok(self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    pub async fn delete<K: Object>(&self, name: &str) -> Result<()> {
        self.api::<K>().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Deletes and waits until the object is gone.
    pub async fn delete_and_wait<K: Object>(&self, name: &str) -> Result<()> {
        self.delete::<K>(name).await?;
        self.gone::<K>(name).await
    }

    pub async fn gone<K: Object>(&self, name: &str) -> Result<()> {
        let found = self.watch::<K, _>(name, |object| object.is_none().then_some(())).await;
        found.map_err(|last| anyhow!("{} {name} is still there: {last}", K::kind(&())))
    }

    /// Waits until `wanted` gives a value of the object.
    pub async fn until<K: Object, T>(&self, name: &str, what: &str, wanted: impl Fn(&K) -> Option<T>) -> Result<T> {
        let found = self.watch::<K, T>(name, |object| object.and_then(&wanted)).await;
        found.map_err(|last| {
            let seconds = self.kube.patience.as_secs();
            anyhow!("{} {name} did not become {what} in {seconds} s; last seen:\n{last}", K::kind(&()))
        })
    }

    async fn watch<K: Object, T>(&self, name: &str, wanted: impl Fn(Option<&K>) -> Option<T>) -> Result<T, String> {
        let mut last = "it does not exist".to_owned();
        let search = async {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut events = pin!(watcher(self.api::<K>(), config));
            let mut seen = false;
            while let Some(event) = events.next().await {
                let object = match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        seen = true;
                        Some(object)
                    }
                    Ok(watcher::Event::Init) => {
                        seen = false;
                        continue;
                    }
                    Ok(watcher::Event::InitDone) if seen => continue,
                    Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => None,
                    Err(error) => {
                        last = error.to_string();
                        continue;
                    }
                };
                if let Some(value) = wanted(object.as_ref()) {
                    return Some(value);
                }
                last = object.map_or_else(|| "it does not exist".to_owned(), |object| show(&object));
            }
            None
        };
        match tokio::time::timeout(self.kube.patience, search).await {
            Ok(Some(value)) => Ok(value),
            _ => Err(last),
        }
    }

    /// Waits until the operator has seen the newest spec and the condition has this status and reason.
    pub async fn condition<K: Object + Conditions>(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Result<Condition> {
        let what = format!("{kind}={status} ({reason})");
        self.until::<K, _>(name, &what, |object| {
            let generation = object.meta().generation;
            object
                .conditions()
                .iter()
                .filter(|c| c.observed_generation == generation && object.observed_generation() == generation)
                .find(|c| c.type_ == kind && c.status == status && c.reason == reason)
                .cloned()
        })
        .await
    }

    /// Waits until the operator has seen the newest spec and `Ready` is `True`.
    pub async fn ready<K: Object + Conditions>(&self, name: &str) -> Result<K> {
        self.until::<K, _>(name, "Ready", |object| is_ready(object).then(|| object.clone())).await
    }

    /// What clients of a mesh trust; absent where it has no TLS.
    pub async fn authority(&self, mesh: &str) -> Result<Option<String>> {
        let name = format!("{mesh}-broker-tls");
        let data = self.until::<Secret, _>(&name, "the certificates", |secret| secret.data.clone()).await?;
        data.get("ca.crt").map(|pem| Ok(String::from_utf8(pem.0.clone())?)).transpose()
    }

    /// Waits until an Event tells of this reason, and gives its text.
    pub async fn event(&self, reason: &str) -> Result<String> {
        let api = self.api::<Event>();
        wait::eventually(&format!("Event {reason}"), self.kube.patience, async || {
            let events = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let found = events.into_iter().find(|event| event.reason.as_deref() == Some(reason));
            Ok(found.map(|event| event.note.unwrap_or_default()))
        })
        .await
    }

    /// The value of a key of a Secret, once both are there.
    pub async fn secret(&self, name: &str, key: &str) -> Result<String> {
        self.until::<Secret, _>(name, &format!("a Secret with the key {key}"), |secret| {
            let value = secret.data.as_ref()?.get(key)?;
            String::from_utf8(value.0.clone()).ok()
        })
        .await
    }

    /// Everything that helps to see what went wrong here.
    pub async fn show(&self) -> String {
        let mut text = format!("\n======== namespace {} ========\n", self.name);
        self.show_all::<EventMesh>(&mut text).await;
        self.show_all::<Topic>(&mut text).await;
        self.show_all::<Subscription>(&mut text).await;
        self.show_all::<Bridge>(&mut text).await;
        self.show_events(&mut text).await;
        self.show_pods(&mut text).await;
        text.push_str(&self.operator_log().await);
        text
    }

    async fn show_all<K: Object>(&self, text: &mut String) {
        for object in self.api::<K>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            let _ = writeln!(text, "---\n{}", show(&object));
        }
    }

    async fn show_events(&self, text: &mut String) {
        for event in self.api::<Event>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            let about = event.regarding.unwrap_or_default();
            let _ = writeln!(
                text,
                "event: {} {}: {} {}",
                about.kind.unwrap_or_default(),
                about.name.unwrap_or_default(),
                event.reason.unwrap_or_default(),
                event.note.unwrap_or_default()
            );
        }
    }

    async fn show_pods(&self, text: &mut String) {
        let pods = self.api::<Pod>();
        for pod in pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            let name = pod.name_any();
            let status = serde_json::to_value(pod.status.unwrap_or_default()).unwrap_or_default();
            let _ = writeln!(text, "pod {name}: {} {}", status["phase"], status["containerStatuses"]);
            let params = LogParams { tail_lines: Some(20), ..LogParams::default() };
            let _ = writeln!(text, "{}", pods.logs(&name, &params).await.unwrap_or_else(|error| error.to_string()));
        }
    }

    async fn operator_log(&self) -> String {
        match &self.kube.operator_log {
            OperatorLog::File(file) => format!("operator:\n{}", child::tail(file, 60)),
            OperatorLog::Pods => {
                let mut text = String::new();
                let pods: Api<Pod> = Api::namespaced(self.kube.client.clone(), "eventmesh-system");
                for pod in pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                    let params = LogParams { tail_lines: Some(60), ..LogParams::default() };
                    let log = pods.logs(&pod.name_any(), &params).await.unwrap_or_default();
                    let _ = writeln!(text, "{}:\n{log}", pod.name_any());
                }
                text
            }
        }
    }
}

#[must_use]
pub fn is_ready<K: Object + Conditions>(object: &K) -> bool {
    let generation = object.meta().generation;
    object.observed_generation() == generation
        && object.conditions().iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// An object as YAML without what only machines read.
fn show<K: Serialize>(object: &K) -> String {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    serde_saphyr::to_string(&value).unwrap_or_default()
}

/// Waits for several objects of a kind at once.
pub async fn all_ready<K: Object + Conditions>(namespace: &Namespace, names: &[&str]) -> Result<()> {
    let waits = names.iter().map(|name| async move { namespace.ready::<K>(name).await.map(drop) });
    futures::stream::iter(waits).buffer_unordered(16).try_collect::<()>().await
}
