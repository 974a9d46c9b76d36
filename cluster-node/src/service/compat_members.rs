//! Members, as the HTTP APIs of IPFS Cluster know them.
//!
//! There a cluster peer drives one IPFS daemon, and replicas are counted by peer. A peer of Pinfleet drives several storage
//! nodes, and replicas are counted by node. So over those APIs every storage node that is not gone is a member of its own:
//!
//! | who | bears |
//! |---|---|
//! | the node of the lowest number that a peer ever had, gone ones counted | the peer's own ID |
//! | every other node | an ID made of the peer's and the node's number |
//! | a peer without nodes | its own ID; it drives nothing |
//!
//! Gone nodes count, so that an ID once given never moves to another node.

use std::collections::BTreeMap;
use std::sync::Arc;

use multihash_codetable::{Code, MultihashDigest as _};
use node_core::{NodeId, NodeState, Peer, PeerId, StorageNode};
use parking_lot::Mutex;

use super::{NodeNames, Pins};

/// What a made ID is a digest of, before the peer and the number of the node.
const MADE_OF: &[u8] = b"pinfleet/member";

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its ID.
    pub id: PeerId,
    /// The ID as text, since every answer shows it.
    pub text: String,
    /// Of the node; of a peer without nodes, the peer's.
    pub name: String,
    /// The peer that drives it.
    pub peer: PeerId,
    /// The storage node; none for a peer that drives none.
    pub node: Option<NodeId>,
}

/// All members at one moment, in the order of their IDs as text, which is the order of keys in a JSON object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    list: Vec<Member>,
    /// Also of nodes that are gone, with their text: in base58 it takes microseconds to make, and every pin of a list
    /// names some.
    ids: BTreeMap<NodeId, (PeerId, String)>,
    places: BTreeMap<NodeId, usize>,
}

/// The ID of a node that does not bear its peer's: of the form `Qm…`, since it is a digest and no key.
pub fn made_id(peer: PeerId, node: NodeId) -> PeerId {
    let mut bytes = MADE_OF.to_vec();
    bytes.extend_from_slice(&peer.to_bytes());
    bytes.extend_from_slice(&u64::from(node.0).to_be_bytes());
    let digest = Code::Sha2_256.digest(&bytes).to_bytes();
    PeerId::from_bytes(&digest).expect("a sha2-256 multihash is a peer ID")
}

impl Members {
    /// The members that these nodes (all there ever were) and these peers (those that are not removed) make.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a StorageNode>, peers: impl IntoIterator<Item = &'a Peer>) -> Self {
        let nodes: BTreeMap<NodeId, &StorageNode> = nodes.into_iter().map(|node| (node.id, node)).collect();
        let mut first: BTreeMap<PeerId, NodeId> = BTreeMap::new();
        let mut ids = BTreeMap::new();
        let mut list = Vec::new();
        // In order of their numbers, so the first of a peer is its lowest.
        for (number, node) in &nodes {
            let bears = *first.entry(node.peer).or_insert(*number) == *number;
            let id = if bears { node.peer } else { made_id(node.peer, *number) };
            let text = id.to_string();
            ids.insert(*number, (id, text.clone()));
            if node.state != NodeState::Gone {
                list.push(Member {
                    id,
                    text,
                    name: node.name.clone(),
                    peer: node.peer,
                    node: Some(*number),
                });
            }
        }
        for peer in peers {
            if !list.iter().any(|member| member.peer == peer.id) {
                list.push(Member {
                    id: peer.id,
                    text: peer.id.to_string(),
                    name: peer.name.clone(),
                    peer: peer.id,
                    node: None,
                });
            }
        }
        list.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        let places = list.iter().enumerate();
        let places = places
            .filter_map(|(place, member)| Some((member.node?, place)))
            .collect();
        Self { list, ids, places }
    }

    /// All, in the order of their IDs as text.
    pub fn iter(&self) -> std::slice::Iter<'_, Member> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none, which a running cluster never has.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The member at this place of the order.
    pub fn at(&self, place: usize) -> Option<&Member> {
        self.list.get(place)
    }

    /// The place of a node in the order; none for one that is gone.
    pub fn place(&self, node: NodeId) -> Option<usize> {
        self.places.get(&node).copied()
    }

    /// The member with this ID.
    pub fn find(&self, id: PeerId) -> Option<&Member> {
        self.list.iter().find(|member| member.id == id)
    }

    /// The member that a node is; none for one that is gone.
    pub fn of_node(&self, node: NodeId) -> Option<&Member> {
        self.at(self.place(node)?)
    }

    /// The ID of a node, also of one that is gone.
    pub fn id_of(&self, node: NodeId) -> Option<PeerId> {
        self.ids.get(&node).map(|(id, _)| *id)
    }

    /// The same as text.
    pub fn text_of(&self, node: NodeId) -> Option<&str> {
        self.ids.get(&node).map(|(_, text)| text.as_str())
    }

    /// The members that a peer drives.
    pub fn of_peer(&self, peer: PeerId) -> impl Iterator<Item = &Member> {
        self.list.iter().filter(move |member| member.peer == peer)
    }

    /// The member that stands for a peer as a whole: the one that bears its ID, or when that node is gone its next one.
    pub fn face_of(&self, peer: PeerId) -> Option<&Member> {
        let own = self.find(peer);
        own.or_else(|| self.of_peer(peer).min_by_key(|member| member.node))
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = &'a Member;
    type IntoIter = std::slice::Iter<'a, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The members as they were last worked out, and of what: every answer of the HTTP APIs shows them, and they change about
/// never.
#[derive(Default)]
pub(super) struct MemberCache(Mutex<Option<Cached>>);

/// Of what they were worked out, and what came of it.
type Cached = (NodeNames, Arc<BTreeMap<PeerId, Peer>>, Arc<Members>);

impl Pins {
    /// The members as the HTTP APIs of IPFS Cluster know them.
    pub fn members(&self) -> Arc<Members> {
        let (names, peers) = (self.names(), self.directory.all());
        let mut cached = self.members.0.lock();
        if let Some((of_names, of_peers, members)) = &*cached
            && of_names.is_same(&names)
            && Arc::ptr_eq(of_peers, &peers)
        {
            return members.clone();
        }
        let present = peers.values().filter(|peer| !peer.removed);
        let members = Arc::new(Members::of(names.ever(), present));
        *cached = Some((names, peers, members.clone()));
        members
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use libp2p_identity::Keypair;
    use node_core::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn peer_id(seed: u8) -> PeerId {
        let keys = Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes are a key");
        PeerId::from(keys.public().to_peer_id())
    }

    fn node(id: u32, peer: u8, state: NodeState) -> StorageNode {
        StorageNode {
            id: NodeId(id),
            name: format!("node-{id}"),
            peer: peer_id(peer),
            kind: "kubo".into(),
            api: String::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
            state,
            auth_file: String::new(),
        }
    }

    fn peer(seed: u8) -> Peer {
        Peer {
            id: peer_id(seed),
            raft_id: u64::from(seed) + 1,
            name: format!("peer-{seed}"),
            addresses: Vec::new(),
            api_address: String::new(),
            version: String::new(),
            joined: Timestamp::ZERO,
            removed: false,
        }
    }

    #[test]
    fn the_first_node_bears_the_peers_id_and_others_a_made_one() {
        let nodes = [
            node(3, 1, NodeState::Active),
            node(5, 1, NodeState::Draining),
            node(4, 2, NodeState::Active),
        ];
        let members = Members::of(&nodes, &[peer(1), peer(2), peer(3)]);
        assert_eq!(members.of_node(NodeId(3)).expect("present").id, peer_id(1));
        assert_eq!(members.of_node(NodeId(4)).expect("present").id, peer_id(2));
        let made = members.of_node(NodeId(5)).expect("present");
        assert!(made.text.starts_with("Qm") && made.name == "node-5", "{made:?}");
        assert_eq!(made.text.parse(), Ok(made.id), "it is a peer ID like others");
        let bare = members.find(peer_id(3)).expect("a peer without nodes is a member");
        assert_eq!((bare.node, bare.name.as_str()), (None, "peer-3"));
        assert_eq!(members.len(), 4);
    }

    #[test]
    fn a_made_id_never_changes() {
        // Clients keep IDs: another rule would break what they stored.
        assert_eq!(
            made_id(peer_id(1), NodeId(7)).to_string(),
            "Qment5vanwut2LGVSfREYg5LsFEXyXYsbqWnVDjKW2YeAu"
        );
    }

    #[test]
    fn when_the_first_is_gone_nobody_else_takes_its_id() {
        let nodes = [node(1, 1, NodeState::Gone), node(2, 1, NodeState::Active)];
        let members = Members::of(&nodes, &[peer(1)]);
        assert_eq!(members.id_of(NodeId(1)), Some(peer_id(1)));
        assert_eq!(members.find(peer_id(1)), None);
        assert_eq!(members.face_of(peer_id(1)).and_then(|face| face.node), Some(NodeId(2)));
        let alone = Members::of(&nodes[..1], &[peer(1)]);
        assert_eq!(alone.find(peer_id(1)).map(|member| member.node), Some(None));
    }

    fn fleets() -> impl Strategy<Value = Vec<(u8, bool)>> {
        proptest::collection::vec((0_u8..4, any::<bool>()), 0..24)
    }

    fn made(fleet: &[(u8, bool)]) -> Vec<StorageNode> {
        let node = |(at, (peer, gone)): (usize, &(u8, bool))| {
            let state = if *gone { NodeState::Gone } else { NodeState::Active };
            node(at as u32 + 1, *peer, state)
        };
        fleet.iter().enumerate().map(node).collect()
    }

    proptest! {
        #[test]
        fn ids_are_unique_ordered_and_found(fleet in fleets()) {
            let nodes = made(&fleet);
            let members = Members::of(&nodes, &[peer(0), peer(1), peer(2), peer(3)]);
            let ids: BTreeSet<_> = members.iter().map(|member| member.id).collect();
            prop_assert_eq!(ids.len(), members.len());
            prop_assert!(members.list.is_sorted_by(|a, b| a.text < b.text));
            for (place, member) in members.iter().enumerate() {
                prop_assert_eq!(members.find(member.id), Some(member));
                prop_assert_eq!(member.text.parse::<PeerId>(), Ok(member.id));
                if let Some(node) = member.node {
                    prop_assert_eq!(members.place(node), Some(place));
                    prop_assert_eq!(members.id_of(node), Some(member.id));
                }
            }
            // Every peer has a face, and every node that is there is a member.
            for seed in 0..4 {
                prop_assert!(members.face_of(peer_id(seed)).is_some());
            }
            let present = nodes.iter().filter(|node| node.state != NodeState::Gone);
            for node in present {
                prop_assert!(members.of_node(node.id).is_some());
            }
        }

        #[test]
        fn an_id_stays_whatever_comes_and_goes(fleet in fleets(), more in fleets(), gone in any::<u32>()) {
            let before = made(&fleet);
            let mut after = made(&[fleet.clone(), more].concat());
            for node in &mut after {
                if gone.rotate_left(node.id.0).is_multiple_of(2) {
                    node.state = NodeState::Gone;
                }
            }
            let (before, after) = (Members::of(&before, []), Members::of(&after, []));
            for (node, (id, _)) in &before.ids {
                prop_assert_eq!(after.id_of(*node), Some(*id));
            }
        }
    }
}
