//! Makes what [`certificate`](super::certificate) plans come true: the Secret, and `caBundle` in the configuration of the
//! webhook. The leader keeps both; another replica makes the first Secret, so that it need not wait for a leader that knows
//! nothing of webhooks yet.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use data_encoding::BASE64;
use k8s_openapi::{
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;
use tokio::{sync::Notify, task::JoinSet};
use tracing::{info, warn};

use super::certificate::{self, POLICY, Plan, SECRET, Seen};
use crate::{
    cache::feed,
    engine::apply::FIELD_MANAGER,
    labels,
    mesh::{build::names::RENEW_AUTHORITY, certificates::Found, certificates::plan::until},
    pki::Authorities,
};

/// Name of the configuration in deploy/. Not that of the ConfigMap, whose hash kustomize would add to it in the Role.
pub const CONFIGURATION: &str = "eventmesh-operator-webhook";
/// After a call that has failed.
const TRY_AGAIN: Duration = Duration::from_secs(2);

pub struct Keeper {
    client: Client,
    namespace: String,
    names: BTreeSet<String>,
    remembered: Option<Authorities>,
    /// Said once that there is no configuration.
    missed: bool,
}

/// Both objects as they are.
struct Objects {
    secret: Option<Secret>,
    configuration: Option<MutatingWebhookConfiguration>,
}

impl Keeper {
    /// `names`: by which API servers reach the webhook.
    #[must_use]
    pub fn new(client: Client, namespace: &str, names: BTreeSet<String>) -> Self {
        Self { client, namespace: namespace.to_owned(), names, remembered: None, missed: false }
    }

    /// Makes the Secret where there is none.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn first(&self) -> kube::Result<()> {
        let found = self.read().await?;
        if found.secret.is_some() {
            return Ok(());
        }
        let Some(plan) = self.plan(&found) else { return Ok(()) };
        match self.secrets().create(&PostParams::default(), &secret(None, &plan)).await {
            // Another replica was faster.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Keeps both as they should be, until it is dropped.
    pub async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let (on_secret, on_configuration) = (changed.clone(), changed.clone());
        let mut watches = JoinSet::new();
        watches.spawn(feed::run_metadata::<Secret>(
            Api::namespaced(self.client.clone(), &self.namespace),
            named(SECRET),
            None,
            move |_| on_secret.notify_one(),
        ));
        watches.spawn(feed::run_metadata::<MutatingWebhookConfiguration>(
            Api::all(self.client.clone()),
            named(CONFIGURATION),
            None,
            move |_| on_configuration.notify_one(),
        ));
        loop {
            let wait = match self.pass().await {
                Ok(look_again) => until(look_again, Timestamp::now()),
                Err(error) => {
                    warn!(%error, "the certificate of the webhook could not be kept; it is tried again");
                    tokio::time::sleep(TRY_AGAIN).await;
                    continue;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed.notified() => {}
            }
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    async fn read(&self) -> kube::Result<Objects> {
        let (secrets, configurations) = (self.secrets(), self.configurations());
        let (secret, configuration) = tokio::try_join!(secrets.get_opt(SECRET), configurations.get_opt(CONFIGURATION))?;
        Ok(Objects { secret, configuration })
    }

    fn plan(&self, found: &Objects) -> Option<Plan> {
        let data = found.secret.as_ref().map(|secret| secret.data.clone().unwrap_or_default());
        let authorities = match data.as_ref().map(Authorities::read) {
            None => Found::Absent,
            Some(Ok(authorities)) => Found::Good(authorities),
            Some(Err(problem)) => Found::Unreadable(problem),
        };
        let serving = data.as_ref().and_then(certificate::serving);
        let trusted = found.configuration.as_ref().and_then(bundle);
        let request = found.secret.as_ref().and_then(|secret| secret.annotations().get(RENEW_AUTHORITY));
        let plan = certificate::plan(&Seen {
            authorities: &authorities,
            serving: serving.as_ref(),
            remembered: self.remembered.as_ref(),
            trusted: trusted.as_deref(),
            request: request.map(String::as_str).unwrap_or_default(),
            names: &self.names,
            policy: POLICY,
            now: Timestamp::now(),
        });
        plan.inspect_err(|error| warn!(%error, "no certificate can be made for the webhook")).ok()
    }

    /// Says when to look again.
    async fn pass(&mut self) -> kube::Result<Timestamp> {
        let found = self.read().await?;
        let Some(plan) = self.plan(&found) else { return Ok(Timestamp::now()) };
        for note in &plan.notes {
            info!("{note}");
        }
        if found.secret.is_none() {
            // Another replica may make it in this moment, so that nothing may come before it that trusts this one.
            self.secrets().create(&PostParams::default(), &secret(None, &plan)).await?;
        }
        // First what is trusted, then what is shown.
        match &found.configuration {
            Some(configuration) if bundle(configuration).as_deref() != Some(&plan.bundle()) => {
                self.write_bundle(configuration, &plan.bundle()).await?;
            }
            Some(_) => {}
            None if self.missed => {}
            None => warn!(
                "there is no MutatingWebhookConfiguration {CONFIGURATION}, so no pod gets a sidecar; apply deploy/ again"
            ),
        }
        self.missed = found.configuration.is_none();
        match found.secret {
            Some(before) if before.data.as_ref() != Some(&plan.entries()) => {
                let version = before.metadata.clone();
                // Only over what was read: an authority that another replica has made would be lost.
                self.secrets().replace(SECRET, &PostParams::default(), &secret(Some(version), &plan)).await?;
            }
            _ => {}
        }
        self.remembered = Some(plan.authorities);
        Ok(plan.look_again)
    }

    async fn write_bundle(&self, configuration: &MutatingWebhookConfiguration, bundle: &str) -> kube::Result<()> {
        let bundle = BASE64.encode(bundle.as_bytes());
        let webhooks = configuration.webhooks.iter().flatten();
        let webhooks: Vec<_> =
            webhooks.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            // The uid makes the write fail instead of making an object that is gone anew.
            "metadata": {"name": CONFIGURATION, "uid": configuration.uid()},
            "webhooks": webhooks,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.configurations().patch(CONFIGURATION, &parameters, &Patch::Apply(&patch)).await?;
        info!("caBundle of the webhook is written");
        Ok(())
    }
}

/// Of one object by its name.
fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

/// `caBundle`, where all webhooks have the same.
fn bundle(configuration: &MutatingWebhookConfiguration) -> Option<String> {
    let mut bundles = configuration.webhooks.iter().flatten().map(|webhook| webhook.client_config.ca_bundle.as_ref());
    let first = bundles.next()??;
    if bundles.any(|other| other != Some(first)) {
        return None;
    }
    String::from_utf8(first.0.clone()).ok()
}

/// The Secret, over the one that was read.
fn secret(before: Option<ObjectMeta>, plan: &Plan) -> Secret {
    let mut metadata = before.unwrap_or_else(|| ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() });
    metadata.managed_fields = None;
    let own = [(labels::PART_OF, labels::PART_OF_VALUE), (labels::MANAGED_BY, labels::MANAGED_BY_VALUE)];
    metadata.labels.get_or_insert_default().extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Secret { metadata, data: Some(plan.entries()), ..Secret::default() }
}
