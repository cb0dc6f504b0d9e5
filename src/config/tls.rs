//! TLS: of a node towards its clients and other nodes, and of `kv` towards a node.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::doors;
use crate::net::{self, ClientTls, ClientWants, Files, Identity};

#[derive(Debug, Clone, Args)]
pub struct TlsArgs {
    /// Speak TLS, on the same port, with the certificate in this PEM file, and those between it and its authority behind it. It must
    /// be for the host that others reach this node by. SIGHUP reads all three files again
    #[arg(long, env = "KV_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, in PEM
    #[arg(long, env = "KV_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Who signs the certificates of nodes and clients, in PEM. A primary knows its secondaries by it, and shows them its own
    #[arg(long, env = "KV_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// With --tls-ca: whether all who connect must show a certificate of it
    #[arg(long, env = "KV_TLS_CLIENT_CERTS", default_value = "required", value_name = "WHETHER")]
    tls_client_certs: ClientCertsArg,

    /// With --tls-cert: whether those who don't speak TLS are refused (`required`) or served in clear (`preferred`, while a cluster
    /// moves to TLS)
    #[arg(long, env = "KV_TLS", default_value = "required", value_name = "WHETHER")]
    tls: WhetherArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientCertsArg {
    Required,
    Optional,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhetherArg {
    Required,
    Preferred,
}

impl TlsArgs {
    /// `None`: all is in clear.
    ///
    /// # Errors
    /// If files are missing, can't be read or don't fit each other.
    pub(super) fn load(&self) -> anyhow::Result<Option<doors::Tls>> {
        let ca = self.tls_ca.clone();
        let Some(identity) = identity(self.tls_cert.as_ref(), self.tls_key.as_ref())? else {
            ensure!(ca.is_none(), "--tls-ca is for TLS: --tls-cert and --tls-key are missing");
            return Ok(None);
        };
        let clients = match self.tls_client_certs {
            ClientCertsArg::Required => ClientWants::Certificate,
            ClientCertsArg::Optional => ClientWants::Anything,
        };
        let certificates = net::Tls::load(Files { identity, ca, clients }).context("TLS")?;
        Ok(Some(doors::Tls::new(certificates, self.tls == WhetherArg::Required)))
    }
}

#[derive(Debug, Clone, Args)]
pub struct ClientTlsArgs {
    /// Speak TLS with the node, and know it by a certificate that the authority in this PEM file has signed for its host
    #[arg(long, global = true, env = "KV_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// With --tls-ca: the certificate to show to the node if it asks for one, in PEM
    #[arg(long, global = true, env = "KV_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, in PEM
    #[arg(long, global = true, env = "KV_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// `None`: all is in clear.
    ///
    /// # Errors
    /// If files are missing, can't be read or don't fit each other.
    pub(super) fn load(&self) -> anyhow::Result<Option<ClientTls>> {
        let identity = identity(self.tls_cert.as_ref(), self.tls_key.as_ref())?;
        let Some(ca) = &self.tls_ca else {
            ensure!(identity.is_none(), "--tls-cert needs --tls-ca, to know the node by");
            return Ok(None);
        };
        Ok(Some(ClientTls::load(ca, identity.as_ref()).context("TLS")?))
    }
}

fn identity(cert: Option<&PathBuf>, key: Option<&PathBuf>) -> anyhow::Result<Option<Identity>> {
    ensure!(cert.is_some() == key.is_some(), "--tls-cert and --tls-key go together");
    Ok(cert.zip(key).map(|(cert, key)| Identity { cert: cert.clone(), key: key.clone() }))
}
