//! Kubernetes Events: what a person reads at the end of `kubectl describe`.

use kube::{
    Resource,
    runtime::events::{Event, EventType},
};
use tracing::{debug, warn};

use super::{Context, error::is_leaving};

/// Longest note that the API server takes, less a margin.
const LONGEST_NOTE: usize = 1000;

impl Context {
    /// Tells of something that went as it should.
    pub async fn note<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &'static str, note: impl Into<String>) {
        self.publish(object, EventType::Normal, reason, note.into()).await;
    }

    /// Tells of something that needs a person's eye.
    pub async fn warn<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &'static str, note: impl Into<String>) {
        self.publish(object, EventType::Warning, reason, note.into()).await;
    }

    async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &'static str,
        mut note: String,
    ) {
        if let Some((end, _)) = note.char_indices().nth(LONGEST_NOTE) {
            note.truncate(end);
            note.push('…');
        }
        let event =
            Event { type_, reason: reason.into(), note: Some(note), action: "Reconcile".into(), secondary: None };
        // An Event is a courtesy: the condition says the same, so a failure to write it fails nothing.
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            if is_leaving(&error) {
                debug!(%error, reason, "nobody will read this Event");
            } else {
                warn!(%error, reason, "could not publish an Event");
            }
        }
    }
}
