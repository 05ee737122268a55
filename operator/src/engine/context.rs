//! What every controller is given.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::{Client, runtime::events::Recorder};

use crate::{
    broker::Brokers,
    cache::Cache,
    dead_letters,
    identity::{self, Keyring},
    metrics::Metrics,
    settings::Images,
};

/// Shared by all controllers; cheap to clone behind an `Arc`.
pub struct Context {
    pub client: Client,
    pub cache: Arc<Cache>,
    pub brokers: Arc<Brokers>,
    pub keyring: Keyring,
    /// How it stands with the identities of each mesh.
    pub identities: identity::Reports,
    /// How it stands with the dead letters of each Subscription.
    pub dead_letters: dead_letters::Ledger,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    pub images: Images,
    /// Address of a mesh's brokers: `{mesh}` and `{namespace}` are replaced.
    pub broker_address: String,
}

impl Context {
    /// The time that statuses are written with; one place, so that it can be told apart from the monotonic clock.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
