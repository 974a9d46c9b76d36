//! Connections to other peers, for Raft and for the service.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cluster_consensus::{ChannelProvider, ConnectError, Purpose};
use cluster_security::{Membership, PeerConnector};
use node_core::PeerId;
use parking_lot::RwLock;
use tonic::transport::Channel;

use crate::service::PeerDirectory;

/// Where peers are, from all that this peer was told. The state is the truth; a peer that has just joined knows only
/// what it was answered until its state has come.
#[derive(Default)]
pub struct AddressBook {
    told: RwLock<BTreeMap<PeerId, Vec<String>>>,
    joined_with: RwLock<Vec<PeerId>>,
    directory: RwLock<Option<Arc<PeerDirectory>>>,
}

impl AddressBook {
    /// Takes what a peer that joined was answered.
    pub fn tell(&self, members: Vec<(PeerId, Vec<String>)>) {
        *self.joined_with.write() = members.iter().map(|(peer, _)| *peer).collect();
        self.told.write().extend(members);
    }

    /// From now on the state is asked first.
    pub fn follow(&self, directory: Arc<PeerDirectory>) {
        *self.directory.write() = Some(directory);
    }

    /// Where a peer is.
    pub fn addresses(&self, peer: &PeerId) -> Vec<String> {
        let known = self
            .directory
            .read()
            .as_ref()
            .and_then(|directory| directory.get(*peer));
        match known {
            Some(known) if !known.addresses.is_empty() => known.addresses,
            _ => self.told.read().get(peer).cloned().unwrap_or_default(),
        }
    }

    /// What a peer is.
    pub fn membership(&self, peer: &PeerId) -> Membership {
        let directory = self.directory.read();
        match directory.as_ref().and_then(|directory| directory.get(*peer)) {
            Some(known) if known.removed => Membership::Removed,
            Some(_) => Membership::Member,
            // Only as long as this peer has no members of its own: whoever answered the join may call.
            None if directory
                .as_ref()
                .is_none_or(|directory| directory.present().is_empty())
                && self.joined_with.read().contains(peer) =>
            {
                Membership::Member
            }
            None => Membership::Stranger,
        }
    }
}

/// Hands out connections by peer and purpose.
pub struct Channels {
    /// Makes them.
    pub connector: PeerConnector,
    /// Knows where.
    pub book: Arc<AddressBook>,
}

#[async_trait]
impl ChannelProvider for Channels {
    async fn channel(&self, peer: &PeerId, addresses: &[String], purpose: Purpose) -> Result<Channel, ConnectError> {
        // Raft may know of a peer before the state does: the entry that admits it comes first.
        self.book.told.write().insert(*peer, addresses.to_vec());
        let purpose = match purpose {
            Purpose::Vote => cluster_security::Purpose::Vote,
            Purpose::Append => cluster_security::Purpose::Append,
            Purpose::Snapshot => cluster_security::Purpose::Snapshot,
            Purpose::Forward => cluster_security::Purpose::Forward,
        };
        Ok(self.connector.channel(*peer, purpose))
    }
}
