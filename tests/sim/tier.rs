//! The tier as one process sees it: the rows of [`MemoryTier`] at the other end of a network, with everything that may happen
//! on the way there, there, and on the way back.
//!
//! A transaction arrives at the server whole, and takes effect there in one moment: perhaps long after its sender has given
//! up or died. That is more than MySQL would do, where a connection that broke takes what is uncommitted with it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use overspill::cluster::{Fence, FenceToken, ShardName};
use overspill::command::Effect;
use overspill::record::{Key, Lsn, Record, Version};
use overspill::slots::Slot;
use overspill::tier::{DeadLetter, Lane, Prepared, RowKey, Tier, TierError, TierFuture};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::invariants;
use crate::weather::{Call, Course};
use crate::world::{Process, World};

/// After this a process gives a statement up; the server does not.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

pub struct SimTier {
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

impl SimTier {
    /// What this call is going to meet with. A process that is dead asks nothing any more.
    async fn course(&self, call: Call) -> Course {
        self.process.unless_dead().await;
        self.world.weather.course(call, &self.world.faults)
    }

    async fn travel(&self, ms: u64) {
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
        self.process.unless_dead().await;
    }

    /// A statement that changes nothing, or nothing that a crash could cut: read at one moment, answered at another.
    async fn ask<T>(&self, call: Call, work: impl FnOnce(&World) -> Result<T, TierError>) -> Result<T, TierError> {
        let course = self.course(call).await;
        self.travel(course.there_ms).await;
        if let Some(error) = course.refused {
            self.world.trace.note(format_args!("{} {call:?}: {error}", self.process));
            return Err(error);
        }
        let answer = work(&self.world);
        self.travel(course.back_ms).await;
        answer
    }

    /// A transaction: the server carries it out whatever becomes of who asked.
    async fn transact<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(&Arc<World>, &Arc<Process>) -> Result<T, TierError> + Send + 'static,
    ) -> Result<T, TierError> {
        let course = self.course(call).await;
        if let Some(error) = course.refused {
            self.travel(course.there_ms).await;
            self.world.trace.note(format_args!("{} {call:?}: {error}", self.process));
            return Err(error);
        }
        let (world, process) = (Arc::clone(&self.world), Arc::clone(&self.process));
        let (tx, rx) = oneshot::channel();
        let generation = world.weather.generation();
        tokio::spawn(async move {
            sleep(Duration::from_millis(course.there_ms + course.late_ms)).await;
            let is_lost = course.is_lost || generation != world.weather.generation();
            if is_lost || (process.is_dead() && !course.outlives_sender) {
                world.trace.note(format_args!("{process} {call:?}: lost on its way to the tier"));
                return drop(tx.send(Err(TierError::OutcomeUnknown("the connection broke".to_owned()))));
            }
            if call == Call::Flush && world.weather.crashes_at_commit(&process, true) {
                world.kill(&process, "before its flush is committed");
            }
            let done = work(&world, &process);
            if call == Call::Flush && world.weather.crashes_at_commit(&process, false) {
                world.kill(&process, "after its flush was committed");
            }
            sleep(Duration::from_millis(course.back_ms)).await;
            let is_told = !course.loses_answer && generation == world.weather.generation();
            let unknown = || TierError::OutcomeUnknown("the connection broke while it committed".to_owned());
            let _ = tx.send(if is_told { done } else { Err(unknown()) });
        });
        if course.breaks {
            self.travel(course.there_ms).await;
            return Err(TierError::OutcomeUnknown("the connection broke".to_owned()));
        }
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, rx).await;
        self.process.unless_dead().await;
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(TierError::OutcomeUnknown("no answer in time".to_owned())),
        }
    }
}

/// What the rows underneath answer at once.
fn now<T>(future: TierFuture<'_, T>) -> Result<T, TierError> {
    future.now_or_never().expect("the rows are in memory")
}

impl Tier for SimTier {
    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn prepare(&self) -> TierFuture<'_, Prepared> {
        self.ask(Call::Prepare, |world| now(world.rows.prepare())).boxed()
    }

    fn fences(&self) -> TierFuture<'_, Vec<Fence>> {
        self.ask(Call::Fences, |world| now(world.rows.fences())).boxed()
    }

    fn swap_fence<'a>(&'a self, expected: Option<FenceToken>, fence: &'a Fence) -> TierFuture<'a, bool> {
        let fence = fence.clone();
        let work = move |world: &Arc<World>, process: &Arc<Process>| {
            let before = world.fence(&fence.shard);
            let swapped = now(world.rows.swap_fence(expected, &fence));
            world.trace.note(format_args!("{process} swap {}: {swapped:?}", Shown(&fence)));
            if swapped == Ok(true) {
                world.on_swap(before.as_ref(), &fence);
            }
            swapped
        };
        async move {
            self.world.stop_second_claim(&self.process);
            self.transact(Call::Swap, work).await
        }
        .boxed()
    }

    fn lanes(&self) -> u8 {
        self.world.rows.lanes()
    }

    fn flush<'a>(
        &'a self,
        shard: &'a ShardName,
        lane: Lane,
        token: FenceToken,
        effects: &'a [Effect],
        lsn: Lsn,
    ) -> TierFuture<'a, ()> {
        let (shard, effects) = (shard.clone(), effects.to_vec());
        async move {
            self.process.unless_dead().await;
            invariants::spilled_is_committed(&self.world, &self.process, &effects);
            self.world.witness.lock().flushed(&self.world.keys, &effects);
            let work = move |world: &Arc<World>, process: &Arc<Process>| {
                let fence = world.fence(&shard);
                let before: Vec<Option<Record>> = effects.iter().map(|effect| world.rows.row(effect.key())).collect();
                let flushed = now(world.rows.flush(&shard, lane, token, &effects, lsn));
                world.trace.note(format_args!(
                    "{process} flush token {} lane {} {}: {flushed:?}",
                    token.0,
                    lane.0,
                    Effects(&effects)
                ));
                if flushed.is_ok() {
                    invariants::one_token_commits(world, fence.as_ref(), token);
                    invariants::rows_only_rise(world, &effects, &before);
                }
                flushed
            };
            self.transact(Call::Flush, work).await
        }
        .boxed()
    }

    fn load<'a>(&'a self, keys: &'a [Key]) -> TierFuture<'a, Vec<Record>> {
        invariants::what_never_existed_costs_no_sql(&self.world, &self.process, keys);
        self.ask(Call::Load, |world| {
            let rows = now(world.rows.load(keys));
            world.trace.note(format_args!("{} load {}", self.process, Rows(keys, &rows)));
            rows
        })
        .boxed()
    }

    fn scan<'a>(
        &'a self,
        first: Slot,
        after: Option<&'a Key>,
        last: Slot,
        limit: usize,
    ) -> TierFuture<'a, Vec<RowKey>> {
        self.ask(Call::Scan, move |world| now(world.rows.scan(first, after, last, limit))).boxed()
    }

    fn bury<'a>(&'a self, shard: &'a ShardName, letter: &'a DeadLetter) -> TierFuture<'a, ()> {
        self.ask(Call::Letter, move |world| {
            world.trace.note(format_args!("{} bury {}", self.process, Effects(std::slice::from_ref(&letter.effect))));
            now(world.rows.bury(shard, letter))
        })
        .boxed()
    }

    fn buried(&self, first: Slot, last: Slot) -> TierFuture<'_, Vec<DeadLetter>> {
        self.ask(Call::Letter, move |world| now(world.rows.buried(first, last))).boxed()
    }

    fn unbury<'a>(&'a self, key: &'a Key, version: Version) -> TierFuture<'a, ()> {
        self.ask(Call::Letter, move |world| {
            world.trace.note(format_args!("{} unbury {key} {version}", self.process));
            now(world.rows.unbury(key, version))
        })
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

/// Effects as the trace shows them.
struct Effects<'a>(&'a [Effect]);

impl std::fmt::Display for Effects<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for effect in self.0 {
            let sign = if matches!(effect, Effect::Set(_)) { '=' } else { '-' };
            write!(f, "{}{sign}{} ", effect.key(), effect.version())?;
        }
        Ok(())
    }
}

struct Rows<'a>(&'a [Key], &'a Result<Vec<Record>, TierError>);

impl std::fmt::Display for Rows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for key in self.0 {
            let row = self.1.iter().flatten().find(|row| row.key == *key);
            match row {
                Some(row) => write!(f, "{key}={} ", row.version)?,
                None => write!(f, "{key}? ")?,
            }
        }
        Ok(())
    }
}

struct Shown<'a>(&'a Fence);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fence { shard, token, incarnation, journal, epoch, slots, lsn, clean } = self.0;
        let (token, life, lsn, slots) = (token.0, incarnation.0, lsn.0, slots.len());
        write!(
            f,
            "{shard} token {token} life {life} epoch {epoch} slots {slots} lsn {lsn} clean {clean} journal {journal}"
        )
    }
}
