//! One client, as it has made itself known.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::time::Instant;

use crate::protocol::redis::ClientReply;
use crate::protocol::resp::Proto;
use crate::sync::Mutex;

/// What other connections may see of a client.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub name: Bytes,
    pub library: Bytes,
    pub library_version: Bytes,
    pub last_command: &'static str,
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub id: u64,
    pub peer: SocketAddr,
    pub since: Instant,
    pub names: Mutex<Names>,
}

impl Client {
    /// A line of CLIENT LIST.
    pub fn line(&self, proto: Proto) -> String {
        let names = self.names.lock();
        let proto = match proto {
            Proto::Resp2 => 2,
            Proto::Resp3 => 3,
        };
        format!(
            "id={} addr={} name={} age={} idle=0 flags=N db=0 sub=0 psub=0 multi=-1 cmd={} user=default resp={proto} lib-name={} \
             lib-ver={}",
            self.id,
            self.peer,
            names.name.escape_ascii(),
            self.since.elapsed().as_secs(),
            names.last_command,
            names.library.escape_ascii(),
            names.library_version.escape_ascii(),
        )
    }
}

/// All clients of a node.
#[derive(Debug, Default)]
pub(super) struct Clients {
    last_id: AtomicU64,
    connected: Mutex<HashMap<u64, Arc<Client>>>,
}

impl Clients {
    pub fn connect(self: &Arc<Self>, peer: SocketAddr) -> Connected {
        // Relaxed: only that no two are alike.
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client { id, peer, since: Instant::now(), names: Mutex::default() });
        self.connected.lock().insert(id, Arc::clone(&client));
        Connected { clients: Arc::clone(self), client }
    }

    /// In the order in which they came.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.connected.lock().values().cloned().collect();
        all.sort_by_key(|client| client.id);
        all
    }

    /// How many have come since the start.
    pub fn count(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed) // a figure
    }

    pub fn len(&self) -> usize {
        self.connected.lock().len()
    }
}

/// A client until its connection ends.
#[derive(Debug)]
pub(super) struct Connected {
    clients: Arc<Clients>,
    pub client: Arc<Client>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.clients.connected.lock().remove(&self.client.id);
    }
}

/// The state of a connection, as RESET makes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub proto: Proto,
    pub is_authenticated: bool,
    pub reply: ClientReply,
    /// It has said QUIT, or is stopped while it sends.
    pub is_over: bool,
}

impl Session {
    pub fn new(is_authenticated: bool) -> Self {
        Self { proto: Proto::Resp2, is_authenticated, reply: ClientReply::On, is_over: false }
    }
}
