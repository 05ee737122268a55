//! The inbound routes of one connection, each by itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::route::inbound::Inbound;

/// How a route that is no longer wanted ends.
#[derive(Clone, Default)]
pub struct End {
    /// It stops reading; another that reads the same follows.
    pub replaced: CancellationToken,
    /// Nobody wants what it read any more.
    pub removed: CancellationToken,
}

/// Keeps one task a route, until the link is to stop; then the tasks have ended too.
pub async fn serve<F>(shared: &Shared, start: impl Fn(Arc<Inbound>, End) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut routes = shared.routes.clone();
    let mut running: BTreeMap<String, (Arc<Inbound>, End)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = Arc::clone(&routes.borrow_and_update());
        running.retain(|name, (route, end)| {
            match wanted.iter().find(|next| next.config.name == *name) {
                Some(next) if Arc::ptr_eq(next, route) => return true,
                Some(next) if next.config.from == route.config.from => end.replaced.cancel(),
                _ => end.removed.cancel(),
            }
            false
        });
        for route in wanted.iter() {
            if !running.contains_key(&route.config.name) {
                let end = End::default();
                running.insert(route.config.name.clone(), (Arc::clone(route), end.clone()));
                tasks.spawn(start(Arc::clone(route), end));
            }
        }
        tokio::select! {
            Ok(()) = routes.changed() => {},
            () = shared.stop.cancelled() => break,
            Some(_) = tasks.join_next() => {},
        }
    }
    while tasks.join_next().await.is_some() {}
}
