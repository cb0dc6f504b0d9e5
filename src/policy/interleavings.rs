//! Hits that race each other and evictions, under a scheduler that tries their orders.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::lru::Lru;
use super::model::{self, hit_all};
use super::{Handle, Policy, PolicyKind, Settling};
use crate::sync::{RwLock, atomic::Ordering, check, thread};

type Shared = Arc<RwLock<Box<dyn Policy>>>;

fn policy(kind: PolicyKind, handles: Handle) -> Shared {
    filled(kind.build(handles as usize), handles)
}

fn filled(mut policy: Box<dyn Policy>, handles: Handle) -> Shared {
    (0..handles).for_each(|handle| policy.insert(handle));
    Arc::new(RwLock::new(policy))
}

fn drain(policy: &Shared) -> Vec<Handle> {
    model::drain(policy.write().as_mut())
}

fn spawn_hits(policy: &Shared, handles: &'static [Handle]) -> thread::JoinHandle<()> {
    let policy = policy.clone();
    thread::spawn(move || {
        for &handle in handles {
            // A statement of its own: it lets the shared lock go.
            let settling = policy.read().hit(handle);
            if settling == Settling::Due {
                policy.write().settle();
            }
        }
    })
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_late_hit_does_not_take_a_later_one_back() {
    for kind in [PolicyKind::Lru, PolicyKind::Lfu] {
        check(5_000, move || {
            let policy = policy(kind, 3);
            // Whoever looks at recency alone: 0 is used before 1 by one thread, and the others use 1. Uses are equal.
            hit_all(policy.read().as_ref(), [0]);
            join([spawn_hits(&policy, &[1]), spawn_hits(&policy, &[0, 1])]);
            assert_eq!(drain(&policy), [2, 0, 1], "{kind}");
        });
    }
}

#[test]
fn renumbering_between_racing_hits_keeps_their_order() {
    check(5_000, || {
        let policy = filled(Box::new(Lru::settled_every(1)), 3);
        join([spawn_hits(&policy, &[1]), spawn_hits(&policy, &[0, 1])]);
        assert_eq!(drain(&policy), [2, 0, 1]);
    });
}

#[test]
fn no_count_is_lost() {
    check(5_000, || {
        let policy = policy(PolicyKind::Lfu, 3);
        join([spawn_hits(&policy, &[1]), spawn_hits(&policy, &[1])]);
        // One use less, and later: it leaves before 1, which would be colder had a count been lost.
        hit_all(policy.read().as_ref(), [0]);
        assert_eq!(drain(&policy), [2, 0, 1]);
    });
}

#[test]
fn a_hit_counts_for_every_eviction_that_begins_after_it() {
    check(5_000, || {
        let policy = policy(PolicyKind::Lru, 3);
        // Plain: to watch is no step.
        let (hits, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reader = {
            let (policy, hits, begun) = (policy.clone(), hits.clone(), begun.clone());
            thread::spawn(move || {
                for handle in [0, 1] {
                    let policy = policy.read();
                    // With the shared lock held, no eviction is under way.
                    assert_eq!(begun.load(Ordering::SeqCst) % 2, 0);
                    hit_all(policy.as_ref(), [handle]);
                    hits.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let evictor = {
            let (policy, hits, begun) = (policy.clone(), hits.clone(), begun.clone());
            thread::spawn(move || {
                let mut policy = policy.write();
                begun.fetch_add(1, Ordering::SeqCst);
                let coldest = [0, 1, 2][hits.load(Ordering::SeqCst)];
                assert_eq!(policy.evict(), Some(coldest));
                // It comes back as the warmest of all.
                policy.insert(coldest);
                begun.fetch_add(1, Ordering::SeqCst);
            })
        };
        join([reader, evictor]);
        let mut left = drain(&policy);
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2], "none is lost, none is there twice");
    });
}
