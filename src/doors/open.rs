//! The beginning of a connection: takes it out of its TLS, if it has any, and finds out what it speaks.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::prefixed::Prefixed;
use super::seldom::Seldom;
use super::sniff::{Protocol, sniff};
use super::{Options, farewell};
use crate::net::{self, ServerStream};
use crate::rpc::{Role, hello};

/// How often to tell that handshakes fail.
const WARN_EVERY: Duration = Duration::from_secs(10);
const TLS_ONLY: &str = "this node speaks TLS only";

/// An accepted connection, encrypted or not.
pub type Incoming = Either<TcpStream, Box<ServerStream<Prefixed<TcpStream>>>>;

/// The TLS of a node: of its doors, and towards other nodes. Clones share it.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificates: net::Tls,
    /// Nothing is said in clear.
    is_required: bool,
    failures: Arc<Seldom>,
}

impl Tls {
    pub fn new(certificates: net::Tls, is_required: bool) -> Self {
        Self { certificates, is_required, failures: Arc::new(Seldom::new(WARN_EVERY)) }
    }
}

/// What the peer speaks, and a stream of it from its beginning. `None` if it is gone, or was told to go.
///
/// # Errors
/// Those of the stream, and if the peer is slow or fails the handshake.
pub(super) async fn open(
    stream: TcpStream,
    peer: SocketAddr,
    options: &Options,
) -> io::Result<Option<(Protocol, Prefixed<Incoming>)>> {
    stream.set_nodelay(true)?;
    let Some((protocol, stream)) = in_time(options.sniff_timeout, sniff(stream)).await? else { return Ok(None) };
    let stream = match (protocol, &options.tls) {
        (Protocol::Tls, Some(tls)) => in_time(options.handshake_timeout, accept(stream, peer, tls)).await?,
        (Protocol::Rpc | Protocol::Http | Protocol::Resp | Protocol::Inline, Some(tls)) if tls.is_required => {
            farewell(stream, &refusal(protocol, options.role)).await;
            return Err(io::Error::other("it does not speak TLS"));
        }
        (Protocol::Tls | Protocol::Rpc | Protocol::Http | Protocol::Resp | Protocol::Inline, _) => {
            return Ok(Some((protocol, over(stream, Either::Left))));
        }
    };
    let sniffed = in_time(options.sniff_timeout, sniff(stream)).await?;
    Ok(sniffed.map(|(protocol, stream)| (protocol, over(stream, |tls| Either::Right(Box::new(tls))))))
}

async fn in_time<T>(within: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(within, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn accept(
    stream: Prefixed<TcpStream>,
    peer: SocketAddr,
    tls: &Tls,
) -> io::Result<ServerStream<Prefixed<TcpStream>>> {
    match tls.certificates.server().accept(stream).await {
        Ok(stream) => Ok(stream),
        Err((error, stream)) => {
            let reason = net::reason(&error);
            match tls.failures.count() {
                Some(failures) => tracing::warn!(%peer, reason, failures, "TLS handshake failed"),
                None => tracing::debug!(%peer, reason, "TLS handshake failed"),
            }
            farewell(stream, b"").await;
            Err(error)
        }
    }
}

/// The same bytes on another kind of stream.
fn over<A: AsyncRead + Unpin, B>(stream: Prefixed<A>, wrap: impl FnOnce(A) -> B) -> Prefixed<B> {
    let (prefix, io) = stream.into_parts();
    Prefixed::new(prefix, wrap(io))
}

/// What one who speaks in clear is told, in its protocol.
fn refusal(protocol: Protocol, role: Role) -> Vec<u8> {
    match protocol {
        Protocol::Rpc => hello::refusal(role, TLS_ONLY).to_vec(),
        Protocol::Http => {
            let length = TLS_ONLY.len() + 1;
            let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length:";
            format!("{head} {length}\r\n\r\n{TLS_ONLY}\n").into_bytes()
        }
        Protocol::Resp | Protocol::Inline | Protocol::Tls => format!("-ERR {TLS_ONLY}\r\n").into_bytes(),
    }
}
