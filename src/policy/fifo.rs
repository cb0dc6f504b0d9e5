//! First in, first out: the record that came first leaves first, whatever happened to it since.
//!
//! An LRU to which the only use of a record is its insertion. Source: Mattson, Gecsei, Slutz, Traiger 1970, "Evaluation
//! techniques for storage hierarchies".

use super::lru::Lru;
use super::{Handle, Policy, Settling};

#[derive(Debug)]
pub(super) struct Fifo(Lru);

impl Fifo {
    pub fn new() -> Self {
        Self(Lru::new())
    }
}

impl Policy for Fifo {
    fn insert(&mut self, handle: Handle) {
        self.0.insert(handle);
    }

    fn hit(&self, _: Handle) -> Settling {
        Settling::NotDue
    }

    fn prefetch(&self, _: Handle) {}

    fn update(&mut self, _: Handle) {}

    fn remove(&mut self, handle: Handle) {
        self.0.remove(handle);
    }

    fn evict(&mut self) -> Option<Handle> {
        self.0.evict()
    }

    fn settle(&mut self) {
        self.0.settle();
    }

    fn rank(&self, handle: Handle) -> Option<usize> {
        self.0.rank(handle)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::PolicyKind;
    use super::super::model::{Model, assert_agree, drain, hit_all, steps};
    use super::*;

    fn check(fifo: &Fifo) {
        fifo.0.check();
    }

    #[test]
    fn neither_reads_nor_overwrites_delay_the_first_in() {
        let mut fifo = Fifo::new();
        (0..3).for_each(|handle| fifo.insert(handle));
        hit_all(&fifo, [0]);
        fifo.update(0);
        assert_eq!(fifo.rank(0), Some(0));
        assert_eq!(drain(&mut fifo), [0, 1, 2]);
    }

    #[test]
    fn a_record_removed_and_inserted_again_is_the_last_in() {
        let mut fifo = Fifo::new();
        (0..3).for_each(|handle| fifo.insert(handle));
        fifo.remove(0);
        assert_eq!(fifo.rank(0), None);
        fifo.insert(0);
        assert_eq!(fifo.rank(0), Some(2));
        assert_eq!(fifo.evict(), Some(1));
    }

    proptest! {
        #[test]
        fn few_records_leave_as_in_the_textbook(steps in steps(8)) {
            assert_agree(Fifo::new(), Model::new(PolicyKind::Fifo), &steps, check);
        }

        #[test]
        fn many_records_leave_as_in_the_textbook(steps in steps(150)) {
            assert_agree(Fifo::new(), Model::new(PolicyKind::Fifo), &steps, check);
        }

        #[test]
        fn renumbered_records_leave_as_in_the_textbook(steps in steps(60), period in 0..60_u32) {
            assert_agree(Fifo(Lru::settled_every(period)), Model::new(PolicyKind::Fifo), &steps, check);
        }
    }
}
