//! What every controller is given.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::{Client, runtime::events::Recorder};

use crate::{broker::Brokers, cache::Cache, metrics::Metrics, settings::Images};

/// Shared by all controllers; cheap to clone behind an `Arc`.
pub struct Context {
    pub client: Client,
    pub cache: Arc<Cache>,
    pub brokers: Arc<Brokers>,
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
