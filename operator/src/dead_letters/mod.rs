//! Dead letters of Subscriptions: events that were not accepted go to the Topic that the Subscription names.
//!
//! Who reads, reads from the broker, so it is the broker that gives an event up, and the operator that moves it. The
//! brokers keep what has to be moved ([`crate::broker::given_up`]); nothing here has to outlive this process.
//! `docs/adr/0044-dead-letters-of-subscriptions.md` says why it is so.

mod advisory;
pub mod ledger;
mod letter;
mod mover;
pub mod target;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use eventmesh_crds::Subscription;
use eventmesh_wire::names;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, sleep, sleep_until},
};

use ledger::{Key, News};
pub use ledger::{Ledger, Standing};
use mover::Mover;

use crate::{
    broker::{BrokerChange, BrokerEvent, MeshBroker, MeshKey, given_up::NOTES},
    cache::mesh_key,
    engine::Context,
};

/// How long changes of numbers are gathered before the statuses are written.
const GATHER: Duration = Duration::from_secs(1);

/// How it stands with the dead letters of a Subscription.
#[must_use]
pub fn standing(context: &Context, subscription: &Subscription) -> Standing {
    context.dead_letters.standing(&mover::key(subscription))
}

/// Starts a mover for each mesh that keeps notes, whenever a connection to one is opened, until the channel closes.
pub async fn follow_brokers(context: Arc<Context>, mut events: Receiver<BrokerEvent>) {
    let mut moving = BTreeMap::<MeshKey, Weak<MeshBroker>>::new();
    loop {
        match events.recv().await {
            Ok(BrokerEvent { mesh, change }) => {
                let matters = match &change {
                    BrokerChange::Opened | BrokerChange::Synced => true,
                    BrokerChange::Stream(stream) | BrokerChange::StreamReady(stream) => stream == NOTES,
                    _ => false,
                };
                if let (true, Some(broker)) = (matters, context.brokers.get(&mesh)) {
                    start(&context, &mut moving, broker);
                }
            }
            Err(RecvError::Lagged(_)) => {
                for broker in context.brokers.all() {
                    start(&context, &mut moving, broker);
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn start(context: &Arc<Context>, moving: &mut BTreeMap<MeshKey, Weak<MeshBroker>>, broker: Arc<MeshBroker>) {
    moving.retain(|_, known| known.strong_count() > 0);
    let key = broker.key();
    let runs = moving.get(key).and_then(Weak::upgrade).is_some_and(|known| Arc::ptr_eq(&known, &broker));
    if !runs && broker.view().stream(NOTES).is_some() {
        moving.insert(key.clone(), Arc::downgrade(&broker));
        tokio::spawn(Mover { context: context.clone(), broker }.run());
    }
}

/// Brings what the ledger has to tell into statuses and Events, until the task is dropped. Sleeps while nothing happens.
pub async fn tell(context: Arc<Context>) {
    let ledger = &context.dead_letters;
    loop {
        match ledger.next_news(Instant::now()) {
            None => ledger.until_changed().await,
            Some(at) => tokio::select! {
                () = ledger.until_changed() => {}
                () = sleep_until(at) => {}
            },
        }
        sleep(GATHER).await;
        for key in ledger.take_changes(|key| subscription(&context, key).is_some()) {
            wake(&context, &key);
        }
        for (key, news) in ledger.take_news(Instant::now()) {
            if let Some(subscription) = subscription(&context, &key) {
                announce(&context, &subscription, &key, &news).await;
            }
        }
    }
}

fn subscription(context: &Context, key: &Key) -> Option<Arc<Subscription>> {
    let found = context.cache.subscriptions.get(&ObjectRef::new(&key.1).within(&key.0))?;
    (found.uid().as_ref() == Some(&key.2)).then_some(found)
}

/// Has the Subscription's status written.
fn wake(context: &Context, key: &Key) {
    let Some(subscription) = subscription(context, key) else { return };
    let (of, topic) = target::source(&subscription);
    let (stream, consumer) = (names::stream(&of, &topic), names::subscription_consumer(&key.0, &key.1));
    // Without its Topic the Subscription says so, and not how many.
    let mesh = context.cache.topic(&of, &topic).map(|topic| mesh_key(&topic.spec.mesh, &of));
    if let Some(broker) = mesh.and_then(|mesh| context.brokers.get(&mesh)) {
        broker.announce(BrokerChange::Consumer { stream, consumer });
    }
}

async fn announce(context: &Context, subscription: &Subscription, key: &Key, news: &News) {
    let topic = target::topic(subscription).map(|(_, name)| name).unwrap_or_default();
    if news.moved > 0 {
        let all = context.dead_letters.standing(key).count.unwrap_or(news.moved);
        let note = format!("dead letters in Topic {topic}: {} new, {all} in all; the last: {}", news.moved, news.cause);
        context.warn(subscription, "DeadLettered", note).await;
    }
    if news.gone > 0 {
        let note = format!(
            "events that had left their Topic before they could be moved to Topic {topic}: {}; the last: {}",
            news.gone, news.gone_cause
        );
        context.warn(subscription, "DeadLetterGone", note).await;
    }
}
