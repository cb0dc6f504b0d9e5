//! The primitives under shuttle's scheduler, in the shapes of the real ones. All of them work inside [`check`] only.
//!
//! Shuttle offers a choice before each step on its own locks and atomics. Tokio's wake-ups are single steps to it, so they
//! get a choice before and after. All orderings are `SeqCst` here: what a weaker one would break is not found.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::futures::Notified;

pub use shuttle::sync::MutexGuard;
pub use shuttle::sync::atomic;

/// Others may run here.
fn choice() {
    // A load of one's own changes nothing, and shuttle offers no plain choice: its `yield_now` tells PCT to run others first.
    atomic::AtomicBool::new(false).load(Ordering::SeqCst);
}

fn around<T>(step: impl FnOnce() -> T) -> T {
    choice();
    let result = step();
    choice();
    result
}

#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not for whoever reads it already: shuttle then loses count of the readers.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        match self.0.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> OnceLock<T> {
    pub fn set(&self, value: T) -> Result<(), T> {
        around(|| self.0.set(value))
    }

    pub fn get(&self) -> Option<&T> {
        around(|| self.0.get())
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self(std::sync::OnceLock::new())
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Default)]
pub struct Notify(tokio::sync::Notify);

impl Notify {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn notified(&self) -> Notified<'_> {
        around(|| self.0.notified())
    }

    pub fn notify_one(&self) {
        around(|| self.0.notify_one());
    }

    pub fn notify_waiters(&self) {
        around(|| self.0.notify_waiters());
    }
}

pub mod oneshot {
    //! Tokio's, with choices.

    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::sync::oneshot;
    pub use tokio::sync::oneshot::error;

    use super::around;

    #[derive(Debug)]
    pub struct Sender<T>(oneshot::Sender<T>);

    #[derive(Debug)]
    pub struct Receiver<T>(oneshot::Receiver<T>);

    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Sender(sender), Receiver(receiver))
    }

    impl<T> Sender<T> {
        pub fn send(self, value: T) -> Result<(), T> {
            around(|| self.0.send(value))
        }
    }

    impl<T> Receiver<T> {
        pub fn try_recv(&mut self) -> Result<T, error::TryRecvError> {
            around(|| self.0.try_recv())
        }

        pub fn close(&mut self) {
            around(|| self.0.close());
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, error::RecvError>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            around(|| Pin::new(&mut self.0).poll(context))
        }
    }
}

/// Time passes when the scheduler likes: at once, or after everything else that can happen.
pub async fn sleep_until(_at: tokio::time::Instant) {
    shuttle::future::yield_now().await;
}

pub use shuttle::{future, thread};

/// Runs `story` under `rounds` schedules where each step is anybody's, and as many where few switches are placed with care
/// (PCT: Burckhardt and others 2010, "A randomized scheduler with probabilistic guarantees of finding bugs"). The variable
/// `ROUNDS` multiplies. A failure prints its schedule; a deadlock is one.
pub fn check(rounds: usize, story: impl Fn() + Copy + Send + Sync + 'static) {
    /// Preemptions that a bug may need.
    const DEPTH: usize = 3;

    let times = std::env::var("ROUNDS").map_or(1, |times| times.parse().expect("ROUNDS is a number"));
    run(RandomScheduler::new(rounds * times), story);
    run(PctScheduler::new(DEPTH, rounds * times), story);
}

fn run(scheduler: impl Scheduler + 'static, story: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    // Unoptimised frames of the journal are large, and generous stacks cost nothing until they are used.
    config.stack_size = 512 * 1024;
    config.silence_warnings = true;
    let progress = Progress { begun: Arc::default(), at: Instant::now() };
    let begun = progress.begun.clone();
    shuttle::Runner::new(scheduler, config).run(move || {
        begun.fetch_add(1, Ordering::Relaxed);
        story();
    });
}

/// Tells how far a run came, also when it fails.
struct Progress {
    begun: Arc<AtomicUsize>,
    at: Instant,
}

impl Drop for Progress {
    fn drop(&mut self) {
        println!("{} rounds in {:.2?}", self.begun.load(Ordering::Relaxed), self.at.elapsed());
    }
}
