//! Certificates and keys, and the two ends of a handshake.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::ServerStream;

/// Why certificates and keys are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{}` can't be read: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("`{}` has no {what} in PEM", path.display())]
    Missing { path: PathBuf, what: &'static str },
    #[error("`{}` and `{}` are of no use: {reason}", cert.display(), key.display())]
    Identity { cert: PathBuf, key: PathBuf, reason: String },
    #[error("`{}` is of no use: {reason}", path.display())]
    Authority { path: PathBuf, reason: String },
    #[error("{0}")]
    Setup(#[from] rustls::Error),
}

/// A certificate with those between it and its authority, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Whether those who connect must show a certificate of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientWants {
    Certificate,
    /// None is needed; but one that is shown must be right.
    Anything,
}

/// Where a node's certificates and keys lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub identity: Identity,
    /// Who signs the certificates of other nodes, and of clients. Without it, none of them are asked for or accepted.
    pub ca: Option<PathBuf>,
    pub clients: ClientWants,
}

/// The TLS of a node, towards clients and towards other nodes. Clones share it.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Arc<Files>,
    server: ServerTls,
    client: Option<ClientTls>,
}

impl Tls {
    /// # Errors
    /// If the files can't be read or don't fit each other.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let (server, client) = configs(&files)?;
        Ok(Self { files: Arc::new(files), server: ServerTls(Current::new(server)), client: client.map(ClientTls::new) })
    }

    /// Reads the files again: connections that begin from now on have what is in them, the others live on.
    ///
    /// # Errors
    /// As [`Tls::load`]; then all stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let (server, client) = configs(&self.files)?;
        self.server.0.set(server);
        if let (Some(current), Some(client)) = (&self.client, client) {
            current.0.set(client);
        }
        Ok(())
    }

    pub fn server(&self) -> &ServerTls {
        &self.server
    }

    /// To other nodes; none without an authority to know them by.
    pub fn client(&self) -> Option<&ClientTls> {
        self.client.as_ref()
    }
}

fn configs(files: &Files) -> Result<(ServerConfig, Option<ClientConfig>), TlsError> {
    let server = server_config(files)?;
    let client = files.ca.as_deref().map(|ca| client_config(ca, Some(&files.identity))).transpose()?;
    Ok((server, client))
}

/// What new connections take.
struct Current<T>(Arc<watch::Sender<Arc<T>>>);

impl<T> Current<T> {
    fn new(first: T) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(first))))
    }

    fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    fn set(&self, next: T) {
        self.0.send_replace(Arc::new(next));
    }
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The accepting end.
#[derive(Clone)]
pub struct ServerTls(Current<ServerConfig>);

impl ServerTls {
    /// Shakes hands. Takes as long as the peer likes: the caller has the deadline.
    ///
    /// # Errors
    /// Why it failed, and the stream, on which the peer was told so.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
    ) -> Result<ServerStream<IO>, (io::Error, IO)> {
        TlsAcceptor::from(self.0.get()).accept(io).into_fallible().await
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

/// The connecting end.
#[derive(Clone)]
pub struct ClientTls(Current<ClientConfig>);

impl ClientTls {
    fn new(config: ClientConfig) -> Self {
        Self(Current::new(config))
    }

    /// Takes a node for who it says it is by the authority in `ca`, and shows it `identity` if it asks.
    ///
    /// # Errors
    /// If the files can't be read or don't fit each other.
    pub fn load(ca: &Path, identity: Option<&Identity>) -> Result<Self, TlsError> {
        client_config(ca, identity).map(Self::new)
    }

    /// Shakes hands with the node at `address`, `host:port`, whose certificate must be for that host.
    ///
    /// # Errors
    /// Why it failed; [`super::reason`] tells it to people.
    pub async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        TlsConnector::from(self.0.get()).connect(name, stream).await
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

fn server_config(files: &Files) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match &files.ca {
        Some(ca) => builder.with_client_cert_verifier(verifier(ca, files.clients)?),
        None => builder.with_no_client_auth(),
    };
    let (certificates, key) = read_identity(&files.identity)?;
    builder.with_single_cert(certificates, key).map_err(|error| useless(&files.identity, &error))
}

fn verifier(ca: &Path, clients: ClientWants) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(read_authority(ca)?), provider());
    let builder = match clients {
        ClientWants::Certificate => builder,
        ClientWants::Anything => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError::Authority { path: ca.to_owned(), reason: error.to_string() })
}

fn client_config(ca: &Path, identity: Option<&Identity>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(read_authority(ca)?);
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (certificates, key) = read_identity(identity)?;
    builder.with_client_auth_cert(certificates, key).map_err(|error| useless(identity, &error))
}

fn useless(identity: &Identity, error: &rustls::Error) -> TlsError {
    let Identity { cert, key } = identity.clone();
    let reason = match error {
        rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
        other => other.to_string(),
    };
    TlsError::Identity { cert, key, reason }
}

fn read_authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::Authority { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

fn read_identity(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let certificates = read_certificates(&identity.cert)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key);
    Ok((certificates, key.map_err(|error| unreadable(&identity.key, "private key", error))?))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unreadable(path, what, error))?;
    if certificates.is_empty() {
        return Err(TlsError::Missing { path: path.to_owned(), what });
    }
    Ok(certificates)
}

fn unreadable(path: &Path, what: &'static str, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::NoItemsFound => TlsError::Missing { path, what },
        pem::Error::Io(error) => TlsError::Unreadable { path, reason: super::reason(&error) },
        // Of a foreign crate, which may add others.
        other => TlsError::Unreadable { path, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests;
