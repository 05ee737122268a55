//! How running brokers come to use new certificates: the kubelet exchanges the files, and each broker is asked to read its
//! configuration anew. No connection ends, nothing restarts.
//!
//! Every broker tells the revision that it has loaded. A pass asks once; as long as one lags behind, there is another pass.

use std::{collections::BTreeMap, sync::PoisonError};

use kube::ResourceExt;
use tracing::{debug, info};

use super::{apply, validate::ValidMesh};
use crate::{
    broker::{MeshBroker, MeshKey, health::Health},
    engine::{Context, Error},
};

/// Which brokers run with which certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakeUp {
    /// By broker: whether it runs with the revision that it should.
    pub brokers: BTreeMap<String, bool>,
    wanted: usize,
}

impl TakeUp {
    #[must_use]
    pub fn of(health: &Health, revision: Option<&str>, wanted: usize) -> Self {
        let current = |loaded: &Option<String>| loaded.is_some() && loaded.as_deref() == revision;
        let brokers = health.brokers.iter().map(|(name, said)| (name.clone(), current(&said.certificates)));
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
            "{current} of {} brokers use the current certificates; taking them up: {}",
            self.wanted,
            behind.join(", ")
        )
    }
}

/// What the brokers said last.
#[must_use]
pub fn observe(context: &Context, key: &MeshKey, revision: Option<&str>, replicas: i32) -> TakeUp {
    let health = context.brokers.get(key).map(|broker| health(&broker)).unwrap_or_default();
    TakeUp::of(&health, revision, usize::try_from(replicas).unwrap_or_default())
}

fn health(broker: &MeshBroker) -> Health {
    broker.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Makes those that lag behind catch up, as far as one pass can.
pub async fn run(context: &Context, mesh: &ValidMesh, revision: &str) -> Result<TakeUp, Error> {
    let key = &mesh.key;
    let seen = observe(context, key, Some(revision), mesh.replicas);
    if seen.behind().is_empty() {
        return Ok(seen);
    }
    let pods = apply::pods(context, &key.namespace, &key.name);
    let told = apply::refresh_pods(context, &key.namespace, &pods, revision).await?;
    let Some(broker) = context.brokers.get(key) else { return Ok(seen) };
    for name in seen.behind() {
        let is_pod = pods.iter().any(|pod| pod.name_any() == name);
        // Files come a moment after the kubelet was told: asking at once would read the old ones again.
        if is_pod && !told.contains(name) {
            continue;
        }
        match broker.reload(name).await {
            Ok(()) => info!(mesh = %key, broker = name, revision, "the broker has read its certificates anew"),
            Err(error) => debug!(mesh = %key, broker = name, %error, "the broker could not be asked to reload"),
        }
    }
    if let Err(error) = broker.ask_health().await {
        debug!(mesh = %key, %error, "could not ask the brokers");
    }
    Ok(observe(context, key, Some(revision), mesh.replicas))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::health::BrokerHealth;

    fn health(brokers: &[(&str, Option<&str>)]) -> Health {
        let said = |certificates: Option<&str>| BrokerHealth {
            id: "N".to_owned(),
            version: "2.15.2".to_owned(),
            started_at: String::new(),
            meta_leader: None,
            certificates: certificates.map(str::to_owned),
        };
        Health { brokers: brokers.iter().map(|(name, loaded)| ((*name).to_owned(), said(*loaded))).collect() }
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
            assert_eq!(lagging.message(), "2 of 3 brokers use the current certificates; taking them up: c");
        }
        assert!(!TakeUp::of(&health(&[("a", None)]), None, 1).is_complete(), "nothing stored is nothing taken up");
    }
}
