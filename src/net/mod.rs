//! Encrypted connections: certificates from PEM files, which may be read again while connections live on, and what goes wrong in
//! words. rustls is named here only. Knows nothing of what is said over a connection.

mod reason;
mod tls;

pub use self::reason::{is_refusal, reason};
pub use self::tls::{ClientTls, ClientWants, Files, Identity, ServerTls, Tls, TlsError};

use tokio::net::TcpStream;
use tokio_util::either::Either;

/// An accepted connection that is encrypted.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;
/// A connection to another node.
pub type ClientStream = Either<TcpStream, Box<tokio_rustls::client::TlsStream<TcpStream>>>;
