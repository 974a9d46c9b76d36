//! What is heard of members, and where their IPFS nodes are reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiaddr::{Multiaddr, Protocol};
use node_core::{NodeId, PeerId};
use parking_lot::Mutex;

use super::compat_members::Member;
use super::report::{own_nodes, read_item};
use super::{HeardNode, Pins};

/// How long it is taken for granted who a node's daemon is. A daemon changes its identity about never, its addresses when
/// it is restarted; every answer about a pin shows both, and asking the leader for each would double its cost.
const SEEN_FOR: Duration = Duration::from_secs(10);

/// A member with what is heard of it.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// Who it is.
    pub member: Member,
    /// Multiaddrs of its peer, for other peers.
    pub addresses: Vec<String>,
    /// Whether its peer answers.
    pub reachable: bool,
    /// What was heard of its node, and how long ago; none before the node was first asked, and for one that drives none.
    pub heard: Option<(HeardNode, Duration)>,
}

/// An IPFS node as others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpfsNodeSeen {
    /// Its peer ID, which may be of any key type, so it stays a text; it reads as one.
    pub id: String,
    /// Multiaddrs, each with the ID at its end.
    pub addresses: Vec<String>,
}

/// The IPFS nodes behind storage nodes, as far as they were heard of.
pub type IpfsSeen = BTreeMap<NodeId, IpfsNodeSeen>;

/// The last look at the IPFS nodes.
#[derive(Default)]
pub(super) struct IpfsCache {
    seen: Mutex<Option<(Instant, Arc<IpfsSeen>)>>,
    /// Held by who looks anew.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl Pins {
    /// All members with what the leader has heard of them, in the order of their IDs as text; when it does not answer, with
    /// what this peer knows of its own.
    pub async fn member_views(&self) -> Vec<MemberView> {
        let members = self.members();
        let leader = self.consensus.leader().leader.map(|leader| leader.peer.peer_id);
        let (seen, _) = self.fleet_seen(leader).await;
        let view = |member: &Member| {
            let peer = seen.get(&member.peer);
            let heard = peer.zip(member.node).and_then(|(peer, node)| {
                let said = peer.nodes.iter().find(|said| said.node == node.0)?;
                Some((read_item(said), Duration::from_millis(peer.age_ms)))
            });
            MemberView {
                addresses: self.addresses_of(member.peer),
                reachable: peer.is_some_and(|peer| peer.reachable),
                heard,
                member: member.clone(),
            }
        };
        members.iter().map(view).collect()
    }

    /// The members of this peer alone. Waits for nobody.
    pub fn own_member_views(&self) -> Vec<MemberView> {
        let own = self.directory.own();
        let reports = own_nodes(&self.worker);
        let view = |member: &Member| MemberView {
            addresses: self.addresses_of(own),
            reachable: true,
            heard: member.node.and_then(|node| {
                let said = reports.iter().find(|said| said.node == node)?;
                Some((said.clone(), Duration::ZERO))
            }),
            member: member.clone(),
        };
        self.members().of_peer(own).map(view).collect()
    }

    /// Multiaddrs at which a peer is reached by others.
    pub fn addresses_of(&self, peer: PeerId) -> Vec<String> {
        let known = self.directory.get(peer);
        let addresses = known.map(|known| known.addresses).unwrap_or_default();
        let multiaddr = |address: &String| peer_multiaddr(address, peer);
        addresses.iter().filter_map(multiaddr).collect()
    }

    /// Who the daemons behind the storage nodes are, as of at most [`SEEN_FOR`] ago: what is older is shown once more while
    /// it is looked up anew.
    pub async fn ipfs_seen(self: &Arc<Self>) -> Arc<IpfsSeen> {
        let known = self.ipfs.seen.lock().clone();
        if let Some((at, seen)) = &known
            && at.elapsed() < SEEN_FOR
        {
            return seen.clone();
        }
        let looking = self.ipfs.looking.clone().try_lock_owned();
        match (looking, known) {
            (Ok(looking), Some((_, seen))) => {
                let pins = self.clone();
                tokio::spawn(async move {
                    pins.look_at_ipfs().await;
                    drop(looking);
                });
                seen
            }
            (Ok(_looking), None) => self.look_at_ipfs().await,
            (Err(_), known) => known.map(|(_, seen)| seen).unwrap_or_default(),
        }
    }

    async fn look_at_ipfs(&self) -> Arc<IpfsSeen> {
        let views = self.member_views().await;
        let seen = views.iter().filter_map(|view| {
            let (heard, _) = view.heard.as_ref()?;
            Some((view.member.node?, ipfs_node(heard)?))
        });
        let mut seen: IpfsSeen = seen.collect();
        // Of a daemon that is down, what was last heard stands.
        if let Some((_, before)) = &*self.ipfs.seen.lock() {
            for view in &views {
                if let Some(node) = view.member.node
                    && let Some(known) = before.get(&node)
                {
                    seen.entry(node).or_insert_with(|| known.clone());
                }
            }
        }
        let seen = Arc::new(seen);
        *self.ipfs.seen.lock() = Some((Instant::now(), seen.clone()));
        seen
    }
}

/// Who a node's daemon is, when it has said so.
pub fn ipfs_node(heard: &HeardNode) -> Option<IpfsNodeSeen> {
    let id: PeerId = heard.ipfs_peer_id.parse().ok()?;
    let addresses = heard.addresses.iter().filter_map(|address| with_id(address, id));
    Some(IpfsNodeSeen {
        id: id.to_string(),
        addresses: addresses.collect(),
    })
}

/// A multiaddr with the node's ID at its end; none for what is no multiaddr.
fn with_id(address: &str, id: PeerId) -> Option<String> {
    let parsed: Multiaddr = address.parse().ok()?;
    match parsed.iter().last() {
        Some(Protocol::P2p(_)) => Some(parsed.to_string()),
        _ => Some(format!("{parsed}/p2p/{id}")),
    }
}

/// `host:port` of a peer as a multiaddr.
fn peer_multiaddr(address: &str, peer: PeerId) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let kind = match bare.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => "ip4",
        Ok(std::net::IpAddr::V6(_)) => "ip6",
        Err(_) => "dns",
    };
    let made: Multiaddr = format!("/{kind}/{bare}/tcp/{port}").parse().ok()?;
    Some(format!("{made}/p2p/{peer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr";

    #[test]
    fn addresses_become_multiaddrs() {
        let peer: PeerId = ID.parse().expect("an ID");
        for (given, made) in [
            ("10.0.0.1:9096", format!("/ip4/10.0.0.1/tcp/9096/p2p/{ID}")),
            ("[::1]:9096", format!("/ip6/::1/tcp/9096/p2p/{ID}")),
            ("peer.example:1", format!("/dns/peer.example/tcp/1/p2p/{ID}")),
        ] {
            assert_eq!(peer_multiaddr(given, peer), Some(made));
        }
        assert_eq!(peer_multiaddr("no port", peer), None);
        assert_eq!(peer_multiaddr("a/b:1", peer), None);
    }

    #[test]
    fn an_ipfs_node_is_shown_when_it_can_be_read() {
        let mut heard = HeardNode {
            ipfs_peer_id: ID.into(),
            addresses: vec![
                "/ip4/1.2.3.4/tcp/4001".into(),
                "nonsense".into(),
                format!("/ip4/1.2.3.4/tcp/4001/p2p/{ID}"),
            ],
            ..HeardNode::default()
        };
        let seen = ipfs_node(&heard).expect("it has an ID");
        assert_eq!(seen.addresses.len(), 2);
        assert_eq!(seen.addresses[0], seen.addresses[1]);
        heard.ipfs_peer_id = String::new();
        assert_eq!(ipfs_node(&heard), None);
    }
}
