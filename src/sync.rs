//! Locks, atomics and wake-ups, as everybody here uses them: parking_lot's, std's and tokio's.
//!
//! Under the feature `shuttle`, which is for tests only, they are [`controlled`]: a scheduler decides at each of them who
//! goes on, so that interleavings are tried by the thousand and can be repeated. What locks, and what is shared without a
//! lock, takes its primitives from here; it knows nothing of what they guard.

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod controlled;

#[cfg(all(test, feature = "shuttle"))]
pub use controlled::*;
#[cfg(not(all(test, feature = "shuttle")))]
pub use parking_lot::{Mutex, MutexGuard, RwLock};
#[cfg(not(all(test, feature = "shuttle")))]
pub use std::sync::{OnceLock, atomic};
#[cfg(not(all(test, feature = "shuttle")))]
pub use tokio::sync::{Notify, oneshot};
#[cfg(not(all(test, feature = "shuttle")))]
pub use tokio::time::sleep_until;
