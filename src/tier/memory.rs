//! A tier in memory, for tests and simulation: behaves like the others, counts what it is asked, and fails as it is told.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::{DeadLetter, Lane, Prepared, RowKey, Tier, TierError, TierFuture, check_rows};
use crate::cluster::{Fence, FenceToken, ShardName, TierId};
use crate::command::Effect;
use crate::mutants::{Rule, is_planted};
use crate::record::{Key, Lsn, Record, Version};
use crate::slots::Slot;
use crate::sync::Mutex;

const LANES: u8 = 2;

/// A handle on rows in memory; clones share them, faults and counters included.
#[derive(Clone)]
pub struct MemoryTier {
    state: Arc<Mutex<State>>,
    flushes: Gate,
    loads: Gate,
    scans: Gate,
}

/// Open, or whoever comes to it waits.
#[derive(Clone)]
struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    fn open() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }

    fn set(&self, open: bool) {
        self.0.send_replace(open);
    }

    async fn pass(&self) {
        // An error would say that the sender is gone, and `self` holds it.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }

    /// How many wait to pass.
    fn waiting(&self) -> usize {
        self.0.receiver_count()
    }
}

/// How the next flush ends at its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// [`TierError::OutcomeUnknown`], and all was written.
    UnknownApplied,
    /// [`TierError::OutcomeUnknown`], and nothing was written.
    UnknownLost,
    /// [`TierError::Conflict`], and nothing was written.
    Conflict,
}

/// How often the tier was asked, whatever it answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    pub prepares: u64,
    pub loads: u64,
    pub loaded_keys: u64,
    pub flushes: u64,
    pub flushed_effects: u64,
    pub scans: u64,
    /// Fences read or swapped.
    pub fences: u64,
    /// Dead letters written, read or forgotten.
    pub letters: u64,
}

impl Calls {
    pub fn total(&self) -> u64 {
        self.prepares + self.loads + self.flushes + self.scans + self.fences + self.letters
    }
}

#[derive(Default)]
struct State {
    id: u64,
    records: BTreeMap<(Slot, Key), Record>,
    fences: BTreeMap<ShardName, Fence>,
    letters: BTreeMap<Key, DeadLetter>,
    calls: Calls,
    faults: Faults,
    warnings: Vec<String>,
}

#[derive(Default)]
struct Faults {
    down: bool,
    failing_calls: u32,
    panicking_calls: u32,
    commit: Option<CommitFault>,
    swap: Option<CommitFault>,
    poison: HashSet<Key>,
    failing_buries: u32,
    failing_unburies: u32,
    damaged_lanes: bool,
}

impl Default for MemoryTier {
    fn default() -> Self {
        Self::new()
    }
}

/// What a test does to it.
impl MemoryTier {
    /// An empty tier with id 1.
    pub fn new() -> Self {
        Self::with_id(TierId(1))
    }

    pub fn with_id(id: TierId) -> Self {
        let state = State { id: id.0, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), flushes: Gate::open(), loads: Gate::open(), scans: Gate::open() }
    }

    /// Down: every call is answered [`TierError::Unavailable`] until it is up again.
    pub fn set_down(&self, down: bool) {
        self.state.lock().faults.down = down;
    }

    /// The next `n` calls, of whatever kind, are answered [`TierError::Unavailable`].
    pub fn fail_next(&self, n: u32) {
        self.state.lock().faults.failing_calls = n;
    }

    /// The next `n` calls, of whatever kind, panic.
    pub fn panic_next(&self, n: u32) {
        self.state.lock().faults.panicking_calls = n;
    }

    /// The next flush that gets as far as its commit ends like this.
    pub fn fail_next_commit(&self, fault: CommitFault) {
        self.state.lock().faults.commit = Some(fault);
    }

    /// The next swap of a fence ends like this.
    pub fn fail_next_swap(&self, fault: CommitFault) {
        self.state.lock().faults.swap = Some(fault);
    }

    /// Every flush with an effect on `key` is [`TierError::Rejected`]. Burying it works.
    pub fn poison(&self, key: Key) {
        self.state.lock().faults.poison.insert(key);
    }

    /// The next `n` calls that bury are answered [`TierError::Unavailable`].
    pub fn fail_bury(&self, n: u32) {
        self.state.lock().faults.failing_buries = n;
    }

    /// The next `n` calls that unbury are answered [`TierError::Unavailable`].
    pub fn fail_unbury(&self, n: u32) {
        self.state.lock().faults.failing_unburies = n;
    }

    /// Flushes are [`TierError::Fenced`] until the next swap, as if somebody had meddled with the rows of the lanes.
    pub fn damage_lanes(&self) {
        self.state.lock().faults.damaged_lanes = true;
    }

    pub fn cure(&self, key: &Key) {
        self.state.lock().faults.poison.remove(key);
    }

    /// From now on flushes wait, before they look at their fence, until [`MemoryTier::release_flushes`].
    pub fn hold_flushes(&self) {
        self.flushes.set(false);
    }

    pub fn release_flushes(&self) {
        self.flushes.set(true);
    }

    /// How many flushes wait for [`MemoryTier::release_flushes`].
    pub fn held_flushes(&self) -> usize {
        self.flushes.waiting()
    }

    /// From now on loads wait, after they have read their rows, until [`MemoryTier::release_loads`].
    pub fn hold_loads(&self) {
        self.loads.set(false);
    }

    pub fn release_loads(&self) {
        self.loads.set(true);
    }

    /// From now on scans wait, after they have read their rows, until [`MemoryTier::release_scans`].
    pub fn hold_scans(&self) {
        self.scans.set(false);
    }

    pub fn release_scans(&self) {
        self.scans.set(true);
    }

    /// From now on [`Tier::prepare`] answers this warning too.
    pub fn warn(&self, warning: impl Into<String>) {
        self.state.lock().warnings.push(warning.into());
    }

    pub fn calls(&self) -> Calls {
        self.state.lock().calls
    }

    pub fn loads(&self) -> u64 {
        self.calls().loads
    }

    pub fn flushes(&self) -> u64 {
        self.calls().flushes
    }

    /// The row of a key, past all faults and counters.
    pub fn row(&self, key: &Key) -> Option<Record> {
        self.state.lock().records.get(&(Slot::of(key), key.clone())).cloned()
    }

    /// All rows, past all faults and counters.
    pub fn rows(&self) -> Vec<Record> {
        self.state.lock().records.values().cloned().collect()
    }

    /// Puts a row there as if a shard had, past all faults and counters.
    pub fn plant(&self, record: Record) {
        self.state.lock().records.insert((Slot::of(&record.key), record.key.clone()), record);
    }

    /// Counts a call, and does it unless it shall fail.
    fn call<T>(
        &self,
        count: impl FnOnce(&mut Calls),
        work: impl FnOnce(&mut State) -> Result<T, TierError>,
    ) -> Result<T, TierError> {
        let state = &mut *self.state.lock();
        count(&mut state.calls);
        let panics = state.faults.panicking_calls > 0;
        state.faults.panicking_calls -= u32::from(panics);
        assert!(!panics, "a planted panic");
        fail(&mut state.faults.failing_calls)?;
        if state.faults.down {
            return Err(TierError::Unavailable("down".into()));
        }
        work(state)
    }
}

fn fail(failing_calls: &mut u32) -> Result<(), TierError> {
    if *failing_calls == 0 {
        return Ok(());
    }
    *failing_calls -= 1;
    Err(TierError::Unavailable("a planted failure".into()))
}

impl State {
    fn swap_fence(&mut self, expected: Option<FenceToken>, fence: &Fence) -> Result<bool, TierError> {
        let unknown = || Err(TierError::OutcomeUnknown("a planted loss of connection".into()));
        match self.faults.swap.take() {
            None => Ok(self.swap(expected, fence)),
            Some(CommitFault::UnknownApplied) => {
                self.swap(expected, fence);
                unknown()
            }
            Some(CommitFault::UnknownLost) => unknown(),
            Some(CommitFault::Conflict) => Err(TierError::Conflict("a planted conflict".into())),
        }
    }

    fn swap(&mut self, expected: Option<FenceToken>, fence: &Fence) -> bool {
        let old = self.fences.get(&fence.shard);
        if old.map(|old| old.token) != expected {
            return false;
        }
        self.faults.damaged_lanes = false;
        let lsn = old.map_or(fence.lsn, |old| old.lsn.max(fence.lsn));
        self.fences.insert(fence.shard.clone(), Fence { lsn, ..fence.clone() });
        true
    }

    fn flush(
        &mut self,
        shard: &ShardName,
        lane: Lane,
        token: FenceToken,
        effects: &[Effect],
        lsn: Lsn,
    ) -> Result<(), TierError> {
        check_rows(effects.len())?;
        let is_unheeded = is_planted(Rule::R20Token) || (lane != Lane::FIRST && is_planted(Rule::R20Lanes));
        let fence = self.fences.get_mut(shard).filter(|fence| fence.token == token || is_unheeded);
        let fence = fence.filter(|_| !self.faults.damaged_lanes).ok_or(TierError::Fenced)?;
        if let Some(effect) = effects.iter().find(|effect| self.faults.poison.contains(effect.key())) {
            return Err(TierError::Rejected(format!("a planted poison row: `{}`", effect.key())));
        }
        let fault = self.faults.commit.take();
        match fault {
            None | Some(CommitFault::UnknownApplied) => {
                fence.lsn = fence.lsn.max(lsn);
                effects.iter().for_each(|effect| self.apply(effect));
            }
            Some(CommitFault::UnknownLost | CommitFault::Conflict) => {}
        }
        match fault {
            None => Ok(()),
            Some(CommitFault::Conflict) => Err(TierError::Conflict("a planted conflict".into())),
            Some(CommitFault::UnknownApplied | CommitFault::UnknownLost) => {
                Err(TierError::OutcomeUnknown("a planted loss of connection".into()))
            }
        }
    }

    /// R19 without SQL.
    fn apply(&mut self, effect: &Effect) {
        let at = (Slot::of(effect.key()), effect.key().clone());
        let old = self.records.get(&at).map(|row| row.version);
        match effect {
            Effect::Set(record) if old.is_some_and(|old| old < record.version) && is_planted(Rule::R19Order) => {
                self.records.entry(at).and_modify(|row| row.version = record.version);
            }
            Effect::Set(record) if old.is_none_or(|old| old < record.version) => {
                self.records.insert(at, record.clone());
            }
            Effect::Delete { version, .. } if old.is_some_and(|old| old <= *version) => {
                self.records.remove(&at);
            }
            Effect::Set(_) | Effect::Delete { .. } => {}
        }
    }

    fn scan(&self, first: Slot, after: Option<&Key>, last: Slot, limit: usize) -> Vec<RowKey> {
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded((first, key.clone())));
        let rows = self.records.range((start, Bound::Unbounded));
        rows.skip_while(|((slot, _), _)| *slot < first)
            .take_while(|((slot, _), _)| *slot <= last)
            .take(limit)
            .map(|((slot, key), row)| RowKey { slot: *slot, key: key.clone(), expires_at: row.expires_at })
            .collect()
    }

    fn bury(&mut self, letter: &DeadLetter) {
        let key = letter.effect.key();
        if self.letters.get(key).is_none_or(|old| old.effect.version() <= letter.effect.version()) {
            self.letters.insert(key.clone(), letter.clone());
        }
    }
}

impl Tier for MemoryTier {
    fn describe(&self) -> String {
        "memory".into()
    }

    fn prepare(&self) -> TierFuture<'_, Prepared> {
        Box::pin(async {
            self.call(
                |n| n.prepares += 1,
                |state| Ok(Prepared { id: TierId(state.id), warnings: state.warnings.clone() }),
            )
        })
    }

    fn fences(&self) -> TierFuture<'_, Vec<Fence>> {
        Box::pin(async { self.call(|n| n.fences += 1, |state| Ok(state.fences.values().cloned().collect())) })
    }

    fn swap_fence<'a>(&'a self, expected: Option<FenceToken>, fence: &'a Fence) -> TierFuture<'a, bool> {
        Box::pin(async move { self.call(|n| n.fences += 1, |state| state.swap_fence(expected, fence)) })
    }

    fn lanes(&self) -> u8 {
        LANES
    }

    fn flush<'a>(
        &'a self,
        shard: &'a ShardName,
        lane: Lane,
        token: FenceToken,
        effects: &'a [Effect],
        lsn: Lsn,
    ) -> TierFuture<'a, ()> {
        Box::pin(async move {
            self.flushes.pass().await;
            let count = |n: &mut Calls| {
                n.flushes += 1;
                n.flushed_effects += effects.len() as u64;
            };
            self.call(count, |state| state.flush(shard, lane, token, effects, lsn))
        })
    }

    fn load<'a>(&'a self, keys: &'a [Key]) -> TierFuture<'a, Vec<Record>> {
        Box::pin(async move {
            let count = |n: &mut Calls| {
                n.loads += 1;
                n.loaded_keys += keys.len() as u64;
            };
            let rows = self.call(count, |state| {
                check_rows(keys.len())?;
                Ok(keys.iter().filter_map(|key| state.records.get(&(Slot::of(key), key.clone())).cloned()).collect())
            });
            self.loads.pass().await;
            rows
        })
    }

    fn scan<'a>(
        &'a self,
        first: Slot,
        after: Option<&'a Key>,
        last: Slot,
        limit: usize,
    ) -> TierFuture<'a, Vec<RowKey>> {
        Box::pin(async move {
            let rows = self.call(|n| n.scans += 1, |state| Ok(state.scan(first, after, last, limit)));
            self.scans.pass().await;
            rows
        })
    }

    fn bury<'a>(&'a self, _shard: &'a ShardName, letter: &'a DeadLetter) -> TierFuture<'a, ()> {
        Box::pin(async move {
            self.call(
                |n| n.letters += 1,
                |state| {
                    fail(&mut state.faults.failing_buries)?;
                    state.bury(letter);
                    Ok(())
                },
            )
        })
    }

    fn buried(&self, first: Slot, last: Slot) -> TierFuture<'_, Vec<DeadLetter>> {
        Box::pin(async move {
            let within = |letter: &&DeadLetter| (first..=last).contains(&Slot::of(letter.effect.key()));
            self.call(|n| n.letters += 1, |state| Ok(state.letters.values().filter(within).cloned().collect()))
        })
    }

    fn unbury<'a>(&'a self, key: &'a Key, version: Version) -> TierFuture<'a, ()> {
        Box::pin(async move {
            self.call(
                |n| n.letters += 1,
                |state| {
                    fail(&mut state.faults.failing_unburies)?;
                    if state.letters.get(key).is_some_and(|letter| letter.effect.version() <= version) {
                        state.letters.remove(key);
                    }
                    Ok(())
                },
            )
        })
    }

    fn close(&self) -> futures::future::BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
