//! How the node is reached from outside, and by relays where it is not.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::core::transport::ListenerId;
use multiaddr::{Multiaddr, Protocol};

use super::Host;
use super::dial::peer_of;
use crate::bitswap::is_relayed;
use crate::report::NatStatus;

/// Failed tests after which the node takes itself to be unreachable. One may fail by the tester's own fault.
const FAILURES_MIN: u32 = 3;

/// Relays that are used at a time, when they are not configured. One may go away.
const RELAYS_MAX: usize = 2;

/// How long to wait before a relay that ended a reservation is asked again.
const AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Reach {
    failures: u32,
    relays: HashMap<ListenerId, PeerId>,
    asked: HashMap<PeerId, Instant>,
}

impl Reach {
    pub(super) fn tested(&mut self, reached: bool) {
        self.failures = if reached { 0 } else { self.failures.saturating_add(1) };
    }

    pub(super) fn listener_closed(&mut self, listener: ListenerId) {
        self.relays.remove(&listener);
    }
}

impl Host {
    pub(super) fn nat(&self) -> NatStatus {
        if self.swarm.external_addresses().any(|address| !is_relayed(address)) {
            NatStatus::Public
        } else if self.reach.failures >= FAILURES_MIN {
            NatStatus::Private
        } else {
            NatStatus::Unknown
        }
    }

    /// Asks relays for a place where it has none.
    pub(super) fn seek_relays(&mut self, now: Instant) {
        self.reach
            .asked
            .retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        let mut wanted: Vec<(PeerId, Multiaddr)> = Vec::new();
        if !self.config.relays.is_empty() {
            wanted.extend(
                self.config
                    .relays
                    .iter()
                    .filter_map(|address| Some((peer_of(address)?, address.clone()))),
            );
        } else if self.nat() == NatStatus::Private && self.reach.relays.len() < RELAYS_MAX {
            let free = RELAYS_MAX - self.reach.relays.len();
            let relays = self.peers.iter().filter(|(_, peer)| peer.relays);
            let direct = relays.filter_map(|(id, peer)| {
                let address = peer.connections.values().find(|address| !is_relayed(address))?;
                Some((*id, address.clone()))
            });
            let fresh = direct.filter(|(id, _)| !self.reach.asked.contains_key(id));
            wanted.extend(fresh.take(free));
        }
        for (relay, mut address) in wanted {
            let has = self.reach.relays.values().any(|other| *other == relay);
            if has || self.reach.asked.contains_key(&relay) {
                continue;
            }
            self.reach.asked.insert(relay, now);
            if peer_of(&address).is_none() {
                address.push(Protocol::P2p(relay));
            }
            address.push(Protocol::P2pCircuit);
            match self.swarm.listen_on(address) {
                Ok(listener) => {
                    self.reach.relays.insert(listener, relay);
                }
                Err(error) => tracing::debug!(%relay, %error, "not usable as a relay"),
            }
        }
    }
}

/// Whether an address is one of the public internet, or a name.
pub(super) fn is_global(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => is_global_v4(ip),
        Some(Protocol::Ip6(ip)) => is_global_v6(ip),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => true,
        _ => false,
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = a == 192 && b == 0 && c == 0;
    let benchmark = a == 198 && (b == 18 || b == 19);
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || shared
        || protocol
        || benchmark)
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    if let Some(ip) = ip.to_ipv4_mapped() {
        return is_global_v4(ip);
    }
    let [first, second, ..] = ip.segments();
    let documentation = first == 0x2001 && second == 0xdb8;
    // All that is given out lies in 2000::/3.
    first & 0xe000 == 0x2000 && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_internet_are_told_from_others() {
        let is = |text: &str| is_global(&text.parse().expect(text));
        for global in [
            "/ip4/8.8.8.8/tcp/4001",
            "/ip4/100.63.0.1/tcp/1",
            "/ip4/172.15.0.1/tcp/1",
            "/ip6/2a00:1450::1/udp/4001/quic-v1",
            "/dnsaddr/bootstrap.libp2p.io",
            "/dns4/example.com/tcp/4001",
        ] {
            assert!(is(global), "{global}");
        }
        for local in [
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip4/172.16.0.1/tcp/1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/169.254.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/198.18.0.1/tcp/1",
            "/ip4/255.255.255.255/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/memory/1",
        ] {
            assert!(!is(local), "{local}");
        }
    }
}
