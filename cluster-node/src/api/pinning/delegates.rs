//! Where clients find the nodes that fetch: they connect there, so that content goes straight from one to the other.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use multiaddr::{Multiaddr, Protocol};
use node_core::NodeId;

use crate::service::IpfsSeen;

/// Addresses of one pin.
const DELEGATES_MAX: usize = 20;

/// The addresses of all nodes, sorted by who can reach them, for one answer.
#[derive(Debug, Default)]
pub struct Reach {
    nodes: BTreeMap<NodeId, Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    public: Vec<String>,
    others: Vec<String>,
}

impl Reach {
    /// What the nodes told.
    pub fn of(seen: &Arc<IpfsSeen>) -> Self {
        let sorted = seen.iter().map(|(node, seen)| {
            let mut addresses = Addresses::default();
            for address in &seen.addresses {
                match is_public(address) {
                    true => addresses.public.push(address.clone()),
                    false => addresses.others.push(address.clone()),
                }
            }
            (*node, addresses)
        });
        Self {
            nodes: sorted.collect(),
        }
    }

    /// The addresses of these nodes that anybody can reach. Where none of them has one, those that some can; where they are
    /// not known, or none is chosen yet, those of all nodes: whichever fetches can have it from another.
    pub fn delegates(&self, nodes: &[NodeId]) -> Vec<String> {
        let chosen: Vec<&Addresses> = nodes.iter().filter_map(|node| self.nodes.get(node)).collect();
        let found = best_of(&chosen);
        match found.is_empty() {
            true => best_of(&self.nodes.values().collect::<Vec<_>>()),
            false => found,
        }
    }
}

fn best_of(nodes: &[&Addresses]) -> Vec<String> {
    let public = spread(nodes, |addresses| &addresses.public);
    match public.is_empty() {
        true => spread(nodes, |addresses| &addresses.others),
        false => public,
    }
}

/// The first of each node, then the second of each, and so on: one with many addresses leaves room for the others.
fn spread(nodes: &[&Addresses], of: impl Fn(&Addresses) -> &Vec<String>) -> Vec<String> {
    let longest = nodes.iter().map(|node| of(node).len()).max().unwrap_or_default();
    let mut found: Vec<&String> = Vec::new();
    for at in 0..longest {
        for address in nodes.iter().filter_map(|node| of(node).get(at)) {
            if found.len() < DELEGATES_MAX && !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found.into_iter().cloned().collect()
}

/// Whether an address can be reached from anywhere, as far as it tells. One through a relay can.
fn is_public(address: &str) -> bool {
    let Ok(parsed) = address.parse::<Multiaddr>() else {
        return false;
    };
    match parsed.iter().next() {
        Some(Protocol::Ip4(ip)) => is_public_v4(ip),
        Some(Protocol::Ip6(ip)) => is_public_v6(ip),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name)) => {
            // What has no dot is a name of a local network.
            name.contains('.') && !name.ends_with(".local") && !name.ends_with(".internal")
        }
        _ => false,
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || shared)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(ip) = ip.to_ipv4_mapped() {
        return is_public_v4(ip);
    }
    !(ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unique_local()
        || ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::IpfsNodeSeen;

    const ID: &str = "12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr";

    fn reach(nodes: &[(u32, &[&str])]) -> Reach {
        let seen = nodes.iter().map(|(node, addresses)| {
            let seen = IpfsNodeSeen {
                id: ID.to_owned(),
                addresses: addresses.iter().map(|address| format!("{address}/p2p/{ID}")).collect(),
            };
            (NodeId(*node), seen)
        });
        Reach::of(&Arc::new(seen.collect()))
    }

    fn delegates(reach: &Reach, nodes: &[u32]) -> Vec<String> {
        let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        let suffix = format!("/p2p/{ID}");
        let bare = |address: &String| address.trim_end_matches(&suffix).to_owned();
        reach.delegates(&nodes).iter().map(bare).collect()
    }

    #[test]
    fn public_addresses_of_the_chosen_come_alone() {
        let reach = reach(&[
            (
                1,
                &[
                    "/ip4/10.0.0.1/tcp/4001",
                    "/ip4/198.51.100.7/tcp/4001",
                    "/dns4/a.example.org/tcp/1",
                ],
            ),
            (2, &["/ip4/127.0.0.1/tcp/4001", "/ip6/2001:db8::1/udp/4001/quic-v1"]),
            (
                3,
                &[
                    "/ip4/192.168.1.1/tcp/4001",
                    "/ip6/fe80::1/tcp/1",
                    "/dns4/localhost/tcp/1",
                ],
            ),
        ]);
        assert_eq!(
            delegates(&reach, &[1, 2]),
            [
                "/ip4/198.51.100.7/tcp/4001",
                "/ip6/2001:db8::1/udp/4001/quic-v1",
                "/dns4/a.example.org/tcp/1"
            ]
        );
        // Nothing else is there.
        assert_eq!(delegates(&reach, &[3]).len(), 3);
        // None is chosen yet, or known.
        assert_eq!(delegates(&reach, &[]).len(), 3);
        assert_eq!(delegates(&reach, &[9]), delegates(&reach, &[]));
        assert!(delegates(&super::Reach::default(), &[1]).is_empty());
    }

    #[test]
    fn they_are_bounded_and_distinct() {
        let many: Vec<String> = (1..40).map(|port| format!("/ip4/198.51.100.7/tcp/{port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let reach = reach(&[
            (1, &many),
            (2, &["/ip4/198.51.100.8/tcp/1"]),
            (3, &["/ip4/198.51.100.8/tcp/1"]),
        ]);
        let found = delegates(&reach, &[1, 2, 3]);
        assert_eq!(found.len(), DELEGATES_MAX);
        assert_eq!(found[1], "/ip4/198.51.100.8/tcp/1", "each node comes in");
        assert_ne!(found[2], found[1]);
    }
}
