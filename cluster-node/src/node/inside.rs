//! The embedded node as its RPC looks into it.

use async_trait::async_trait;
use cluster_embedded::{EmbeddedNode, Mode, Multiaddr, PeerId};
use cluster_gateway::{Inside, Peer, Traffic};
use cluster_ipfs::{Error, Held, Listed, Operation};
use node_core::{Cid, ErrorClass};

/// The node.
pub struct InsideNode(pub EmbeddedNode);

#[async_trait]
impl Inside for InsideNode {
    async fn objects(&self) -> Result<u64, Error> {
        Ok(self.0.store().usage().blocks)
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, Error> {
        let (store, asked) = (self.0.store().clone(), [*cid]);
        let failed = |error: String| Error::new(Operation::Blocks, ErrorClass::Temporary, error, None);
        let sizes = tokio::task::spawn_blocking(move || store.sizes(&asked)).await;
        let sizes = sizes.map_err(|error| failed(error.to_string()))?;
        let sizes = sizes.map_err(|error| failed(error.to_string()))?;
        Ok(sizes.first().copied().flatten().map(|size| size as u64))
    }

    async fn pins(&self, after: Option<Cid>, limit: usize) -> Result<Vec<(Cid, Listed)>, Error> {
        let pins = self.0.pins(after, limit).await?;
        let listed = pins.into_iter().map(|pin| {
            let held = match pin.mode {
                Mode::Recursive => Held::Recursive,
                Mode::Direct | Mode::Depth(_) => Held::Direct,
            };
            (pin.cid, Listed { held, name: pin.name })
        });
        Ok(listed.collect())
    }

    async fn collect_garbage(&self) -> Result<(), Error> {
        self.0.collect_garbage().await.map(drop)
    }

    async fn traffic(&self) -> Result<Traffic, Error> {
        let report = self.0.report().await?;
        Ok(Traffic {
            bytes_in: report.swarm.bytes_in,
            bytes_out: report.swarm.bytes_out,
            blocks_in: report.fetched.peer_blocks,
            block_bytes_in: report.fetched.peer_bytes,
        })
    }

    async fn peers(&self) -> Result<Vec<Peer>, Error> {
        let report = self.0.report().await?;
        let peers = report.swarm.peers.into_iter().map(|peer| Peer {
            addresses: bare(&peer.peer, &peer.addresses),
            id: peer.peer.to_string(),
            agent: peer.agent,
        });
        Ok(peers.collect())
    }

    async fn disconnect(&self, id: &str) -> Result<(), Error> {
        let peer: PeerId = id.parse().map_err(|_| {
            let shown: String = id.chars().take(80).collect();
            let words = format!("{shown:?} is no peer ID, and no multiaddr that ends in one");
            Error::new(Operation::SwarmConnect, ErrorClass::Permanent, words, None)
        })?;
        self.0.disconnect(peer).await
    }

    async fn providers(&self, cid: &Cid, limit: usize) -> Result<Vec<Peer>, Error> {
        let found = self.0.find_providers(cid, limit).await;
        let peers = found.into_iter().map(|provider| Peer {
            addresses: bare(&provider.peer, &provider.addresses),
            id: provider.peer.to_string(),
            agent: String::new(),
        });
        Ok(peers.collect())
    }
}

/// Addresses without the ID at their end.
fn bare(peer: &PeerId, addresses: &[Multiaddr]) -> Vec<String> {
    let suffix = format!("/p2p/{peer}");
    let texts = addresses.iter().map(ToString::to_string);
    texts
        .map(|text| text.strip_suffix(&suffix).unwrap_or(&text).to_owned())
        .collect()
}
