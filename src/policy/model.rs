//! The textbook's algorithms, written to be obviously right: what the policies are held against. Tests only.

use proptest::prelude::*;

use super::{Handle, Policy, PolicyKind, Settling};

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// An update if the handle is in already.
    Insert(Handle),
    /// As [`Step::Update`], nothing if the handle is not in.
    Hit(Handle),
    Update(Handle),
    Remove(Handle),
    Evict,
}

/// Sequences over so few handles that they meet again and again.
pub(super) fn steps(handles: Handle) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..handles).prop_map(Step::Insert),
        8 => (0..handles).prop_map(Step::Hit),
        2 => (0..handles).prop_map(Step::Update),
        1 => (0..handles).prop_map(Step::Remove),
        2 => Just(Step::Evict),
    ];
    prop::collection::vec(step, 0..400)
}

/// A list in order of use (of arrival, for FIFO), the oldest first, with a count of uses beside each handle.
pub(super) struct Model {
    kind: PolicyKind,
    list: Vec<(Handle, u64)>,
    accesses: u64,
    ageing_at: u64,
    ageing_period: u64,
}

impl Model {
    pub fn new(kind: PolicyKind) -> Self {
        Self::aged_every(kind, u64::MAX)
    }

    pub fn aged_every(kind: PolicyKind, ageing_period: u64) -> Self {
        Self { kind, list: Vec::new(), accesses: 0, ageing_at: ageing_period, ageing_period }
    }

    fn place(&self, handle: Handle) -> Option<usize> {
        self.list.iter().position(|&(other, _)| other == handle)
    }

    fn insert(&mut self, handle: Handle) {
        self.accesses += 1;
        self.list.push((handle, 1));
    }

    fn touch(&mut self, handle: Handle) {
        self.accesses += 1;
        if self.kind == PolicyKind::Fifo {
            return;
        }
        let (_, uses) = self.list.remove(self.place(handle).unwrap());
        self.list.push((handle, uses + 1));
    }

    fn age(&mut self) {
        if self.accesses >= self.ageing_at {
            self.ageing_at = self.accesses + self.ageing_period;
            self.list.iter_mut().for_each(|(_, uses)| *uses = (*uses / 2).max(1));
        }
    }

    /// Handles, the first to leave first.
    fn order(&self) -> Vec<Handle> {
        let mut order = self.list.clone();
        if self.kind == PolicyKind::Lfu {
            // Stable: equals stay in order of use.
            order.sort_by_key(|&(_, uses)| uses);
        }
        order.into_iter().map(|(handle, _)| handle).collect()
    }

    fn remove(&mut self, handle: Handle) {
        self.list.retain(|&(other, _)| other != handle);
    }

    fn evict(&mut self) -> Option<Handle> {
        let handle = self.order().first().copied()?;
        self.remove(handle);
        Some(handle)
    }
}

/// Hits of an owner who does not settle before the next exclusive call.
pub(super) fn hit_all(policy: &(impl Policy + ?Sized), handles: impl IntoIterator<Item = Handle>) {
    for handle in handles {
        let _ = policy.hit(handle);
    }
}

/// All handles, the first to leave first.
pub(super) fn drain(policy: &mut (impl Policy + ?Sized)) -> Vec<Handle> {
    std::iter::from_fn(|| policy.evict()).collect()
}

/// Takes both through the same steps, then drains both; panics where they differ. `check` looks at the policy's
/// insides.
pub(super) fn assert_agree<P: Policy>(mut policy: P, mut model: Model, steps: &[Step], check: impl Fn(&P)) {
    for &step in steps {
        match step {
            Step::Insert(handle) | Step::Update(handle) if model.place(handle).is_some() => {
                model.age();
                model.touch(handle);
                policy.update(handle);
            }
            Step::Insert(handle) => {
                model.age();
                model.insert(handle);
                policy.insert(handle);
            }
            Step::Hit(handle) if model.place(handle).is_some() => {
                model.touch(handle);
                if policy.hit(handle) == Settling::Due {
                    model.age();
                    policy.settle();
                }
            }
            Step::Hit(_) | Step::Update(_) => continue,
            Step::Remove(handle) => {
                model.age();
                model.remove(handle);
                policy.remove(handle);
            }
            Step::Evict => {
                model.age();
                assert_eq!(policy.evict(), model.evict());
            }
        }
        check(&policy);
        assert_eq!(policy.len(), model.list.len());
        assert_eq!(policy.is_empty(), model.list.is_empty());
        if let Step::Insert(handle) | Step::Hit(handle) | Step::Update(handle) | Step::Remove(handle) = step {
            assert_eq!(policy.rank(handle), model.order().iter().position(|&other| other == handle));
        }
    }
    for (rank, &handle) in model.order().iter().enumerate() {
        assert_eq!(policy.rank(handle), Some(rank));
    }
    loop {
        model.age();
        let expected = model.evict();
        assert_eq!(policy.evict(), expected);
        if expected.is_none() {
            return;
        }
    }
}
