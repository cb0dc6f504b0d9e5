//! Fills the filter of spilled keys from the tier, once an assignment.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::core::Core;
use crate::backoff::Backoff;
use crate::record::Key;
use crate::slots::{Slot, SlotSet};
use crate::store::ScanId;
use crate::tier::SharedTier;

const PAGE_ROWS: usize = 10_000;

/// Reads all keys with rows (R17). Until it has ended, every key may have one. A `scan` that was overtaken by another one
/// changes nothing any more.
pub(super) async fn fill(core: &Core, tier: &SharedTier, slots: &SlotSet, scan: ScanId, stop: &CancellationToken) {
    let started = Instant::now();
    let mut backoff = Backoff::new();
    let mut keys = 0_usize;
    for &(first, last) in slots.ranges() {
        let mut position: (Slot, Option<Key>) = (first, None);
        loop {
            let page = tier.scan(position.0, position.1.as_ref(), last, PAGE_ROWS).await;
            core.note_tier(&page);
            let Ok(page) = page else {
                if backoff.wait(stop).await.is_err() {
                    return;
                }
                continue;
            };
            if stop.is_cancelled() {
                return;
            }
            core.store.extend_filter(scan, page.iter().map(|row| &row.key));
            keys += page.len();
            let is_last = page.len() < PAGE_ROWS;
            match page.into_iter().last() {
                Some(row) if !is_last => position = (row.slot, Some(row.key)),
                Some(_) | None => break,
            }
        }
    }
    core.store.finish_filter(scan);
    info!(keys, millis = started.elapsed().as_millis() as u64, "the filter of spilled keys is complete");
}
