//! Not written yet.
use super::{Handle, Policy};
pub(super) struct Lfu;
impl Lfu {
    pub fn new(_c: usize) -> Self {
        Self
    }
}
impl Policy for Lfu {
    fn insert(&mut self, _: Handle) {}
    fn hit(&self, _: Handle) {}
    fn update(&mut self, _: Handle) {}
    fn remove(&mut self, _: Handle) {}
    fn evict(&mut self) -> Option<Handle> {
        None
    }
    fn rank(&self, _: Handle) -> Option<usize> {
        None
    }
    fn len(&self) -> usize {
        0
    }
}
