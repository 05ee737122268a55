//! How running brokers come to use new certificates and settings: the kubelet exchanges the files, and each broker is asked
//! to read its configuration anew. No connection ends, nothing restarts.
//!
//! Every broker tells the revisions that it has loaded. A pass asks once; as long as one lags behind, there is another pass.
//! A broker that has to be restarted is left to the roll: it would refuse to load what it cannot take up.

use std::{collections::BTreeMap, sync::PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tracing::{debug, info};

use super::{apply, build::stateful_set::CONFIG_HASH, validate::ValidMesh};
use crate::{
    broker::{
        MeshBroker, MeshKey,
        health::{BrokerHealth, Health},
    },
    engine::{Context, Error},
};

/// What brokers should have loaded.
pub struct Wanted<'a> {
    pub certificates: &'a str,
    pub configuration: &'a [String],
    /// The part of the configuration that a broker has to be started with.
    pub started_with: Option<&'a str>,
}

impl Wanted<'_> {
    fn is_loaded(&self, said: &BrokerHealth) -> bool {
        let configured = said.configuration.is_empty() || said.configuration == self.configuration;
        said.certificates.as_deref() == Some(self.certificates) && configured
    }
}

/// Which brokers run with what they should.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakeUp {
    /// By broker: whether it runs with what it should.
    pub brokers: BTreeMap<String, bool>,
    wanted: usize,
}

impl TakeUp {
    #[must_use]
    pub fn of(health: &Health, revision: Option<&str>, wanted: usize) -> Self {
        let current = |said: &BrokerHealth| said.certificates.is_some() && said.certificates.as_deref() == revision;
        Self::by(health, current, wanted)
    }

    fn by(health: &Health, current: impl Fn(&BrokerHealth) -> bool, wanted: usize) -> Self {
        let brokers = health.brokers.iter().map(|(name, said)| (name.clone(), current(said)));
        Self { brokers: brokers.collect(), wanted }
    }

    /// Every broker that should be there has said that it is up to date.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.brokers.len() >= self.wanted && self.brokers.values().all(|current| *current)
    }

    /// Brokers that answer and lag behind.
    #[must_use]
    pub fn behind(&self) -> Vec<&str> {
        self.brokers.iter().filter(|(_, current)| !**current).map(|(name, _)| name.as_str()).collect()
    }

    /// For a condition; empty when there is nothing to tell.
    #[must_use]
    pub fn message(&self) -> String {
        let behind = self.behind();
        if behind.is_empty() {
            return String::new();
        }
        let current = self.brokers.len() - behind.len();
        format!(
            "{current} of {} brokers use the current certificates and settings; taking them up: {}",
            self.wanted,
            behind.join(", ")
        )
    }
}

/// What the brokers said last of their certificates.
#[must_use]
pub fn observe(context: &Context, key: &MeshKey, revision: Option<&str>, replicas: i32) -> TakeUp {
    let health = context.brokers.get(key).map(|broker| health(&broker)).unwrap_or_default();
    TakeUp::of(&health, revision, usize::try_from(replicas).unwrap_or_default())
}

fn health(broker: &MeshBroker) -> Health {
    broker.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Makes those that lag behind catch up, as far as one pass can.
pub async fn run(context: &Context, mesh: &ValidMesh, wanted: &Wanted<'_>) -> Result<TakeUp, Error> {
    let key = &mesh.key;
    let Some(broker) = context.brokers.get(key) else { return Ok(TakeUp::default()) };
    let replicas = usize::try_from(mesh.replicas).unwrap_or_default();
    let pods = apply::pods(context, &key.namespace, &key.name);
    let outdated: Vec<String> = pods.iter().filter(|pod| is_outdated(pod, wanted)).map(|pod| pod.name_any()).collect();
    let look = || {
        let mut health = health(&broker);
        health.brokers.retain(|name, _| !outdated.contains(name));
        TakeUp::by(&health, |said| wanted.is_loaded(said), replicas)
    };
    let seen = look();
    if seen.behind().is_empty() {
        return Ok(seen);
    }
    let revision = format!("{} {}", wanted.certificates, wanted.configuration.join(" "));
    let told = apply::refresh_pods(context, &key.namespace, &pods, &revision).await?;
    for name in seen.behind() {
        let is_pod = pods.iter().any(|pod| pod.name_any() == name);
        // Files come a moment after the kubelet was told: asking at once would read the old ones again.
        if is_pod && !told.contains(name) {
            continue;
        }
        match broker.reload(name).await {
            Ok(()) => info!(mesh = %key, broker = name, revision, "the broker has read its configuration anew"),
            Err(error) => debug!(mesh = %key, broker = name, %error, "the broker could not be asked to reload"),
        }
    }
    if let Err(error) = broker.ask_health().await {
        debug!(mesh = %key, %error, "could not ask the brokers");
    }
    Ok(look())
}

/// Whether it runs with something that it has to be restarted for.
fn is_outdated(pod: &Pod, wanted: &Wanted<'_>) -> bool {
    pod.annotations().get(CONFIG_HASH).map(String::as_str) != wanted.started_with
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(brokers: &[(&str, Option<&str>)]) -> Health {
        let said = |certificates: Option<&str>| BrokerHealth {
            clock_ahead: None,
            id: "N".to_owned(),
            version: "2.15.2".to_owned(),
            started_at: String::new(),
            meta_leader: None,
            certificates: certificates.map(str::to_owned),
            configuration: Vec::new(),
        };
        let brokers = brokers.iter().map(|(name, loaded)| ((*name).to_owned(), said(*loaded))).collect();
        Health { brokers, ..Health::default() }
    }

    #[test]
    fn it_is_complete_when_every_broker_says_so() {
        let of = |brokers: &[_]| TakeUp::of(&health(brokers), Some("r2"), 3);
        let (a, b, c) = (("a", Some("r2")), ("b", Some("r2")), ("c", Some("r2")));
        assert!(of(&[a, b, c]).is_complete());
        let absent = of(&[a, b]);
        assert!(!absent.is_complete() && absent.behind().is_empty(), "one does not answer: nobody to ask");
        for other in [Some("r1"), None] {
            let lagging = of(&[a, b, ("c", other)]);
            assert!(!lagging.is_complete());
            assert_eq!(
                lagging.message(),
                "2 of 3 brokers use the current certificates and settings; taking them up: c"
            );
        }
        assert!(!TakeUp::of(&health(&[("a", None)]), None, 1).is_complete(), "nothing stored is nothing taken up");
    }

    #[test]
    fn both_files_have_to_be_loaded_by_who_tells_of_them() {
        let said = |certificates: &str, configuration: &[&str]| {
            let mut said = health(&[("a", Some(certificates))]).brokers.remove("a").expect("there");
            said.configuration = configuration.iter().map(|&revision| revision.to_owned()).collect();
            said
        };
        let wanted =
            Wanted { certificates: "r2", configuration: &["c1".to_owned(), "d1".to_owned()], started_with: None };
        assert!(wanted.is_loaded(&said("r2", &["c1", "d1"])) && wanted.is_loaded(&said("r2", &[])));
        for (certificates, configuration) in [("r1", &["c1", "d1"][..]), ("r2", &["c2", "d1"]), ("r2", &["c1", "d2"])] {
            assert!(!wanted.is_loaded(&said(certificates, configuration)), "{certificates} {configuration:?}");
        }
    }
}
