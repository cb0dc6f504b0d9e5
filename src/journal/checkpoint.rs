//! Writing a checkpoint.

use std::io;

use crate::command::Effect;

/// A checkpoint that is being written: aside, until it is whole. Dropped before, it leaves nothing.
pub struct Checkpoint;

impl Checkpoint {
    /// Adds effects that the tier does not have. Blocks.
    pub fn write(&mut self, effects: &[Effect]) -> io::Result<()> {
        let _ = effects;
        Ok(())
    }

    /// Puts it in place of what was before the segment it began: durable first, then the old files go. Blocks.
    pub fn finish(self) -> io::Result<()> {
        Ok(())
    }
}
