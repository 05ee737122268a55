//! Applies the children of an EventMesh: the only writes to Kubernetes besides the status.

use k8s_openapi::api::apps::v1::StatefulSet;

use super::build::Desired;
use crate::engine::{Context, Error, apply};

/// What the API server has after the writes.
pub struct Applied {
    pub stateful_set: StatefulSet,
}

/// In order: what pods mount and run as comes before them, so that no pod waits for it.
pub async fn run(context: &Context, desired: &Desired) -> Result<Applied, Error> {
    let client = &context.client;
    apply::child(client, &desired.service_account).await?;
    apply::child(client, &desired.config_map).await?;
    apply::child(client, &desired.broker_secret).await?;
    apply::child(client, &desired.client_secret).await?;
    for service in &desired.services {
        apply::child(client, service).await?;
    }
    apply::child(client, &desired.budget).await?;
    Ok(Applied { stateful_set: apply::child(client, &desired.stateful_set).await? })
}
