//! A secondary as a pure cache, beside the caches that people know.

use crate::cluster::Cluster;
use crate::process::Server;
use crate::{Bench, OURS, Outcome};

pub struct Caches {
    ours: Cluster,
    peers: Vec<(String, Server)>,
}

impl Caches {
    pub async fn start(bench: &Bench) -> Outcome<Self> {
        let ours = Cluster::start("none", 1_000_000).await?;
        let mut peers = Vec::new();
        for peer in bench.peers.caches() {
            peers.push((peer.kind.to_string(), peer.start(&[]).await?));
        }
        Ok(Self { ours, peers })
    }

    /// By name, ours first.
    pub fn sides(&self) -> Outcome<Vec<(&str, &Server)>> {
        let peers = self.peers.iter().map(|(name, server)| (name.as_str(), server));
        Ok([(OURS, self.ours.secondary()?)].into_iter().chain(peers).collect())
    }
}
