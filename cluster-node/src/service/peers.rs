//! The peers of the cluster and how to reach them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cluster_consensus::{ChannelProvider, Purpose};
use cluster_proto::peer::v1::peers_client::PeersClient;
use node_core::pinset::{self, KvError, KvRead};
use node_core::{Peer, PeerId};
use tonic::transport::Channel;

use super::Error;

/// A client of another peer.
pub type PeerLink = PeersClient<Channel>;

/// Largest answer taken from another peer: a chunk of 1,000 entries with the longest errors is below 2 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The members, kept beside the state because every connection asks.
pub struct PeerDirectory {
    own: PeerId,
    channels: Arc<dyn ChannelProvider>,
    members: ArcSwap<BTreeMap<PeerId, Peer>>,
}

impl PeerDirectory {
    /// An empty directory; [`Self::refresh`] fills it.
    pub fn new(own: PeerId, channels: Arc<dyn ChannelProvider>) -> Self {
        Self {
            own,
            channels,
            members: ArcSwap::default(),
        }
    }

    /// This peer.
    pub fn own(&self) -> PeerId {
        self.own
    }

    /// Reads the members anew. Called after every entry that changed them.
    pub fn refresh(&self, kv: &dyn KvRead) -> Result<(), KvError> {
        let members = pinset::peers(kv)?.into_iter().map(|peer| (peer.id, peer)).collect();
        self.members.store(Arc::new(members));
        Ok(())
    }

    /// What is known of a peer, also of a removed one.
    pub fn get(&self, id: PeerId) -> Option<Peer> {
        self.members.load().get(&id).cloned()
    }

    /// The peer with this number in Raft.
    pub fn by_raft_id(&self, raft_id: u64) -> Option<Peer> {
        self.members
            .load()
            .values()
            .find(|peer| peer.raft_id == raft_id && !peer.removed)
            .cloned()
    }

    /// All members in order of ID.
    pub fn present(&self) -> Vec<Peer> {
        self.members
            .load()
            .values()
            .filter(|peer| !peer.removed)
            .cloned()
            .collect()
    }

    /// All members but this peer.
    pub fn others(&self) -> Vec<Peer> {
        self.members
            .load()
            .values()
            .filter(|peer| !peer.removed && peer.id != self.own)
            .cloned()
            .collect()
    }

    /// Connects to a member, or uses the connection there is.
    pub async fn link(&self, id: PeerId) -> Result<PeerLink, Error> {
        let addresses = match self.get(id) {
            Some(peer) if !peer.removed => peer.addresses,
            _ => return Err(Error::not_found(format!("{id} is not a peer of this cluster"))),
        };
        self.link_at(id, &addresses).await
    }

    /// Connects to a peer whose addresses are known from elsewhere.
    pub async fn link_at(&self, id: PeerId, addresses: &[String]) -> Result<PeerLink, Error> {
        let channel = self
            .channels
            .channel(&id, addresses, Purpose::Forward)
            .await
            .map_err(|error| Error::NoLeader(format!("peer {id} does not answer: {error}")))?;
        Ok(PeersClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}
