//! Pull requests, one after the other, so that never more is asked for than there is room for; and, where the order does not
//! matter, so that under load one is always open.

use std::collections::VecDeque;
use std::sync::Arc;

use async_nats::{Client, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::pull::{Inbox, Pull, PullError};

/// The requests to one consumer.
pub struct Pulls {
    client: Client,
    /// Where requests go.
    subject: String,
    window: Arc<Semaphore>,
    size: usize,
    /// How many may be open at once. Brokers serve those that are open in turns, so with more than one events come out of
    /// their order.
    most: usize,
    /// Those that may still bring events, oldest first.
    open: VecDeque<Pull>,
    /// Of requests that are over.
    inboxes: Vec<Inbox>,
    /// Room that was waited for.
    first: Option<OwnedSemaphorePermit>,
}

impl Pulls {
    /// `window` has room for `size` events; `api` is what subjects of the `JetStream` API begin with. `ordered`: events come
    /// in the order in which the consumer gives them.
    #[must_use]
    pub fn new(
        client: Client,
        api: &str,
        (stream, consumer): (&str, &str),
        (window, size): (Arc<Semaphore>, usize),
        ordered: bool,
    ) -> Self {
        let subject = format!("{api}.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let most = if ordered { 1 } else { 2 };
        Self { client, subject, window, size, most, open: VecDeque::new(), inboxes: Vec::new(), first: None }
    }

    #[must_use]
    pub fn are_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Makes a request when it is time for one.
    pub async fn top_up(&mut self) -> Result<(), PullError> {
        if let Some(room) = self.take_room() {
            let inbox = match self.inboxes.pop() {
                Some(inbox) => inbox,
                None => Inbox::open(&self.client).await?,
            };
            self.open.push_back(Pull::ask(&self.client, &self.subject, room, inbox).await?);
        }
        Ok(())
    }

    async fn room(&mut self) -> Result<(), PullError> {
        if self.first.is_none() {
            self.first = Some(Arc::clone(&self.window).acquire_owned().await.map_err(PullError::failed)?);
        }
        Ok(())
    }

    /// The next event and its place in the window; `None` when a request is over, or there is room for one.
    pub async fn next(&mut self) -> Result<Option<(Message, OwnedSemaphorePermit)>, PullError> {
        let Some(oldest) = self.open.front_mut() else { return self.room().await.map(|()| None) };
        let next = oldest.next().await?;
        if next.is_none()
            && let Some(over) = self.open.pop_front()
        {
            self.inboxes.push(over.into_inbox());
        }
        Ok(next)
    }

    /// Room for another request, when one is to be made. Under load each is for half the window, and the second is
    /// made before the first runs out; while the target takes few, one waits until it is worth it.
    fn take_room(&mut self) -> Option<OwnedSemaphorePermit> {
        let worth_it = match self.open.len() {
            0 => 1,
            1 if self.most > 1 && self.open[0].runs_out() => (self.size / 4).max(1),
            _ => return None,
        };
        let held = usize::from(self.first.is_some());
        let free = self.window.available_permits() + held;
        if free < worth_it {
            return None;
        }
        let wanted = free.min(self.size.div_ceil(2));
        let more = u32::try_from(wanted - held).unwrap_or(u32::MAX);
        let mut room = Arc::clone(&self.window).try_acquire_many_owned(more).ok()?;
        if let Some(first) = self.first.take() {
            room.merge(first);
        }
        Some(room)
    }
}
