//! Applies what the log commits, in the order in which it was appended. One task does it for all batches whose writes wait for
//! nothing but their commit: a sync of the journal wakes it alone, and not each of the many whose writes it has made durable.

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::core::Core;
use super::group::{Answered, Group};
use crate::replication::Appended;
use crate::sync::oneshot;
use crate::task::{contained_now, go_last};

/// A group on its way to being committed. Nobody may cancel it (R5).
pub(super) struct Work {
    pub group: Group,
    pub appended: Appended,
    pub deadline: Instant,
    pub in_flight: TaskTrackerToken,
    pub answers: oneshot::Sender<Vec<Answered>>,
}

/// So many groups are applied before those who waited for them have their turn: the first clients are answered, and ask for
/// more, while the groups of others are still being applied.
const TURN: usize = 4;

/// Runs until `stop`, and then until nothing is left.
pub(super) async fn run(core: &Core, mut queue: mpsc::UnboundedReceiver<Work>, stop: &CancellationToken) {
    let mut applied = 0;
    loop {
        tokio::select! {
            biased;
            work = queue.recv() => match work {
                Some(work) => {
                    apply(core, work).await;
                    applied += 1;
                    if applied % TURN == 0 {
                        go_last().await;
                    }
                }
                None => return,
            },
            () = stop.cancelled() => queue.close(), // what is in it is still received
        }
    }
}

/// A panic while it is applied ends the work on this group only; who waits for it is told that the work broke off.
pub(super) async fn apply(core: &Core, Work { group, appended, deadline, in_flight, answers }: Work) {
    let _in_flight = in_flight;
    let committed = core.until_committed(group.effects(), Ok(appended), deadline).await;
    if let Some(answered) = contained_now("applier", || core.end_group(group, committed)) {
        drop(answers.send(answered)); // or nobody waits any more
    }
}
