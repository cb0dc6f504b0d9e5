//! Named tasks that end on a token and can be waited for, and where work that blocks is done. Knows nothing of what the
//! tasks do.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one owner. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// Tasks that are told to end when `token` is cancelled, or by [`Tasks::shutdown`].
    pub fn under(token: &CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), token: token.child_token() }
    }

    /// Cancelled when the tasks shall end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// How many tasks run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Starts a task. A panic in it is logged, and ends that task only.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(logged(name, future));
    }

    /// As [`Tasks::spawn`], on another runtime.
    pub fn spawn_on<F>(&self, runtime: &Handle, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn_on(logged(name, future), runtime);
    }

    /// Starts a piece of work that nobody may cancel; its answer may be waited for or not (R5).
    pub fn spawn_work<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tracker.spawn(work)
    }

    /// Tells all tasks to end, and waits at most `timeout` for it. Answers whether all ended.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting only.
    pub async fn shutdown(&self, timeout: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(timeout, self.tracker.wait()).await.is_ok()
    }
}

async fn logged(name: &'static str, future: impl Future<Output = ()>) {
    let _ = contained(name, future).await;
}

/// Does some work to its end. `None`: it has panicked, which is logged.
pub async fn contained<T>(name: &'static str, work: impl Future<Output = T>) -> Option<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|panic| log_panic(name, &*panic)).ok()
}

/// As [`contained`], of work that waits for nothing.
pub fn contained_now<T>(name: &'static str, work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.map_err(|panic| log_panic(name, &*panic)).ok()
}

/// A thread with a runtime of its own, for work in the background: it does not wait until requests are answered, nor they until it
/// is done. What still runs there when this is dropped is dropped too, soon after.
#[derive(Debug)]
pub struct SideThread {
    handle: Handle,
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl SideThread {
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub fn runtime(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for SideThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a runtime must not be waited for in a task
        }
    }
}

/// Whether one thread runs all tasks of this runtime. With more of them, whoever lets others run first ([`go_last`]) wakes one that
/// has nothing to do.
pub fn has_one_worker() -> bool {
    Handle::current().metrics().num_workers() == 1
}

/// Lets the tasks that are ready run first. Unlike `yield_now` of tokio, it does not look for what else has become ready.
pub async fn go_last() {
    let mut has_been_last = false;
    poll_fn(|context| {
        if has_been_last {
            return Poll::Ready(());
        }
        has_been_last = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Ends when the token is cancelled, as its `cancelled` does, and costs less if it is polled again and again: it registers with the
/// token once, and so must stay in one task.
pub async fn stopped(token: &CancellationToken) {
    let mut cancelled = pin!(token.cancelled());
    let mut is_registered = false;
    poll_fn(|context| {
        if is_registered && !token.is_cancelled() {
            return Poll::Pending;
        }
        is_registered = true;
        cancelled.as_mut().poll(context)
    })
    .await;
}

/// Logs what a task said when it panicked.
pub fn log_panic(task: &'static str, panic: &(dyn Any + Send)) {
    let reason = panic.downcast_ref::<String>().map(String::as_str);
    let reason = reason.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
    tracing::error!(task, reason, "task panicked");
}

/// Runs work that blocks. Production: a thread of tokio's blocking pool; a simulation runs it in place, on virtual time.
pub trait Blocking: Send + Sync + 'static {
    /// The work begins before this returns or soon after, and is done to its end even if the future is dropped.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// A thread of tokio's blocking pool for each piece of work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Threads;

impl Blocking for Threads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let handle = tokio::task::spawn_blocking(work);
        Box::pin(async move {
            if let Err(error) = handle.await {
                tracing::error!(%error, "blocking work did not end");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn tasks_end_on_shutdown_and_a_panic_ends_only_its_own() {
        let tasks = Tasks::default();
        let token = tasks.token().clone();
        tasks.spawn("waits", async move { token.cancelled().await });
        tasks.spawn("panics", async { panic!("on purpose") });
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn whoever_goes_last_lets_all_others_run_first() {
        let others = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&others);
        let last = tokio::spawn(async move {
            go_last().await;
            seen.load(Ordering::Relaxed)
        });
        for _ in 0..100 {
            let others = Arc::clone(&others);
            tokio::spawn(async move { others.fetch_add(1, Ordering::Relaxed) });
        }
        assert_eq!(last.await.unwrap(), 100);
    }

    #[tokio::test]
    async fn whoever_has_looked_for_a_stop_before_is_woken_by_it() {
        let token = CancellationToken::new();
        let (looked, has_looked) = tokio::sync::oneshot::channel();
        let waits = tokio::spawn({
            let token = token.clone();
            async move {
                let mut end = pin!(stopped(&token));
                for _ in 0..2 {
                    assert!(futures::poll!(&mut end).is_pending());
                }
                looked.send(()).unwrap();
                end.await;
            }
        });
        has_looked.await.unwrap();
        token.cancel();
        tokio::time::timeout(Duration::from_secs(10), waits).await.expect("it is woken").unwrap();
        stopped(&token).await;
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_gives_up_on_a_task_that_does_not_end() {
        let tasks = Tasks::default();
        tasks.spawn("never ends", std::future::pending());
        assert!(!tasks.shutdown(Duration::from_secs(1)).await);
        assert_eq!(tasks.len(), 1);
    }
}
