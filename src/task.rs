//! Named tasks that end together.

use std::future::Future;

use tokio_util::task::TaskTracker;
use tracing::error;

/// The tasks of a node or shard. Nothing cancels them but their own stop token; [`Tasks::wait`] waits for all.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task. A panic in it is logged, and ends only this task.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let running = self.tracker.spawn(task);
        self.tracker.spawn(async move {
            if let Err(error) = running.await
                && error.is_panic()
            {
                error!(task = name, "a task has panicked; this is a bug, please report it");
            }
        });
    }

    /// Starts a short piece of work that nobody may cancel (R5).
    pub fn spawn_work<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn(work)
    }

    /// Returns when all tasks have ended.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
