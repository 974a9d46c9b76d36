//! The peers of the cluster and how to reach them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cluster_proto::peer::v1::peers_client::PeersClient;
use node_core::pinset::{self, KvError, KvRead};
use node_core::{Peer, PeerId};
use tonic::transport::Channel;

use super::Error;

/// A client of another peer.
pub type PeerLink = PeersClient<Channel>;

/// Largest answer taken from another peer: a chunk of 1,000 entries with the longest errors is below 2 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What a call to another peer is for. Each has a connection of its own, so that none waits behind another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkPurpose {
    /// Writes and read indexes, handed to the leader.
    Forward,
    /// Short questions.
    Query,
    /// Long answers that are read as slowly as a client likes.
    Scan,
    /// Blocks, which are many bytes.
    Content,
}

/// Gives out connections to other peers, and makes sure that the one at the other end is the one that is meant.
pub trait Links: Send + Sync + 'static {
    /// A channel to a peer, which connects when it is used. `addresses` are tried when nothing newer is known.
    fn link(&self, peer: PeerId, addresses: &[String], purpose: LinkPurpose) -> Channel;
}

/// The members, kept beside the state because every connection asks.
pub struct PeerDirectory {
    own: PeerId,
    links: Arc<dyn Links>,
    members: ArcSwap<BTreeMap<PeerId, Peer>>,
}

impl PeerDirectory {
    /// An empty directory; [`Self::refresh`] fills it.
    pub fn new(own: PeerId, links: Arc<dyn Links>) -> Self {
        Self {
            own,
            links,
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

    /// All that are known of, removed ones too.
    pub fn all(&self) -> Arc<BTreeMap<PeerId, Peer>> {
        self.members.load_full()
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

    /// A client for short questions to a member.
    pub async fn link(&self, id: PeerId) -> Result<PeerLink, Error> {
        self.member_link(id, LinkPurpose::Query)
    }

    /// A client for long answers of a member.
    pub async fn scan_link(&self, id: PeerId) -> Result<PeerLink, Error> {
        self.member_link(id, LinkPurpose::Scan)
    }

    /// A client for blocks to and from a member.
    pub async fn content_link(&self, id: PeerId) -> Result<PeerLink, Error> {
        self.member_link(id, LinkPurpose::Content)
    }

    fn member_link(&self, id: PeerId, purpose: LinkPurpose) -> Result<PeerLink, Error> {
        match self.get(id) {
            Some(peer) if !peer.removed => Ok(self.client(id, &peer.addresses, purpose)),
            _ => Err(Error::not_found(format!("{id} is not a peer of this cluster"))),
        }
    }

    /// A client for what is handed to the leader, whose addresses are known from Raft.
    pub async fn link_at(&self, id: PeerId, addresses: &[String]) -> Result<PeerLink, Error> {
        Ok(self.client(id, addresses, LinkPurpose::Forward))
    }

    fn client(&self, id: PeerId, addresses: &[String], purpose: LinkPurpose) -> PeerLink {
        PeersClient::new(self.links.link(id, addresses, purpose))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}
