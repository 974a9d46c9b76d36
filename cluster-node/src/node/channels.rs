//! Connections to other peers, for Raft and for the service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cluster_consensus::{ChannelProvider, ConnectError};
use cluster_security::{Membership, PeerConnector, Purpose};
use node_core::PeerId;
use parking_lot::{Mutex, RwLock};
use tonic::transport::Channel;

use crate::service::{LinkPurpose, Links, PeerDirectory};

/// How long the word of a member counts that a peer is one, too. By then this peer's own state usually names it; if not,
/// it asks again.
const VOUCHED_FOR: Duration = Duration::from_secs(30);

/// Where peers are and who belongs, from all that this peer was told. The state is the truth; a peer that has just
/// joined knows only what it was answered until its state names itself, and one that was away does not know who joined
/// meanwhile until it has caught up.
pub struct AddressBook {
    own: PeerId,
    told: RwLock<BTreeMap<PeerId, Vec<String>>>,
    joined: RwLock<Option<Joined>>,
    directory: RwLock<Option<Arc<PeerDirectory>>>,
    /// Peers of which a member said that they belong, and when. Only members get in, so it is as long as their list.
    vouched: Mutex<BTreeMap<PeerId, Instant>>,
}

struct Joined {
    raft_id: u64,
    members: Vec<PeerId>,
}

impl AddressBook {
    /// Nothing told yet.
    pub fn new(own: PeerId) -> Self {
        Self {
            own,
            told: RwLock::default(),
            joined: RwLock::default(),
            directory: RwLock::default(),
            vouched: Mutex::default(),
        }
    }

    /// Takes what this peer was answered when it was admitted under this number.
    pub fn tell(&self, raft_id: u64, members: Vec<(PeerId, Vec<String>)>) {
        *self.joined.write() = Some(Joined {
            raft_id,
            members: members.iter().map(|(peer, _)| *peer).collect(),
        });
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
            None if self.joined_with(directory.as_deref(), peer) || self.is_vouched(peer) => Membership::Member,
            None => Membership::Stranger,
        }
    }

    /// Other peers that count as members here.
    pub fn members(&self) -> Vec<PeerId> {
        let directory = self.directory.read();
        let present = directory.as_ref().map(|directory| directory.present());
        let mut members: Vec<_> = present.into_iter().flatten().map(|peer| peer.id).collect();
        if let Some(joined) = &*self.joined.read() {
            members.extend(joined.members.iter().filter(|peer| {
                let known = directory
                    .as_ref()
                    .is_some_and(|directory| directory.get(**peer).is_some());
                !known && self.joined_with(directory.as_deref(), peer)
            }));
        }
        members.retain(|peer| *peer != self.own);
        members
    }

    /// Whether this peer was told so when it joined, and has not got as far as its own admission in the log: until then
    /// its state may be from before the members that it joined with.
    fn joined_with(&self, directory: Option<&PeerDirectory>, peer: &PeerId) -> bool {
        let joined = self.joined.read();
        let Some(joined) = &*joined else { return false };
        let own = directory.and_then(|directory| directory.get(self.own));
        // A peer that lost its disk finds its old number in the log first.
        let admitted = own.is_some_and(|own| own.raft_id == joined.raft_id);
        !admitted && joined.members.contains(peer)
    }

    fn is_vouched(&self, peer: &PeerId) -> bool {
        let vouched = self.vouched.lock();
        vouched.get(peer).is_some_and(|at| at.elapsed() < VOUCHED_FOR)
    }

    /// A member says that this peer is one, too.
    pub fn vouch_for(&self, peer: PeerId) {
        let mut vouched = self.vouched.lock();
        vouched.retain(|_, at| at.elapsed() < VOUCHED_FOR);
        vouched.insert(peer, Instant::now());
    }

    /// Raft may know of a peer before the state does: the entry that admits it comes first.
    fn hear(&self, peer: PeerId, addresses: &[String]) {
        if self.told.read().get(&peer).is_none_or(|known| known != addresses) {
            self.told.write().insert(peer, addresses.to_vec());
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
    async fn channel(
        &self,
        peer: &PeerId,
        addresses: &[String],
        purpose: cluster_consensus::Purpose,
    ) -> Result<Channel, ConnectError> {
        self.book.hear(*peer, addresses);
        let purpose = match purpose {
            cluster_consensus::Purpose::Vote => Purpose::Vote,
            cluster_consensus::Purpose::Append => Purpose::Append,
            cluster_consensus::Purpose::Snapshot => Purpose::Snapshot,
            cluster_consensus::Purpose::Forward => Purpose::Forward,
        };
        Ok(self.connector.channel(*peer, purpose))
    }
}

impl Links for Channels {
    fn link(&self, peer: PeerId, addresses: &[String], purpose: LinkPurpose) -> Channel {
        self.book.hear(peer, addresses);
        let purpose = match purpose {
            LinkPurpose::Forward => Purpose::Forward,
            LinkPurpose::Query => Purpose::Query,
            LinkPurpose::Scan => Purpose::Scan,
            LinkPurpose::Content => Purpose::Content,
        };
        self.connector.channel(peer, purpose)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cluster_security::Identity;
    use node_core::command::{CommandBatch, NewPeer, Op, Request};
    use node_core::pinset::{self, Effects, MemoryKv, Settings};
    use node_core::{RequestId, Timestamp};

    use super::*;

    struct NoLinks;

    impl Links for NoLinks {
        fn link(&self, _: PeerId, _: &[String], _: LinkPurpose) -> Channel {
            unreachable!("nothing is asked here")
        }
    }

    fn new_peer(id: PeerId, name: &str) -> NewPeer {
        NewPeer {
            id,
            name: name.into(),
            addresses: Vec::new(),
            api_address: String::new(),
            version: String::new(),
        }
    }

    /// A state in which the peers joined one after the other, each under the index of its entry.
    fn state(peers: &[PeerId]) -> MemoryKv {
        let mut kv = MemoryKv::default();
        let mut index = 1;
        let mut apply = |op| {
            index += 1;
            let batch = CommandBatch {
                time: Timestamp::from_millis(1),
                requests: vec![Request {
                    id: None::<RequestId>,
                    op,
                }],
            };
            pinset::apply(&mut kv, index, &batch, &mut Effects::default()).expect("a store in memory");
            index
        };
        apply(Op::InitCluster {
            cluster_id: "test".into(),
            settings: Settings::default(),
            peer: new_peer(peers[0], "peer-0"),
        });
        for (number, peer) in peers.iter().enumerate().skip(1) {
            let hash = vec![u8::try_from(number).expect("few"); 32];
            apply(Op::CreateToken {
                hash: hash.clone(),
                expires: Timestamp::from_millis(1_000),
            });
            apply(Op::AdmitPeer {
                token_hash: hash,
                attempt: vec![1],
                peer: new_peer(*peer, &format!("peer-{number}")),
            });
        }
        kv
    }

    fn raft_id(kv: &MemoryKv, peer: PeerId) -> u64 {
        pinset::peer(kv, peer).expect("readable").expect("it is there").raft_id
    }

    #[test]
    fn a_peer_that_joined_listens_to_those_it_joined_with_until_its_state_names_itself() {
        let [first, late, own, thief] = [(); 4].map(|()| Identity::generate().peer_id());
        let whole = state(&[first, late, own]);
        let book = AddressBook::new(own);
        book.tell(
            raft_id(&whole, own),
            vec![(first, Vec::new()), (late, vec!["a:1".into()])],
        );
        let directory = Arc::new(PeerDirectory::new(own, Arc::new(NoLinks)));
        book.follow(directory.clone());
        // Nothing applied yet; then the beginning of the log, in which `late` has not joined.
        for kv in [MemoryKv::default(), state(&[first])] {
            directory.refresh(&kv).expect("readable");
            assert_eq!(book.membership(&first), Membership::Member);
            assert_eq!(book.membership(&late), Membership::Member);
            assert_eq!(book.membership(&thief), Membership::Stranger);
            assert_eq!(book.addresses(&late), ["a:1"]);
            let members: BTreeMap<_, _> = book.members().into_iter().map(|peer| (peer, ())).collect();
            assert_eq!(members, BTreeMap::from([(first, ()), (late, ())]));
        }
        // From its own admission on only the state counts.
        let mut without = state(&[first, own]);
        directory.refresh(&without).expect("readable");
        book.tell(raft_id(&without, own), vec![(first, Vec::new()), (late, Vec::new())]);
        assert_eq!(book.membership(&late), Membership::Stranger);
        let remove = CommandBatch {
            time: Timestamp::from_millis(1),
            requests: vec![Request {
                id: None,
                op: Op::RemovePeer { peer: first },
            }],
        };
        pinset::apply(&mut without, 99, &remove, &mut Effects::default()).expect("a store in memory");
        directory.refresh(&without).expect("readable");
        assert_eq!(book.membership(&first), Membership::Removed);
    }

    #[test]
    fn the_word_of_a_member_counts_for_strangers_and_never_for_the_removed() {
        let [first, own, new] = [(); 3].map(|()| Identity::generate().peer_id());
        let book = AddressBook::new(own);
        let directory = Arc::new(PeerDirectory::new(own, Arc::new(NoLinks)));
        book.follow(directory.clone());
        directory.refresh(&state(&[first, own])).expect("readable");
        assert_eq!(book.membership(&new), Membership::Stranger);
        book.vouch_for(new);
        assert_eq!(book.membership(&new), Membership::Member);
        let mut kv = state(&[first, own, new]);
        let remove = CommandBatch {
            time: Timestamp::from_millis(1),
            requests: vec![Request {
                id: None,
                op: Op::RemovePeer { peer: new },
            }],
        };
        pinset::apply(&mut kv, 99, &remove, &mut Effects::default()).expect("a store in memory");
        directory.refresh(&kv).expect("readable");
        assert_eq!(book.membership(&new), Membership::Removed);
    }
}
