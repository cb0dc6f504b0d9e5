//! A tier whose client may panic: to whoever asks, that is an error as any other, to be tried again. Else the keys of a flush or a load
//! would be under way for ever.

use std::future::Future;

use futures::future::BoxFuture;

use super::{Connections, DeadLetter, Lane, Prepared, RowKey, Tier, TierError, TierFuture};
use crate::cluster::{Fence, FenceToken, ShardName};
use crate::command::Effect;
use crate::record::{Key, Lsn, Record, Version};
use crate::slots::Slot;
use crate::task::contained;

pub(super) struct Contained<T>(pub T);

/// `error`: what a panic leaves.
fn call<'a, T>(
    error: fn(String) -> TierError,
    work: impl Future<Output = Result<T, TierError>> + Send + 'a,
) -> TierFuture<'a, T>
where
    T: Send + 'a,
{
    Box::pin(async move {
        let panicked = || Err(error("its client has panicked: see the log".to_owned()));
        contained("tier", work).await.unwrap_or_else(panicked)
    })
}

/// Of what changes nothing, or may be done twice.
fn again<'a, T: Send + 'a>(work: impl Future<Output = Result<T, TierError>> + Send + 'a) -> TierFuture<'a, T> {
    call(TierError::Unavailable, work)
}

impl<T: Tier> Tier for Contained<T> {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn prepare(&self) -> TierFuture<'_, Prepared> {
        again(async { self.0.prepare().await })
    }

    fn fences(&self) -> TierFuture<'_, Vec<Fence>> {
        again(async { self.0.fences().await })
    }

    fn swap_fence<'a>(&'a self, expected: Option<FenceToken>, fence: &'a Fence) -> TierFuture<'a, bool> {
        call(TierError::OutcomeUnknown, async move { self.0.swap_fence(expected, fence).await })
    }

    fn lanes(&self) -> u8 {
        self.0.lanes()
    }

    fn flush<'a>(
        &'a self,
        shard: &'a ShardName,
        lane: Lane,
        token: FenceToken,
        effects: &'a [Effect],
        lsn: Lsn,
    ) -> TierFuture<'a, ()> {
        call(TierError::OutcomeUnknown, async move { self.0.flush(shard, lane, token, effects, lsn).await })
    }

    fn load<'a>(&'a self, keys: &'a [Key]) -> TierFuture<'a, Vec<Record>> {
        again(async { self.0.load(keys).await })
    }

    fn scan<'a>(
        &'a self,
        first: Slot,
        after: Option<&'a Key>,
        last: Slot,
        limit: usize,
    ) -> TierFuture<'a, Vec<RowKey>> {
        again(async move { self.0.scan(first, after, last, limit).await })
    }

    fn bury<'a>(&'a self, shard: &'a ShardName, letter: &'a DeadLetter) -> TierFuture<'a, ()> {
        again(async { self.0.bury(shard, letter).await })
    }

    fn buried(&self, first: Slot, last: Slot) -> TierFuture<'_, Vec<DeadLetter>> {
        again(async move { self.0.buried(first, last).await })
    }

    fn unbury<'a>(&'a self, key: &'a Key, version: Version) -> TierFuture<'a, ()> {
        again(async move { self.0.unbury(key, version).await })
    }

    fn connections(&self) -> Connections {
        self.0.connections()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.close()
    }
}
