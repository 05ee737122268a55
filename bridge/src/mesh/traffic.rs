//! What is on its way over the connection, so that the connection can be exchanged when nothing is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// Counts who waits for an answer.
#[derive(Clone, Default)]
pub(super) struct Traffic(Arc<Inner>);

#[derive(Default)]
struct Inner {
    passes: AtomicUsize,
    still: Notify,
}

/// Held by whoever waits for an answer of the mesh.
pub struct Pass(Traffic);

impl Traffic {
    pub(super) fn pass(&self) -> Pass {
        self.0.passes.fetch_add(1, SeqCst);
        Pass(self.clone())
    }

    /// Waits until nobody waits for an answer.
    pub(super) async fn still(&self) {
        loop {
            let still = self.0.still.notified();
            tokio::pin!(still);
            still.as_mut().enable();
            if self.0.passes.load(SeqCst) == 0 {
                return;
            }
            still.await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let inner = &self.0.0;
        if inner.passes.fetch_sub(1, SeqCst) == 1 {
            inner.still.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn it_is_still_when_the_last_pass_is_given_back() {
        let traffic = Traffic::default();
        traffic.still().await;
        let (one, other) = (traffic.pass(), traffic.pass());
        let mut still = Box::pin(traffic.still());
        assert!(still.as_mut().now_or_never().is_none());
        drop(one);
        assert!(still.as_mut().now_or_never().is_none());
        drop(other);
        still.await;
    }
}
