//! How far each assigned partition is handled. Pure: what is committed and where reading goes on follows from it.
//!
//! Kafka keeps one number a partition: everything before it is done. Events are settled in any order, so what may be
//! committed is the end of the unbroken run of settled ones. Receipts outlive assignments: one of a partition that was taken
//! away changes nothing any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::event::Acknowledge;

/// A partition: topic and number.
pub type Key = (Arc<str>, i32);

const OPEN: u8 = 0;
const SETTLED: u8 = 1;
const GIVEN_BACK: u8 = 2;
/// Given back, and the reader was told to read it again.
const AWAITED: u8 = 3;

struct Entry {
    offset: i64,
    state: Arc<AtomicU8>,
}

#[derive(Default)]
struct Partition {
    /// What came and is not part of the unbroken run yet, in the order of offsets.
    entries: VecDeque<Entry>,
    /// Everything before it is done; `None` until an event came.
    done: Option<i64>,
    committed: Option<i64>,
}

/// The ledger of all partitions that are assigned to this bridge.
pub struct Ledger {
    partitions: Mutex<BTreeMap<Key, Partition>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Events that are neither settled nor given back, those of partitions that were taken away included.
    open: AtomicUsize,
    /// The reader waits until no more than this are open.
    waiting_for: AtomicUsize,
    low: AtomicBool,
    changed: Notify,
    given_back: AtomicBool,
    wake: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
}

/// What an event that came is to the bridge.
pub enum Entered {
    New(Slot),
    /// It is on its way already, or handled and only not committed yet.
    Known,
    /// It lies before what is done, although nobody asked for it: the partition was made anew. It was forgotten, and the event
    /// is to be entered again.
    MadeAnew,
}

impl Ledger {
    #[must_use]
    pub fn new() -> Self {
        Self { partitions: Mutex::default(), shared: Arc::default() }
    }

    /// `wake` interrupts the reader's waiting.
    pub fn set_wake(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.shared.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(wake));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event came.
    pub fn enter(&self, key: &Key, offset: i64) -> Entered {
        let mut partitions = self.lock();
        let partition = match partitions.get_mut(key) {
            Some(partition) => partition,
            None => partitions.entry(key.clone()).or_default(),
        };
        if partition.done.is_some_and(|done| offset < done) {
            *partition = Partition::default();
            return Entered::MadeAnew;
        }
        if partition.done.is_none() {
            // Where reading begins needs no commit.
            (partition.done, partition.committed) = (Some(offset), Some(offset));
        }
        let state = Arc::new(AtomicU8::new(OPEN));
        let place = partition.entries.partition_point(|entry| entry.offset < offset);
        match partition.entries.get_mut(place) {
            Some(entry) if entry.offset == offset => match entry.state.load(Ordering::Acquire) {
                OPEN | SETTLED => return Entered::Known,
                _ => entry.state = Arc::clone(&state),
            },
            _ => partition.entries.insert(place, Entry { offset, state: Arc::clone(&state) }),
        }
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        Entered::New(Slot { state, shared: Arc::clone(&self.shared) })
    }

    /// Events that are on their way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Wakes the reader when no more than this many are on their way.
    pub fn wake_at(&self, open: usize) {
        self.shared.waiting_for.store(open, Ordering::Release);
        self.shared.low.store(true, Ordering::Release);
    }

    /// What can be committed and is not: the offset after the last one that is done, by partition.
    #[must_use]
    pub fn uncommitted(&self) -> Vec<(Key, i64)> {
        let mut partitions = self.lock();
        partitions.iter_mut().filter_map(|(key, partition)| Some((key.clone(), partition.uncommitted()?))).collect()
    }

    /// They are committed. One that was taken away or made anew meanwhile is not touched.
    pub fn committed(&self, offsets: &[(Key, i64)]) {
        let mut partitions = self.lock();
        for (key, offset) in offsets {
            let Some(partition) = partitions.get_mut(key) else { continue };
            if partition.done.is_some_and(|done| done >= *offset) {
                partition.committed = Some(*offset);
            }
        }
    }

    /// Where reading must go on again, by partition: at the first event that was given back. Each is told once.
    #[must_use]
    pub fn to_read_again(&self) -> Vec<(Key, i64)> {
        if !self.shared.given_back.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut partitions = self.lock();
        partitions.iter_mut().filter_map(|(key, partition)| Some((key.clone(), partition.given_back()?))).collect()
    }

    /// Waits until no event of these partitions is on its way.
    pub async fn settled(&self, keys: &[Key]) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let quiet = {
                let partitions = self.lock();
                let open = |entry: &Entry| entry.state.load(Ordering::Acquire) == OPEN;
                !keys.iter().filter_map(|key| partitions.get(key)).any(|partition| partition.entries.iter().any(open))
            };
            if quiet {
                return;
            }
            changed.await;
        }
    }

    /// They are no longer this bridge's: nothing of them is committed after this.
    pub fn forget(&self, keys: &[Key]) {
        let mut partitions = self.lock();
        for key in keys {
            partitions.remove(key);
        }
    }
}

impl Partition {
    fn uncommitted(&mut self) -> Option<i64> {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.state.load(Ordering::Acquire) == SETTLED) {
            self.done = Some(entry.offset + 1);
        }
        self.done.filter(|done| self.committed != Some(*done))
    }

    fn given_back(&mut self) -> Option<i64> {
        let mut first = None;
        for entry in &self.entries {
            let told = entry.state.compare_exchange(GIVEN_BACK, AWAITED, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if told && first.is_none() {
                first = Some(entry.offset);
            }
        }
        first
    }
}

/// The place of one event.
pub struct Slot {
    state: Arc<AtomicU8>,
    shared: Arc<Shared>,
}

impl Slot {
    fn end(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        let shared = &self.shared;
        let open = shared.open.fetch_sub(1, Ordering::AcqRel) - 1;
        if state == GIVEN_BACK {
            shared.given_back.store(true, Ordering::Release);
        }
        shared.changed.notify_waiters();
        let low = open <= shared.waiting_for.load(Ordering::Acquire) && shared.low.swap(false, Ordering::AcqRel);
        if (low || state == GIVEN_BACK)
            && let Some(wake) = &*shared.wake.lock().unwrap_or_else(PoisonError::into_inner)
        {
            wake();
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
