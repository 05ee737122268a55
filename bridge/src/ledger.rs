//! What a source that numbers its events (MQTT packet ids) still waits for.
//!
//! Acknowledgements leave in the order in which events came (MQTT-4.6.0), each as soon as all before it are settled.
//! Events outlive the connection they came on: when the source delivers one again on a new connection, it is recognised and
//! takes its place there, so it is neither published twice nor acknowledged with a packet id of the old connection.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::event::Acknowledge;

const OPEN: u8 = 0;
const SETTLED: u8 = 1;
const GIVEN_BACK: u8 = 2;

/// Sends the acknowledgement of one packet id on the present connection.
pub type SendAck = Box<dyn Fn(u16) + Send + Sync>;

/// Identifies an event across connections: what it says, beside its packet id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    #[must_use]
    pub fn of(topic: &[u8], payload: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        payload.hash(&mut hasher);
        Self(hasher.finish())
    }
}

struct Entry {
    /// 0: the source expects no acknowledgement.
    packet: u16,
    fingerprint: Fingerprint,
    state: Arc<AtomicU8>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Entry>,
    /// Of earlier connections, and not seen on this one.
    orphans: BTreeMap<u16, Entry>,
    send_ack: Option<SendAck>,
    /// Handed to `send_ack` on this connection.
    acknowledgements: u64,
    /// Given back on this connection: nothing after it can be acknowledged, so the connection must be renewed.
    stuck: bool,
}

/// The ledger of one session.
#[derive(Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
    released: Notify,
}

/// Whether an event is new to the bridge.
pub enum Entered {
    New(Slot),
    /// It is the redelivery of one that is still on its way; nothing is to be done.
    Known,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A connection was made. Without the old session the source has forgotten every packet id.
    pub fn connected(&self, session_present: bool, send_ack: SendAck) {
        let mut inner = self.lock();
        if !session_present {
            inner.orphans.clear();
        }
        inner.send_ack = Some(send_ack);
        inner.acknowledgements = 0;
        inner.stuck = false;
    }

    /// The connection is gone: its packet ids must not be acknowledged on another.
    pub fn disconnected(&self) {
        let mut inner = self.lock();
        inner.send_ack = None;
        let gone = std::mem::take(&mut inner.queue);
        let kept =
            gone.into_iter().filter(|entry| entry.packet != 0 && entry.state.load(Ordering::Relaxed) != GIVEN_BACK);
        for entry in kept {
            inner.orphans.insert(entry.packet, entry);
        }
        drop(inner);
        self.released.notify_waiters();
    }

    /// An event came in; `redelivery` says that the source marked it as one.
    pub fn enter(self: &Arc<Self>, packet: u16, redelivery: bool, fingerprint: Fingerprint) -> Entered {
        let mut inner = self.lock();
        let orphan = if packet == 0 { None } else { inner.orphans.remove(&packet) };
        let open = |entry: &Entry| entry.state.load(Ordering::Relaxed) != GIVEN_BACK;
        if let Some(orphan) = orphan.filter(|orphan| redelivery && orphan.fingerprint == fingerprint && open(orphan)) {
            inner.queue.push_back(orphan);
            Self::release(&mut inner);
            return Entered::Known;
        }
        let state = Arc::new(AtomicU8::new(OPEN));
        inner.queue.push_back(Entry { packet, fingerprint, state: Arc::clone(&state) });
        Entered::New(Slot { ledger: Arc::clone(self), state })
    }

    fn release(inner: &mut Inner) {
        while let Some(front) = inner.queue.front() {
            match front.state.load(Ordering::Relaxed) {
                SETTLED => {}
                GIVEN_BACK if front.packet == 0 => {}
                GIVEN_BACK => {
                    inner.stuck = true;
                    return;
                }
                _ => return,
            }
            let Some(entry) = inner.queue.pop_front() else { return };
            if let Some(send) = inner.send_ack.as_ref().filter(|_| entry.packet != 0) {
                send(entry.packet);
                inner.acknowledgements += 1;
            }
        }
    }

    /// Events that this connection's source waits for.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Acknowledgements handed over on this connection.
    pub fn acknowledgements(&self) -> u64 {
        self.lock().acknowledgements
    }

    /// Whether only a new connection can bring back what was given back.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.lock().stuck
    }

    /// Waits until fewer than `limit` events are waiting.
    pub async fn below(&self, limit: usize) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self.waiting() < limit {
                return;
            }
            released.await;
        }
    }
}

/// One event's place in the ledger.
pub struct Slot {
    ledger: Arc<Ledger>,
    state: Arc<AtomicU8>,
}

impl Slot {
    fn end(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
        let mut inner = self.ledger.lock();
        let before = inner.queue.len();
        Ledger::release(&mut inner);
        let released = inner.queue.len() < before || inner.stuck;
        drop(inner);
        if released {
            self.ledger.released.notify_waiters();
        }
    }
}

impl Acknowledge for Slot {
    fn confirm(&mut self) {
        self.end(SETTLED);
    }

    fn give_back(&mut self) {
        self.end(GIVEN_BACK);
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
