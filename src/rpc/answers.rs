//! Bounds the bytes of answers that a node holds: made, and not yet written or fetched. Peers that ask and do not read
//! can't take its memory. Knows nothing of what is in an answer.
//!
//! How large an answer will be is not known before it is made. So a connection begins a request only while what it holds
//! and what its requests under way are likely to bring is at most an eighth of the room that is left, or nothing at all; and
//! its answers get at most half of the room that is left. So room never ends: whoever comes when many hold much is served
//! still, as long as his answers are small.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::service::REPLIES_BYTES_MAX;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// An answer below this is not counted: the request that it answers took about as much.
const UNCOUNTED_BYTES: usize = 1024;
/// A connection begins no more when it has, or may get, this part of the room that is left.
const SHARE: usize = 8;
/// An answer gets at most this part of the room that is left, less what its connection holds.
const ANSWER_SHARE: usize = 2;

/// The bytes that all connections of a node may hold.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    held: AtomicUsize,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, held: AtomicUsize::new(0) })
    }

    /// What the connections hold.
    pub fn held(&self) -> usize {
        // Relaxed, here and below: a plain sum; no other memory depends on it.
        self.held.load(Ordering::Relaxed)
    }

    fn left(&self) -> usize {
        self.bytes_max.saturating_sub(self.held())
    }

    /// Takes so many bytes, or as many as there are for a connection that has `own` already.
    fn take(&self, bytes: usize, own: usize) -> usize {
        let left = |held| self.bytes_max.saturating_sub(held);
        let granted = |held| bytes.min((left(held) / ANSWER_SHARE).saturating_sub(own));
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held + granted(held)));
        taken.map_or(0, granted)
    }

    fn resize(&self, from: usize, to: usize) {
        self.held.fetch_add(to, Ordering::Relaxed);
        self.held.fetch_sub(from, Ordering::Relaxed);
    }
}

/// What one connection has of the budget.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    held: usize,
    under_way: usize,
    /// About what the next answer takes: the largest of late. At first the worst is expected.
    likely: usize,
}

impl Share {
    pub fn new(budget: Arc<Budget>) -> Arc<Self> {
        let state = State { held: 0, under_way: 0, likely: REPLIES_BYTES_MAX };
        Arc::new(Self { budget, state: Mutex::new(state), changed: Notify::new() })
    }

    /// Begins a request if there is room for its answer.
    pub fn try_begin(self: &Arc<Self>) -> Option<UnderWay> {
        let mut state = self.state.lock();
        if !self.may_begin(&state) {
            return None;
        }
        state.under_way += 1;
        Some(UnderWay { share: Arc::clone(self) })
    }

    /// Takes room for all of an answer that was made without waiting: a request that begins and is answered in one step.
    pub fn try_answer(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let mut state = self.state.lock();
        if !self.may_begin(&state) {
            return None;
        }
        let held = self.hold(&mut state, bytes);
        drop(state); // which the drop of a part takes again
        Some(held).filter(|held| !held.is_cut)
    }

    fn may_begin(&self, state: &State) -> bool {
        let expected = state.held + state.under_way * state.likely;
        expected == 0 || expected <= self.budget.left() / SHARE
    }

    fn hold(self: &Arc<Self>, state: &mut State, bytes: usize) -> Held {
        let counted = if bytes < UNCOUNTED_BYTES { 0 } else { self.budget.take(bytes, state.held) };
        state.held += counted;
        state.likely = bytes.max(state.likely / 2);
        Held { share: Arc::clone(self), bytes: counted, is_cut: counted < bytes && bytes >= UNCOUNTED_BYTES }
    }

    /// Goes on with a request that has got some of its answers, whatever is held: the others get what room there is.
    pub fn go_on(self: &Arc<Self>) -> UnderWay {
        self.state.lock().under_way += 1;
        UnderWay { share: Arc::clone(self) }
    }

    /// Completes when [`Share::try_begin`] is worth another try. Counts from when it is made, not from its first poll.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    fn resize(&self, from: usize, to: usize) {
        let mut state = self.state.lock();
        state.held = (state.held + to).saturating_sub(from);
        drop(state);
        self.budget.resize(from, to);
        if to < from {
            self.changed.notify_waiters();
        }
    }
}

/// A request that was begun and has no answer yet.
#[derive(Debug)]
pub struct UnderWay {
    share: Arc<Share>,
}

impl UnderWay {
    /// Its answer is there. May hold fewer bytes than it needs: the rest is to be dropped.
    pub fn answered(self, bytes: usize) -> Held {
        let mut state = self.share.state.lock();
        self.share.hold(&mut state, bytes)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.share.state.lock().under_way -= 1;
        self.share.changed.notify_waiters();
    }
}

/// Bytes of an answer, until they are written, fetched or dropped.
#[derive(Debug)]
pub struct Held {
    share: Arc<Share>,
    bytes: usize,
    is_cut: bool,
}

impl Held {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it got less than it asked for.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// It turned out to have so many.
    pub fn resize(&mut self, bytes: usize) {
        self.share.resize(self.bytes, bytes);
        self.bytes = bytes;
    }

    /// All beyond `bytes` goes its own way.
    pub fn split_off(&mut self, bytes: usize) -> Self {
        let rest = self.bytes.saturating_sub(bytes);
        self.bytes -= rest;
        Self { share: Arc::clone(&self.share), bytes: rest, is_cut: false }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.share.resize(self.bytes, 0);
        }
    }
}

/// A frame that counts until it is written.
pub struct HeldFrame {
    pub frame: Bytes,
    pub held: Arc<Held>,
}

impl AsRef<[u8]> for HeldFrame {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn share(budget: &Arc<Budget>) -> Arc<Share> {
        Share::new(Arc::clone(budget))
    }

    #[test]
    fn at_first_four_requests_are_under_way_and_soon_more_if_their_answers_are_small() {
        let share = share(&Budget::new(24 * REPLIES_BYTES_MAX));
        for expected in [4, 7, 13, 25] {
            let under_way: Vec<UnderWay> = std::iter::from_fn(|| share.try_begin()).take(100).collect();
            assert_eq!(under_way.len(), expected);
            under_way.into_iter().next().unwrap().answered(1);
        }
    }

    #[test]
    fn who_holds_much_begins_nothing_until_it_is_gone() {
        let budget = Budget::new(256 * MIB);
        let (deaf, other) = (share(&budget), share(&budget));
        let mut held = Vec::new();
        for _ in 0..10 {
            held.extend(deaf.try_begin().map(|begun| begun.answered(10 * MIB)));
        }
        assert_eq!(budget.held(), 30 * MIB);
        assert!(other.try_begin().is_some());
        let mut first = held.remove(0);
        let rest = first.split_off(MIB);
        drop(rest);
        assert_eq!((budget.held(), first.bytes()), (21 * MIB, MIB));
        assert!(deaf.try_begin().is_some());
        drop((first, held));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn room_never_ends_however_many_hold_some() {
        let budget = Budget::new(256 * MIB);
        let mut held = Vec::new();
        for _ in 0..10_000 {
            let begun = share(&budget).try_begin().expect("who holds nothing may always begin");
            held.push(begun.answered(16 * MIB));
        }
        assert!(budget.held() <= 256 * MIB, "{}", budget.held());
        assert!(held.last().unwrap().is_cut());
        let small = share(&budget).try_begin().unwrap().answered(UNCOUNTED_BYTES - 1);
        assert!(!small.is_cut());
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn an_answer_that_was_made_without_waiting_gets_all_its_room_or_none() {
        let budget = Budget::new(32 * MIB);
        let (share, other) = (share(&budget), share(&budget));
        let held = share.try_answer(10 * MIB).unwrap();
        assert_eq!((held.bytes(), budget.held()), (10 * MIB, 10 * MIB));
        assert!(share.try_answer(1).is_none(), "it holds much");
        assert!(other.try_answer(12 * MIB).is_none());
        assert_eq!(budget.held(), 10 * MIB);
        assert!(other.try_answer(11 * MIB).is_some());
        assert_eq!(other.try_answer(UNCOUNTED_BYTES - 1).unwrap().bytes(), 0);
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn one_connection_leaves_room_for_others_even_if_its_answers_are_larger_than_expected() {
        let budget = Budget::new(256 * MIB);
        let share = share(&budget);
        for _ in 0..10 {
            share.try_begin().unwrap().answered(1);
        }
        let begun: Vec<UnderWay> = (0..32).map(|_| share.try_begin().unwrap()).collect();
        let _held: Vec<Held> = begun.into_iter().map(|begun| begun.answered(16 * MIB)).collect();
        assert!(budget.held() <= 100 * MIB, "{}", budget.held());
    }

    #[test]
    fn who_goes_on_gets_what_room_there_is_and_no_more() {
        let budget = Budget::new(256 * MIB);
        let share = share(&budget);
        let held: Vec<Held> = (0..20).map(|_| share.go_on().answered(9 * MIB)).collect();
        assert!(share.try_begin().is_none());
        assert!(held.iter().take(7).all(|held| !held.is_cut()) && held.last().is_some_and(Held::is_cut));
        assert!(budget.held() <= 128 * MIB, "{}", budget.held());
        drop(held);
        assert!(share.try_begin().is_some());
    }

    async fn woken(changed: Notified<'_>) {
        tokio::time::timeout(std::time::Duration::from_secs(5), changed).await.expect("woken");
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_an_answer_is_gone_and_when_a_request_is_given_up() {
        let share = share(&Budget::new(REPLIES_BYTES_MAX));
        let held = share.try_begin().unwrap().answered(2 * MIB);
        let changed = share.changed();
        assert!(share.try_begin().is_none());
        drop(held);
        woken(changed).await;
        let begun = share.try_begin().unwrap();
        let changed = share.changed();
        assert!(share.try_begin().is_none());
        drop(begun);
        woken(changed).await;
        assert!(share.try_begin().is_some());
    }
}
