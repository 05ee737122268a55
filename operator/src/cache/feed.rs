//! One watch of one kind: keeps its store up to date and tells an observer what happened.
//!
//! An object that cannot be read (stored by another version of the CRD) is skipped with a warning and never stops the
//! watch. Managed fields are dropped at once: nobody reads them and they are half of an object's memory.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::store::Writer,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

/// What an observer is told.
pub enum Observed<'a, K> {
    /// The object exists with this content; also told of every object at the start and after a break of the watch.
    Applied(&'a K),
    Deleted(&'a K),
    /// The store has been replaced by a fresh listing: what is not in it is gone.
    Listed,
}

/// Watches whole objects until the task is dropped.
pub async fn run<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    writer: Option<Writer<K>>,
    observe: impl FnMut(Observed<'_, K>),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(api, config).backoff(Patient::default());
    let events = events.filter_map(|event| async { event.map(readable).transpose() });
    follow(events, writer, observe).await;
}

/// Watches only the metadata of objects until the task is dropped.
pub async fn run_metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    writer: Option<Writer<PartialObjectMeta<K>>>,
    observe: impl FnMut(Observed<'_, PartialObjectMeta<K>>),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events =
        watcher(api, config).backoff(Patient::default()).modify(|object| object.metadata.managed_fields = None);
    follow(events, writer, observe).await;
}

/// The default backoff, which forgets failures only with time. A watch announces each new attempt with an event before
/// it knows whether the API server answers, so an event is no sign of success.
#[derive(Default)]
struct Patient(DefaultBackoff);

impl Iterator for Patient {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl Backoff for Patient {
    fn reset(&mut self) {}
}

async fn follow<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    mut writer: Option<Writer<K>>,
    mut observe: impl FnMut(Observed<'_, K>),
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn!(kind = %K::kind(&()), %error, "watch failed; it is tried again");
                continue;
            }
        };
        if let Some(writer) = &mut writer {
            writer.apply_watcher_event(&event);
        }
        match &event {
            Event::Apply(object) | Event::InitApply(object) => observe(Observed::Applied(object)),
            Event::Delete(object) => observe(Observed::Deleted(object)),
            Event::InitDone => observe(Observed::Listed),
            Event::Init => {}
        }
    }
}

fn readable<K: Resource<DynamicType = ()>>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    Some(match event {
        Event::Apply(guard) => Event::Apply(unguard(guard)?),
        Event::Delete(guard) => Event::Delete(unguard(guard)?),
        Event::InitApply(guard) => Event::InitApply(unguard(guard)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

fn unguard<K: Resource<DynamicType = ()>>(guard: DeserializeGuard<K>) -> Option<K> {
    match guard.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            Some(object)
        }
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            warn!(kind = %K::kind(&()), namespace, name, error = %invalid.error, "object cannot be read and is left alone; \
                  apply it again in the form of the installed CRD");
            None
        }
    }
}

/// What of an object's metadata and spec a reconcile depends on. A status written by the operator itself leaves it as
/// it was, so it wakes nobody.
#[must_use]
pub fn fingerprint<K: ResourceExt>(object: &K) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let meta = object.meta();
    let mut hasher = DefaultHasher::new();
    meta.uid.hash(&mut hasher);
    meta.generation.hash(&mut hasher);
    meta.deletion_timestamp.as_ref().map(|time| time.0.to_string()).hash(&mut hasher);
    meta.finalizers.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    meta.annotations.hash(&mut hasher);
    hasher.finish()
}
