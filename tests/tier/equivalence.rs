//! Random calls, made to the tier in memory and to every other one: the answers must be the same.

use std::mem::discriminant;

use overspill::cluster::{Fence, FenceToken, Incarnation, ShardName};
use overspill::command::Effect;
use overspill::record::{Epoch, JournalId, Key, Lsn, Record, Timestamp, Version};
use overspill::slots::{Slot, SlotSet};
use overspill::tier::memory::MemoryTier;
use overspill::tier::{DeadLetter, Lane, RowKey, SharedTier, TierError};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::harness::*;

const STEPS: usize = 250;

#[derive(Debug, Clone)]
enum Call {
    Swap { expected: Option<FenceToken>, fence: Fence },
    Flush { shard: ShardName, lane: Lane, token: FenceToken, effects: Vec<Effect>, lsn: Lsn },
    Load { keys: Vec<Key> },
    Scan { first: Slot, after: Option<Key>, last: Slot, limit: usize },
    Fences,
    Bury { letter: DeadLetter },
    Unbury { key: Key, version: Version },
    Buried { first: Slot, last: Slot },
}

#[derive(Debug, PartialEq)]
enum Answer {
    Swapped(bool),
    Done,
    Rows(Vec<Record>),
    Page(Vec<RowKey>),
    Fences(Vec<Fence>),
    Letters(Vec<DeadLetter>),
    /// Which error; its text differs.
    Error(std::mem::Discriminant<TierError>),
}

async fn call(tier: &SharedTier, call: Call) -> Answer {
    let answer = match call {
        Call::Swap { expected, fence } => tier.swap_fence(expected, &fence).await.map(Answer::Swapped),
        Call::Flush { shard, lane, token, effects, lsn } => {
            tier.flush(&shard, lane, token, &effects, lsn).await.map(|()| Answer::Done)
        }
        Call::Load { keys } => tier.load(&keys).await.map(|mut rows| {
            rows.sort_by(|a, b| a.key.cmp(&b.key));
            Answer::Rows(rows)
        }),
        Call::Scan { first, after, last, limit } => {
            tier.scan(first, after.as_ref(), last, limit).await.map(Answer::Page)
        }
        Call::Fences => tier.fences().await.map(Answer::Fences),
        Call::Bury { letter } => tier.bury(&shard(), &letter).await.map(|()| Answer::Done),
        Call::Unbury { key, version } => tier.unbury(&key, version).await.map(|()| Answer::Done),
        Call::Buried { first, last } => tier.buried(first, last).await.map(Answer::Letters),
    };
    answer.unwrap_or_else(|error| Answer::Error(discriminant(&error)))
}

/// Few keys and few versions, so that calls meet.
struct Calls {
    random: StdRng,
}

impl Calls {
    fn key(&mut self) -> Key {
        let tag = ["", "{a}", "{b}"].choose(&mut self.random).unwrap();
        let tail = ["", "\0", " ", "\u{e4}"].choose(&mut self.random).unwrap();
        key(format!("{tag}k{}{tail}", self.random.random_range(0..12)))
    }

    fn keys(&mut self) -> Vec<Key> {
        let n = *[1, 2, 5, 20, 70].choose(&mut self.random).unwrap();
        let mut keys: Vec<Key> = (0..n).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        keys.reverse();
        keys
    }

    fn version(&mut self) -> Version {
        Version::new(self.random.random_range(1..4), self.random.random_range(1..8))
    }

    fn effect(&mut self, key: Key) -> Effect {
        let version = self.version();
        if self.random.random_bool(0.4) {
            return Effect::Delete { key, version };
        }
        let len = *[0, 1, 100, 5000].choose(&mut self.random).unwrap();
        let value: Vec<u8> = (0..len).map(|_| self.random.random()).collect();
        let expires_at = self.random.random_bool(0.3).then(|| Timestamp(self.random.random_range(0..u64::MAX >> 1)));
        Effect::Set(Record { expires_at, ..record(key.as_bytes(), value, (version.epoch.0, version.lsn.0)) })
    }

    fn token(&mut self) -> FenceToken {
        FenceToken(self.random.random_range(1..4))
    }

    fn shard(&mut self) -> ShardName {
        ShardName::new(*["a:1", "A:1", "b:1"].choose(&mut self.random).unwrap()).unwrap()
    }

    fn slots(&mut self) -> (Slot, Slot) {
        let mut slot = || {
            let near = Slot::of(&self.key());
            *[Slot::FIRST, Slot::LAST, near, near].choose(&mut self.random).unwrap()
        };
        (slot(), slot())
    }

    fn next(&mut self) -> Call {
        match self.random.random_range(0..20) {
            0..2 => Call::Swap {
                expected: self.random.random_bool(0.7).then(|| self.token()),
                fence: Fence {
                    shard: self.shard(),
                    token: self.token(),
                    incarnation: Incarnation(self.random.random()),
                    journal: JournalId(self.random.random()),
                    epoch: Epoch(self.random.random_range(1..9)),
                    slots: SlotSet::shares(self.random.random_range(1..9)).swap_remove(0),
                    lsn: Lsn(self.random.random_range(0..99)),
                    clean: self.random.random(),
                },
            },
            2..9 => {
                let keys = self.keys();
                let effects = keys.into_iter().map(|key| self.effect(key)).collect();
                let lsn = Lsn(self.random.random_range(0..99));
                let lane = Lane(self.random.random_range(0..2));
                Call::Flush { shard: self.shard(), lane, token: self.token(), effects, lsn }
            }
            9..12 => Call::Load { keys: self.keys() },
            12..15 => {
                let ((first, last), after) = (self.slots(), self.random.random_bool(0.7).then(|| self.key()));
                let first = after.as_ref().map_or(first, Slot::of);
                Call::Scan { first, after, last, limit: *[0, 1, 3, 10, 1000].choose(&mut self.random).unwrap() }
            }
            15 => Call::Fences,
            16 | 17 => {
                let key = self.key();
                let reason = format!("reason {}", self.random.random::<u8>());
                Call::Bury { letter: DeadLetter { effect: self.effect(key), reason } }
            }
            18 => Call::Unbury { key: self.key(), version: self.version() },
            _ => {
                let (first, last) = self.slots();
                Call::Buried { first, last }
            }
        }
    }
}

async fn run(seed: u64) {
    for place in real_places() {
        let mut calls = Calls { random: StdRng::seed_from_u64(seed) };
        let model = SharedTier::new(MemoryTier::new());
        let tiers = [place.prepared().await, place.prepared().await];
        for step in 0..STEPS {
            let next = calls.next();
            let expected = call(&model, next.clone()).await;
            let answer = call(&tiers[step % 2], next.clone()).await;
            assert_eq!(answer, expected, "seed {seed}, step {step}, {}: {next:?}", tiers[0].describe());
        }
        assert_eq!(scan_all(&tiers[0]).await, scan_all(&model).await, "seed {seed}");
    }
}

#[tokio::test]
async fn every_tier_answers_like_the_one_in_memory_seed_1() {
    run(1).await;
}

#[tokio::test]
async fn every_tier_answers_like_the_one_in_memory_seed_2() {
    run(2).await;
}

/// `KV_TEST_SEED` replays one; otherwise the seed is new each time, and printed if it fails.
#[tokio::test]
async fn every_tier_answers_like_the_one_in_memory_with_a_new_seed() {
    run(std::env::var("KV_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap())).await;
}
