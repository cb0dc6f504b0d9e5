//! The entries of each slot, as lists that run through the entries themselves.

use super::entry::{NIL, Slab};
use crate::policy::Handle;
use crate::slots::{SLOTS, Slot};

/// The first entry of each slot; the entries link on.
#[derive(Debug)]
pub(super) struct SlotLists {
    heads: Box<[Handle]>,
}

impl SlotLists {
    pub fn new() -> Self {
        Self { heads: vec![NIL; usize::from(SLOTS)].into_boxed_slice() }
    }

    /// Links an entry that has just been inserted into the slab.
    pub fn link(&mut self, slab: &mut Slab, handle: Handle) {
        let Some(slot) = slab.get(handle).map(|entry| entry.slot) else { return };
        let Some(head) = self.heads.get_mut(slot.index()) else { return };
        let next = std::mem::replace(head, handle);
        if let Some(entry) = slab.get_mut(handle) {
            entry.next = next;
            entry.previous = NIL;
        }
        if let Some(next) = slab.get_mut(next) {
            next.previous = handle;
        }
    }

    /// Unlinks an entry that is still in the slab.
    pub fn unlink(&mut self, slab: &mut Slab, handle: Handle) {
        let Some((slot, previous, next)) = slab.get(handle).map(|e| (e.slot, e.previous, e.next)) else { return };
        match slab.get_mut(previous) {
            Some(previous) => previous.next = next,
            None => {
                if let Some(head) = self.heads.get_mut(slot.index()) {
                    debug_assert_eq!(*head, handle, "an entry without a predecessor is not the first");
                    *head = next;
                }
            }
        }
        if let Some(next) = slab.get_mut(next) {
            next.previous = previous;
        }
    }

    /// The entries of a slot.
    pub fn iter<'a>(&'a self, slab: &'a Slab, slot: Slot) -> impl Iterator<Item = Handle> + 'a {
        let head = self.heads.get(slot.index()).copied().unwrap_or(NIL);
        let first = (head != NIL).then_some(head);
        std::iter::successors(first, |&handle| slab.get(handle).map(|entry| entry.next).filter(|&next| next != NIL))
    }
}
