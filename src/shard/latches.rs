//! One latch a key: whoever holds it is the only one to evaluate and apply a write of that key. First come, first served.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::mutants::{Rule, is_planted};
use crate::record::Key;
use crate::sync::{Mutex, oneshot};

const STRIPES: usize = 64;

type Waiters = VecDeque<oneshot::Sender<()>>;

/// The latches that are held, and who waits for them. Bounded by the commands in flight.
#[derive(Debug)]
pub(super) struct Latches {
    stripes: Vec<Mutex<HashTable<Held>>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Held {
    key: Key,
    /// Boxed: hardly a latch has some, and so many latches are held at a time that their size is felt.
    waiters: Option<Box<Waiters>>,
}

/// A held latch; dropping it hands it on.
#[derive(Debug)]
pub(super) struct Latch {
    latches: Arc<Latches>,
    key: Key,
    hash: u64,
}

impl Latches {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { stripes: (0..STRIPES).map(|_| Mutex::default()).collect(), hasher: RandomState::default() })
    }

    /// The latch, if nobody holds it.
    pub fn try_acquire(self: &Arc<Self>, key: &Key) -> Option<Latch> {
        let hash = self.hasher.hash_one(key);
        let is_free = self.hold_or_else(key, hash, |_| ()).is_none();
        (is_free || is_planted(Rule::R1Latch)).then(|| self.latch(key, hash))
    }

    /// Whether somebody holds the latch of a key.
    pub fn is_held(&self, key: &Key) -> bool {
        let hash = self.hasher.hash_one(key);
        self.stripe(hash).lock().find(hash, |held| held.key == *key).is_some()
    }

    /// Takes the latch, or has a look at who holds it.
    fn hold_or_else<T>(&self, key: &Key, hash: u64, look: impl FnOnce(&mut Held) -> T) -> Option<T> {
        let mut stripe = self.stripe(hash).lock();
        match stripe.entry(hash, |held| held.key == *key, |held| self.hasher.hash_one(&held.key)) {
            Entry::Occupied(mut held) => Some(look(held.get_mut())),
            Entry::Vacant(place) => {
                place.insert(Held { key: key.clone(), waiters: None });
                None
            }
        }
    }

    /// # Cancel safety
    /// A dropped future has no latch and leaves its place in the queue.
    pub async fn acquire(self: &Arc<Self>, key: &Key) -> Latch {
        let hash = self.hasher.hash_one(key);
        if is_planted(Rule::R1Latch) {
            return self.latch(key, hash);
        }
        let wait = |held: &mut Held| {
            let (tx, rx) = oneshot::channel();
            held.waiters.get_or_insert_default().push_back(tx);
            rx
        };
        while let Some(turn) = self.hold_or_else(key, hash, wait) {
            // The latch is handed over inside `Turn`, so that one that is never received is handed on.
            let mut turn = Turn { latches: Arc::clone(self), key: key.clone(), hash, turn: Some(turn) };
            if turn.wait().await {
                break;
            }
        }
        self.latch(key, hash)
    }

    #[cfg(all(test, feature = "shuttle"))]
    pub fn is_idle(&self) -> bool {
        self.stripes.iter().all(|stripe| stripe.lock().is_empty())
    }

    fn release(&self, key: &Key, hash: u64) {
        let mut stripe = self.stripe(hash).lock();
        let Ok(mut held) = stripe.find_entry(hash, |held| held.key == *key) else { return };
        while let Some(next) = held.get_mut().waiters.as_mut().and_then(|waiters| waiters.pop_front()) {
            if next.send(()).is_ok() {
                return;
            }
        }
        held.remove();
    }

    fn latch(self: &Arc<Self>, key: &Key, hash: u64) -> Latch {
        Latch { latches: Arc::clone(self), key: key.clone(), hash }
    }

    #[expect(clippy::indexing_slicing, reason = "reduced by the number of stripes")]
    fn stripe(&self, hash: u64) -> &Mutex<HashTable<Held>> {
        // Bits that a table does not place it by.
        &self.stripes[(hash >> 32) as usize % STRIPES]
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.latches.release(&self.key, self.hash);
    }
}

/// A place in the queue of a latch. If it is dropped after the latch was handed to it, it hands the latch on.
struct Turn {
    latches: Arc<Latches>,
    key: Key,
    hash: u64,
    turn: Option<oneshot::Receiver<()>>,
}

impl Turn {
    async fn wait(&mut self) -> bool {
        let Some(turn) = self.turn.as_mut() else { return false };
        let is_ours = turn.await.is_ok();
        self.turn = None;
        is_ours
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(mut turn) = self.turn.take() else { return };
        turn.close();
        if turn.try_recv().is_ok() {
            self.latches.release(&self.key, self.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    #[tokio::test]
    async fn a_latch_is_handed_on_in_order_and_past_those_who_gave_up() {
        let latches = Latches::new();
        let first = latches.try_acquire(&key()).unwrap();
        assert!(latches.try_acquire(&key()).is_none());
        let mut gave_up = Box::pin(latches.acquire_key());
        let mut second = Box::pin(latches.acquire_key());
        assert!(futures::poll!(&mut gave_up).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        drop(gave_up);
        drop(first);
        drop(second.await);
        assert!(latches.try_acquire(&key()).is_some());
    }

    #[tokio::test]
    async fn a_latch_that_was_handed_to_a_dropped_future_is_not_lost() {
        let latches = Latches::new();
        let first = latches.try_acquire(&key()).unwrap();
        let mut waiter = Box::pin(latches.acquire_key());
        assert!(futures::poll!(&mut waiter).is_pending());
        drop(first);
        drop(waiter);
        assert!(latches.try_acquire(&key()).is_some());
    }

    impl Latches {
        fn acquire_key(self: &Arc<Self>) -> impl Future<Output = Latch> {
            let latches = Arc::clone(self);
            async move { latches.acquire(&key()).await }
        }
    }
}
