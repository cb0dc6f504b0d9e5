//! First in, first out: the record that came first leaves first, whatever happened to it since.
//!
//! A record's rank is the stamp of its insertion, so the index's listed ranks are always the true ones. Source:
//! Mattson, Gecsei, Slutz, Traiger 1970, "Evaluation techniques for storage hierarchies".

use super::coldest::Coldest;
use super::{Handle, Policy};

#[derive(Debug)]
pub(super) struct Fifo {
    insertions: u64,
    coldest: Coldest<u64>,
}

impl Fifo {
    pub fn new() -> Self {
        Self { insertions: 0, coldest: Coldest::new() }
    }
}

impl Policy for Fifo {
    fn insert(&mut self, handle: Handle) {
        self.coldest.insert(handle, self.insertions);
        self.insertions += 1;
    }

    fn hit(&self, _: Handle) {}

    fn prefetch(&self, _: Handle) {}

    fn update(&mut self, _: Handle) {}

    fn remove(&mut self, handle: Handle) {
        self.coldest.remove(handle);
    }

    fn evict(&mut self) -> Option<Handle> {
        self.coldest.pop()
    }

    fn rank(&self, handle: Handle) -> Option<usize> {
        self.coldest.rank(handle, |other| self.coldest.listed(other))
    }

    fn len(&self) -> usize {
        self.coldest.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::PolicyKind;
    use super::super::model::{Model, assert_agree, steps};
    use super::*;

    fn check(fifo: &Fifo) {
        fifo.coldest.check(|handle| fifo.coldest.listed(handle).unwrap());
    }

    #[test]
    fn neither_reads_nor_overwrites_delay_the_first_in() {
        let mut fifo = Fifo::new();
        (0..3).for_each(|handle| fifo.insert(handle));
        fifo.hit(0);
        fifo.update(0);
        assert_eq!(fifo.rank(0), Some(0));
        assert_eq!([fifo.evict(), fifo.evict(), fifo.evict(), fifo.evict()], [Some(0), Some(1), Some(2), None]);
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
    }
}
