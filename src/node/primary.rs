//! A primary: a router behind a door, and the leader that keeps its map.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::listen;
use crate::cluster::ShardName;
use crate::doors::{self, Door, NoMember};
use crate::router::{Leader, LeaderOptions, Router};
use crate::rpc::{Client, Options as ClientOptions, Role};

/// What a primary is started with.
#[derive(Debug, Clone)]
pub struct PrimaryOptions {
    /// Host to listen on.
    pub bind: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// The secondaries, in order: name, and the address that it stands for.
    pub secondaries: Vec<(ShardName, String)>,
    /// Serve although a former secondary's unspilled records are lost (R22).
    pub accept_loss: bool,
    pub door: doors::Options,
}

/// A running primary.
#[derive(Debug)]
pub struct Primary {
    address: SocketAddr,
    router: Arc<Router<Client>>,
    leader: JoinHandle<()>,
    door: JoinHandle<()>,
    stop: CancellationToken,
}

impl Primary {
    /// Starts listening and looking for the secondaries, which may come later.
    ///
    /// # Errors
    /// If the port can't be had.
    pub async fn start(options: PrimaryOptions) -> anyhow::Result<Self> {
        let (listener, address) = listen(&options.bind, options.port, &options.door).await?;
        let list: Vec<ShardName> = options.secondaries.iter().map(|(name, _)| name.clone()).collect();
        info!(%address, secondaries = list.len(), "primary listens");
        let addresses = options.secondaries;
        let address_of = move |name: &ShardName| {
            let known = addresses.iter().find(|(known, _)| known == name);
            known.map_or_else(|| name.to_string(), |(_, address)| address.clone())
        };
        let reach = address_of.clone();
        let secret = options.door.access.secret().cloned();
        let tls = options.door.tls.as_ref().and_then(|tls| tls.certificates.client()).cloned();
        let to_secondaries = ClientOptions { role: Role::Primary, secret, tls, ..ClientOptions::default() };
        let connect = move |name: &ShardName| Client::spawn(reach(name), to_secondaries.clone());
        let stop = CancellationToken::new();
        let router = Router::new();
        let leader = LeaderOptions { list, accept_loss: options.accept_loss };
        let leader = Leader::new(leader, Arc::clone(&router), connect).with_addresses(address_of);
        let leader = tokio::spawn(leader.run(stop.clone()));
        let door_options = doors::Options { role: Role::Primary, port: address.port(), ..options.door };
        let door = Door::new(Arc::clone(&router), NoMember, Arc::clone(&router), door_options);
        let door = tokio::spawn(doors::serve(listener, Arc::new(door), stop.clone()));
        Ok(Self { address, router, leader, door, stop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Why some slots are not served, if any are not.
    pub fn unserved(&self) -> Option<String> {
        self.router.unserved()
    }

    /// Stops accepting, finishes what is in flight, and tells the secondaries.
    pub async fn stop(self) {
        self.stop.cancel();
        for ended in [self.door.await, self.leader.await] {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the primary ended badly");
            }
        }
        info!("stopped");
    }
}
