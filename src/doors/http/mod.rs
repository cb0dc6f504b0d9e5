//! The HTTP door: `curl`, probes and scrapes. Routes are axum's, a connection is hyper's; `docs/http.md` tells what they answer.
//! Knows nothing of what commands do.

mod answer;
mod figures;
mod kv;
mod node;
mod request;
mod seeds;
mod stall;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::header::AUTHORIZATION;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::answer::Refused;
use self::stall::Stalling;
use super::{Access, Door, FAREWELL_TIMEOUT, Metered, Source, farewell_of};
use crate::command::{Command, Reply};
use crate::metrics::{DoorName, Metrics};
use crate::rpc::answers::{Budget, Held, Share, UnderWay};
use crate::service::{Batch, Error, Service};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A service that has not answered so long after that does not count on.
const TIMEOUT_GRACE: Duration = Duration::from_secs(2);
/// Of a request line and its headers: the longest key, every byte of it escaped, takes 3 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// What is read ahead of a body.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Of what a refused client still sends, how much is read so that it sees the answer.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

const ROUTES: &str = "there is no such route; there are /v1/kv/KEY, /v1/stats, /v1/map, /store/set, /store/get/KEY, \
    /metrics, /livez and /readyz";

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("requests did not finish within {0:?}")]
    Drain(Duration),
}

/// What the HTTP connections of a node share. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    router: Router,
    access: Access,
    metrics: Arc<Metrics>,
    stall_max: Duration,
    drain_timeout: Duration,
}

/// What the requests of a connection share.
struct Peer {
    address: SocketAddr,
    share: Arc<Share>,
    /// A request was refused before all of it was read.
    is_cut_short: AtomicBool,
}

impl Peer {
    /// Waits until there is room for an answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there was none in time.
    async fn begin(&self) -> Result<UnderWay, Error> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let changed = self.share.changed();
            if let Some(begun) = self.share.try_begin() {
                return Ok(begun);
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(deadline) => return Err(no_room()),
            }
        }
    }
}

/// Room for an answer of so many bytes, until it is written.
fn hold(begun: UnderWay, bytes: usize) -> Result<Held, Error> {
    let held = begun.answered(bytes);
    if held.is_cut() { Err(no_room()) } else { Ok(held) }
}

fn no_room() -> Error {
    Error::Unavailable("too many answers of this node were not read yet; try again".to_owned())
}

/// Asks one command.
async fn ask<S: Service, M: Send + Sync + 'static>(
    door: &Arc<Door<S, M>>,
    peer: &Peer,
    command: Command,
) -> Result<Reply, Error> {
    let is_write = command.is_write();
    let batch = Batch { commands: vec![command], epoch: None, timeout: TIMEOUT };
    let source = Source { door: "http", peer: peer.address, trace: None };
    let service = Metered::new(door, DoorName::Http);
    match timeout(TIMEOUT + TIMEOUT_GRACE, super::ask(&service, batch, source)).await {
        Ok(mut replies) => replies.pop().unwrap_or_else(|| Err(Error::Unknown("no answer".to_owned()))),
        Err(_) if is_write => Err(Error::Unknown("no answer in time".to_owned())),
        Err(_) => Err(Error::Unavailable("no answer in time".to_owned())),
    }
}

fn unexpected() -> Refused {
    Error::Unknown("the answer does not fit the question".to_owned()).into()
}

impl Http {
    pub fn new<S: Service, M: Send + Sync + 'static>(door: &Arc<Door<S, M>>) -> Self {
        let router = Router::new()
            .route("/v1/kv/{*key}", get(kv::read::<S, M>).put(kv::write::<S, M>).delete(kv::delete::<S, M>))
            // `*` takes one byte at least: the empty key is refused like any other bad one.
            .route("/v1/kv/", get(kv::read::<S, M>).put(kv::write::<S, M>).delete(kv::delete::<S, M>))
            .route("/store/set", post(seeds::set::<S, M>))
            .route("/store/get/{*key}", get(seeds::get::<S, M>))
            .route("/v1/stats", get(node::stats::<S, M>))
            .route("/v1/map", get(node::map::<S, M>))
            .route("/metrics", get(node::metrics::<S, M>))
            .route("/livez", get(node::livez))
            .route("/readyz", get(node::readyz::<S, M>))
            .fallback(async || Refused::new(StatusCode::NOT_FOUND, ROUTES))
            .method_not_allowed_fallback(async |method: Method| {
                Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible here"))
            })
            .with_state(Arc::clone(door));
        let options = &door.options;
        Self {
            router,
            access: door.access.clone(),
            metrics: Arc::clone(&door.metrics),
            stall_max: options.stall_max,
            drain_timeout: options.drain_timeout,
        }
    }

    /// Serves one connection until the peer ends it, is idle for too long, or `shutdown`: then it ends after the request that is
    /// under way.
    ///
    /// # Errors
    /// [`ConnectionError`], for whoever logs it; the connection is closed then.
    pub async fn serve<IO>(
        &self,
        io: IO,
        address: SocketAddr,
        budget: Arc<Budget>,
        shutdown: CancellationToken,
    ) -> Result<(), ConnectionError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Arc::new(Peer { address, share: Share::new(budget), is_cut_short: AtomicBool::new(false) });
        let of_requests = Arc::clone(&peer);
        let service = service_fn(|request| self.answer(request, Arc::clone(&of_requests)).boxed());
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Also the longest that a connection is kept without a request.
            .header_read_timeout(self.stall_max)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(READ_BYTES_MAX)
            .half_close(true)
            .serve_connection(TokioIo::new(Stalling::new(io, self.stall_max)), service);
        let mut is_draining = false;
        let mut drained = Box::pin(async {
            shutdown.cancelled().await;
            sleep(self.drain_timeout).await;
        });
        let ended = loop {
            tokio::select! {
                biased;
                ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
                () = shutdown.cancelled(), if !is_draining => {
                    is_draining = true;
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                }
                () = &mut drained => return Err(ConnectionError::Drain(self.drain_timeout)),
            }
        };
        let io = connection.into_parts().io.into_inner().into_inner();
        // Relaxed: the requests ran in this task.
        close(io, ended.is_err() || peer.is_cut_short.load(Ordering::Relaxed)).await;
        Ok(ended?)
    }

    async fn answer(&self, mut request: hyper::Request<Incoming>, peer: Arc<Peer>) -> Result<Response, Infallible> {
        let response = if self.admits(&request) {
            request.extensions_mut().insert(peer);
            TowerToHyperService::new(self.router.clone()).call(request).await?
        } else {
            if request.headers().contains_key(AUTHORIZATION) {
                self.access.note_refused(peer.address, "http");
            }
            Refused::unauthorized().into_response()
        };
        self.metrics.responded(response.status().as_u16());
        Ok(response)
    }

    /// Probes know no password, and learn no more than yes or no.
    fn admits(&self, request: &hyper::Request<Incoming>) -> bool {
        let is_probe = |uri: &Uri| matches!(uri.path(), "/livez" | "/readyz") && uri.query().is_none();
        self.access.is_open()
            || is_probe(request.uri())
            || request::authorization(request.headers()).is_some_and(|given| self.access.admits_header(given))
    }
}

/// Ends a connection. A client that still sends, because it was refused half way, is listened to for a moment: it would be reset
/// otherwise, and might not see why it was refused.
async fn close<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO, is_cut_short: bool) {
    if is_cut_short {
        farewell_of(io, b"", LINGER_BYTES).await;
        return;
    }
    // The peer may be gone.
    let _: Result<io::Result<()>, _> = timeout(FAREWELL_TIMEOUT, io.shutdown()).await;
}
