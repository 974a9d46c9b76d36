//! The embedded node as its RPC looks into it.

use async_trait::async_trait;
use cluster_embedded::{EmbeddedNode, Mode, Multiaddr, PeerId, State};
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

    async fn pins(&self, after: Option<Cid>, limit: usize) -> Result<(Vec<(Cid, Listed)>, Option<Cid>), Error> {
        let pins = self.0.pins(after, limit).await?;
        let next = pins.last().map(|pin| pin.cid).filter(|_| pins.len() == limit);
        // What is still being fetched is not pinned: who drives the node by this list would call it so.
        let complete = pins.into_iter().filter(|pin| pin.state == State::Complete);
        let listed = complete.map(|pin| {
            let held = match pin.mode {
                Mode::Recursive => Held::Recursive,
                Mode::Direct | Mode::Depth(_) => Held::Direct,
            };
            (
                pin.cid,
                Listed {
                    held,
                    name: Some(pin.name),
                },
            )
        });
        Ok((listed.collect(), next))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cluster_embedded::{DhtMode, EmbeddedConfig};
    use cluster_ipfs::IpfsNode as _;
    use node_core::PinMode;

    use super::*;

    /// Who drives the node by its list, as IPFS Cluster does, would call it pinned.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_could_not_be_fetched_is_not_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = EmbeddedConfig::new(folder.path());
        config.swarm.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")];
        config.swarm.dht = DhtMode::Off;
        config.fetch.not_found_after = Duration::from_millis(200);
        config.disk.free_bytes_min = 0;
        let node = EmbeddedNode::start(config).await.expect("started");
        let missing = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        let missing: Cid = missing.parse().expect("a CID");
        // An identity CID has its block in itself, so its pin is complete at once.
        let there: Cid = "bafkqaaa".parse().expect("a CID");
        let pin = |cid| node.pin_add(cid, PinMode::Recursive, "", &|_| ());
        pin(&missing).await.expect_err("nobody has it");
        pin(&there).await.expect("pinned");
        assert_eq!(node.pins(None, 9).await.expect("listed").len(), 2);
        let inside = InsideNode(node.clone());
        let (listed, next) = inside.pins(None, 9).await.expect("listed");
        let listed: Vec<_> = listed.into_iter().map(|(cid, _)| cid).collect();
        assert_eq!((listed, next), (vec![there], None));
        // Pages are of records, so that one without a complete pin is not taken for the end.
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = inside.pins(after, 1).await.expect("listed");
            found.extend(page.into_iter().map(|(cid, _)| cid));
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, [there]);
        node.shutdown().await.expect("closed");
    }
}
