//! What is around every controller, written once: the queue, concurrency, backoff, metrics and logs.

pub mod apply;
pub mod backoff;
pub mod context;
pub mod error;
pub mod events;
pub mod outcome;
pub mod stopped;

use std::{fmt::Debug, sync::Arc, time::Instant};

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use kube::{
    Resource, ResourceExt,
    runtime::{
        Config, applier,
        controller::Action,
        reflector::{ObjectRef, Store},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

pub use context::Context;
pub use error::{Class, Error};
pub use outcome::Outcome;
pub use stopped::Stopped;

use backoff::Backoffs;

/// Reconciles that run at once, for each kind.
const CONCURRENCY: u16 = 32;

/// A controller: how one object of a kind is made true.
pub trait Controller: Send + Sync + 'static {
    type Object: Resource<DynamicType = ()> + ResourceExt + Clone + Debug + Send + Sync + 'static;
    /// Name in metrics and logs.
    const NAME: &'static str;

    fn reconcile(&self, object: Arc<Self::Object>) -> impl Future<Output = Result<Outcome, Error>> + Send;
}

struct Run<C: Controller> {
    controller: C,
    context: Arc<Context>,
    backoffs: Backoffs,
}

/// Runs a controller until the shutdown; what is under way then is finished.
pub async fn run<C: Controller>(
    controller: C,
    context: Arc<Context>,
    store: Store<C::Object>,
    queue: UnboundedReceiver<ObjectRef<C::Object>>,
    shutdown: CancellationToken,
) {
    let run = Arc::new(Run { controller, context, backoffs: Backoffs::default() });
    let stop = shutdown.clone();
    let queue = queue.take_until(async move { stop.cancelled().await }).map(Ok::<_, std::convert::Infallible>);
    let results = applier(
        |object: Arc<C::Object>, run: Arc<Run<C>>| Box::pin(one_pass(object, run)),
        |object, error: &Error, run: Arc<Run<C>>| {
            let delay = run.backoffs.next(&key(&*object), error.class());
            Action::requeue(delay)
        },
        run,
        store,
        queue,
        Config::default().concurrency(CONCURRENCY),
    );
    results
        .for_each(|result| async {
            match result {
                Ok((object, _)) => debug!(controller = C::NAME, %object, "reconciled"),
                // Deleted while it waited in the queue.
                Err(
                    kube::runtime::controller::Error::ObjectNotFound(_)
                    | kube::runtime::controller::Error::ReconcilerFailed(..),
                ) => {}
                Err(other) => error!(controller = C::NAME, error = %other, "controller queue failed"),
            }
        })
        .await;
    info!(controller = C::NAME, "controller stopped");
}

async fn one_pass<C: Controller>(object: Arc<C::Object>, run: Arc<Run<C>>) -> Result<Action, Error> {
    let (namespace, name) = key(&*object);
    let span = info_span!("reconcile", controller = C::NAME, object = format_args!("{namespace}/{name}"));
    let started = Instant::now();
    let result = run.controller.reconcile(object).instrument(span.clone()).await;
    let label = match &result {
        Ok(outcome) => outcome.label(),
        Err(error) => error.class().label(),
    };
    run.context.metrics.reconciled(C::NAME, label, started.elapsed());
    match result {
        Ok(outcome) => {
            run.backoffs.reset(&(namespace, name));
            Ok(outcome.action())
        }
        Err(error) => {
            let _entered = span.enter();
            if matches!(error.class(), Class::Conflict | Class::Leaving) {
                debug!(%error, "reconcile will be tried again");
            } else {
                warn!(%error, class = error.class().label(), "reconcile failed; it is tried again");
            }
            Err(error)
        }
    }
}

fn key<K: ResourceExt>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}
