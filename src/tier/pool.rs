//! Connections kept for reuse. Knows nothing of databases: what a connection is, a [`Connector`] says.
//!
//! A leased connection belongs to its [`Lease`], and goes back only by [`Lease::give_back`]. So a future that is dropped
//! in the middle of a statement, or that ran out of time, closes its connection instead of handing on one whose next
//! answer is somebody else's (R5; sqlx issue 563). A pool that takes back on drop can't promise that.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Connections, TierError};
use crate::sync::Mutex;

/// A connection that idled longer is asked for a sign of life before it is used: the server may have closed it.
const CHECK_AFTER: Duration = Duration::from_secs(1);

/// How to make, check and close connections; each bounded in time by itself.
pub(super) trait Connector: Send + Sync + 'static {
    type Connection: Send + 'static;

    fn connect(&self) -> impl Future<Output = Result<Self::Connection, TierError>> + Send;

    /// Whether an idle connection still works.
    fn check(&self, connection: &mut Self::Connection) -> impl Future<Output = bool> + Send;

    fn close(&self, connection: Self::Connection) -> impl Future<Output = ()> + Send;
}

/// At most `size` connections, made when they are needed.
pub(super) struct Pool<C: Connector> {
    connector: C,
    /// The last one used comes first: those at the bottom are left to age. Held to push, pop or swap only.
    idle: Mutex<Vec<Idle<C::Connection>>>,
    permits: Semaphore,
    size: u32,
    wait_max: Duration,
}

struct Idle<T> {
    connection: T,
    since: Instant,
}

/// A connection in use. Dropping it closes the connection.
pub(super) struct Lease<'a, C: Connector> {
    pub(super) connection: C::Connection,
    pool: &'a Pool<C>,
    _permit: SemaphorePermit<'a>,
}

impl<C: Connector> Pool<C> {
    pub(super) fn new(connector: C, size: u32, wait_max: Duration) -> Self {
        let size = size.max(1);
        let permits = Semaphore::new(usize::try_from(size).unwrap_or(1));
        Self { connector, idle: Mutex::new(Vec::new()), permits, size, wait_max }
    }

    pub(super) fn connector(&self) -> &C {
        &self.connector
    }

    pub(super) fn connections(&self) -> Connections {
        let free = u32::try_from(self.permits.available_permits()).unwrap_or(self.size);
        Connections { used: self.size.saturating_sub(free), max: self.size }
    }

    /// An idle connection that works, or a new one; waits its turn if all are in use.
    ///
    /// # Errors
    /// [`TierError::Unavailable`] if all stay in use for too long, no connection can be made, or the pool is closed.
    pub(super) async fn lease(&self) -> Result<Lease<'_, C>, TierError> {
        let permit = match tokio::time::timeout(self.wait_max, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(TierError::Unavailable("closed".into())),
            Err(_) => return Err(TierError::Unavailable(format!("all {} connections are busy", self.size))),
        };
        let connection = match self.take_idle().await {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        Ok(Lease { connection, pool: self, _permit: permit })
    }

    async fn take_idle(&self) -> Option<C::Connection> {
        let mut idle = self.idle.lock().pop()?;
        if idle.since.elapsed() < CHECK_AFTER || self.connector.check(&mut idle.connection).await {
            return Some(idle.connection);
        }
        self.forget_idle();
        None
    }

    /// Closes what idles: where one connection is broken, the others have most likely lost the same server.
    pub(super) fn forget_idle(&self) {
        let forgotten = std::mem::take(&mut *self.idle.lock());
        drop(forgotten);
    }

    /// Waits until nothing is leased, then closes everything; no lease after that.
    pub(super) async fn close(&self) {
        // An error says that it is closed already.
        if let Ok(all) = self.permits.acquire_many(self.size).await {
            self.permits.close();
            drop(all);
        }
        let idle = std::mem::take(&mut *self.idle.lock());
        for idle in idle {
            self.connector.close(idle.connection).await;
        }
    }
}

impl<C: Connector> Lease<'_, C> {
    /// Hands the connection on to the next user. Only for one that has answered everything it was asked and is in no
    /// transaction.
    pub(super) fn give_back(self) {
        let Self { connection, pool, _permit } = self;
        pool.idle.lock().push(Idle { connection, since: Instant::now() });
    }

    /// Closes the connection, and those that idle with it.
    pub(super) fn discard(self) {
        self.pool.forget_idle();
    }
}
