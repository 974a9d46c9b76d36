//! `[embedded]`: the IPFS node inside this peer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use multiaddr::{Multiaddr, Protocol};
use serde::Deserialize;

use super::error::Problems;
use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of the section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    /// Where other nodes connect.
    pub listen: Vec<Multiaddr>,
    /// What other nodes are told besides.
    pub announce_addresses: Vec<Multiaddr>,
    /// First peers of the DHT.
    pub bootstrap: Vec<Multiaddr>,
    /// Part in the DHT.
    pub dht: Dht,
    /// Key of a private network; empty = the public one.
    pub swarm_key_file: PathBuf,
    /// Connections at most.
    pub connections_max: u32,
    /// Trustless gateways to fetch from.
    pub gateways: Vec<String>,
    /// Delegated routers to find providers by.
    pub routers: Vec<String>,
    /// Blocks of one pin that are asked for at the same time.
    pub blocks_in_flight: u32,
    /// How long content that nobody has is looked for in one try.
    #[serde(deserialize_with = "values::duration")]
    pub not_found_after: Duration,
    /// Bytes served per second; 0 = no limit.
    #[serde(deserialize_with = "values::bytes")]
    pub serve_bytes_per_second: u64,
    /// CIDs that are served to nobody; empty = none.
    pub deny_file: PathBuf,
    /// Bytes of blocks at most; 0 = what the file system has.
    #[serde(deserialize_with = "values::bytes")]
    pub storage_max: u64,
    /// Share of it at which garbage is collected.
    pub collect_percent: u8,
    /// Share of it at which nothing more is taken.
    pub stop_percent: u8,
    /// Bytes of the file system that stay free.
    #[serde(deserialize_with = "values::bytes")]
    pub free_min: u64,
    /// Bytes of writes of the block store in memory.
    #[serde(deserialize_with = "values::bytes")]
    pub store_memory: u64,
    /// Bytes of the block store's cache.
    #[serde(deserialize_with = "values::bytes")]
    pub block_cache: u64,
    /// Resting bytes that are hashed anew per second; 0 = none.
    #[serde(deserialize_with = "values::bytes")]
    pub scrub_bytes_per_second: u64,
    /// What the DHT is told of.
    pub announce: Announce,
    /// How often.
    #[serde(deserialize_with = "values::duration")]
    pub announce_interval: Duration,
    /// Where the trustless gateway listens; empty = nowhere.
    #[serde(deserialize_with = "listen")]
    pub gateway_listen: Option<SocketAddr>,
    /// Where the part of Kubo's RPC listens; empty = nowhere.
    #[serde(deserialize_with = "listen")]
    pub rpc_listen: Option<SocketAddr>,
    /// Credentials that the RPC asks for; empty = none.
    pub rpc_auth_file: PathBuf,
}

/// Part of the node in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dht {
    /// A server when it can be reached, else a client.
    Auto,
    /// Answers others.
    Server,
    /// Only asks.
    Client,
    /// The DHT of the local network.
    Lan,
    /// None.
    Off,
}

/// What is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// Roots of pins.
    Roots,
    /// Every block.
    All,
    /// Nothing.
    None,
}

fn listen<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn listen_or_none(text: &str) -> Result<(), String> {
    if text.is_empty() || text.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    Err("empty, or an IP address and a port, such as \"127.0.0.1:8080\" (port 0 takes a free one)".to_owned())
}

fn listen_multiaddr(text: &str) -> Result<(), String> {
    let allowed = "a list of multiaddrs to listen at, such as [\"/ip4/0.0.0.0/tcp/4001\", \
                   \"/ip4/0.0.0.0/udp/4001/quic-v1\"]";
    let address: Multiaddr = text.parse().map_err(|_| allowed.to_owned())?;
    let parts: Vec<_> = address.iter().collect();
    match parts.as_slice() {
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_)]
        | [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1] => Ok(()),
        _ => Err(allowed.to_owned()),
    }
}

fn peer_multiaddr(text: &str) -> Result<(), String> {
    let named = text
        .parse::<Multiaddr>()
        .is_ok_and(|address| matches!(address.iter().last(), Some(Protocol::P2p(_))));
    if named {
        return Ok(());
    }
    Err("a list of multiaddrs that end in the peer's ID, such as [\"/ip4/10.0.0.1/tcp/4001/p2p/12D3KooW…\"]".to_owned())
}

fn any_multiaddr(text: &str) -> Result<(), String> {
    let parsed = text.parse::<Multiaddr>();
    parsed
        .map(drop)
        .map_err(|_| "a list of multiaddrs, such as [\"/ip4/203.0.113.7/tcp/4001\"]".to_owned())
}

fn base_url(text: &str) -> Result<(), String> {
    let allowed = || "a list of addresses, such as [\"https://gateway.example\"]".to_owned();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.starts_with('/') && !text.contains([' ', '?', '#']) => Ok(()),
        _ => Err(allowed()),
    }
}

const MIB: u64 = 1 << 20;
const PIB: u64 = 1 << 50;
const HOUR_MS: u64 = 3_600_000;

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "embedded",
    repeated: false,
    doc: "The IPFS node inside this peer. It runs when there is a [[node]] section of the kind \"embedded\".",
    options: &[
        OptionSpec {
            key: "listen",
            kind: Kind::CheckedList(listen_multiaddr),
            default: Some(
                r#"["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1"]"#,
            ),
            doc: "Where other IPFS nodes connect: TCP and QUIC. Empty: it only calls others.",
        },
        OptionSpec {
            key: "announce_addresses",
            kind: Kind::CheckedList(any_multiaddr),
            default: Some("[]"),
            doc: "Addresses at which others reach it besides, such as that of a forwarded port.",
        },
        OptionSpec {
            key: "bootstrap",
            kind: Kind::CheckedList(peer_multiaddr),
            default: Some(
                r#"["/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN", "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa", "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb", "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt"]"#,
            ),
            doc: "Peers by which it finds into the network. Empty: it knows only the other nodes of the cluster, the \
                  origins of pins, and who calls it.",
        },
        OptionSpec {
            key: "dht",
            kind: Kind::Choice(&["auto", "server", "client", "lan", "off"]),
            default: Some(r#""auto""#),
            doc: "Its part in the DHT, by which content is found. auto: it answers others once it is known to be \
                  reachable. lan: the DHT of the local network only.",
        },
        OptionSpec {
            key: "swarm_key_file",
            kind: Kind::Text,
            default: Some(r#""""#),
            doc: "Key of a private network, as Kubo's swarm.key: it then talks to nodes with this key only, over TCP. \
                  Empty: the public network.",
        },
        OptionSpec {
            key: "connections_max",
            kind: Kind::Int(8, 100_000),
            default: Some("512"),
            doc: "Most connections with other nodes.",
        },
        OptionSpec {
            key: "gateways",
            kind: Kind::CheckedList(base_url),
            default: Some("[]"),
            doc: "Trustless gateways that are asked for what peers don't bring at once. Every block is checked against \
                  its hash. They learn what is looked for.",
        },
        OptionSpec {
            key: "routers",
            kind: Kind::CheckedList(base_url),
            default: Some("[]"),
            doc: "Delegated routers (/routing/v1) that are asked who has something. They learn what is looked for.",
        },
        OptionSpec {
            key: "blocks_in_flight",
            kind: Kind::Int(1, 256),
            default: Some("64"),
            doc: "Blocks of one pin that are asked for at the same time.",
        },
        OptionSpec {
            key: "not_found_after",
            kind: Kind::Duration(100, 24 * HOUR_MS),
            default: Some(r#""30s""#),
            doc: "How long a try goes on when nobody is left who could have a block. Further tries follow as [worker] says.",
        },
        OptionSpec {
            key: "serve_bytes_per_second",
            kind: Kind::Size(0, PIB),
            default: Some(r#""0B""#),
            doc: "Bytes of blocks that are served to all others together. 0: no limit.",
        },
        OptionSpec {
            key: "deny_file",
            kind: Kind::Text,
            default: Some(r#""""#),
            doc: "File with CIDs, one a line, that are served to nobody, whatever the node holds. Read at the start. \
                  Empty: none.",
        },
        OptionSpec {
            key: "storage_max",
            kind: Kind::Size(0, PIB),
            default: Some(r#""0B""#),
            doc: "Bytes that the blocks may take; what is left of it counts for placement. 0: what the file system has.",
        },
        OptionSpec {
            key: "collect_percent",
            kind: Kind::Int(1, 100),
            default: Some("90"),
            doc: "Share of `storage_max` from which on garbage is collected.",
        },
        OptionSpec {
            key: "stop_percent",
            kind: Kind::Int(1, 100),
            default: Some("97"),
            doc: "Share of `storage_max` from which on nothing more is taken.",
        },
        OptionSpec {
            key: "free_min",
            kind: Kind::Size(0, PIB),
            default: Some(r#""1GiB""#),
            doc: "Bytes of the file system that stay free: below, nothing more is taken.",
        },
        OptionSpec {
            key: "store_memory",
            kind: Kind::Size(12 * MIB, 64 * 1024 * MIB),
            default: Some(r#""96MiB""#),
            doc: "Write buffers of the blocks, all tables together. While content comes in they are full. A third of it is \
                  how large a file of blocks gets at most, and each file takes some hundred bytes of memory: raise it to \
                  1GiB where a node holds more than 10 TB. A start after a crash reads as much again from disk.",
        },
        OptionSpec {
            key: "block_cache",
            kind: Kind::Size(4 * MIB, 1024 * 1024 * MIB),
            default: Some(r#""32MiB""#),
            doc: "Cache of indexes, filters and small blocks. Larger blocks are left to the cache of the system.",
        },
        OptionSpec {
            key: "scrub_bytes_per_second",
            kind: Kind::Size(0, 1024 * 1024 * MIB),
            default: Some(r#""1MiB""#),
            doc: "Bytes of resting blocks that are read and hashed anew per second. What is damaged is fetched again. \
                  0: none.",
        },
        OptionSpec {
            key: "announce",
            kind: Kind::Choice(&["roots", "all", "none"]),
            default: Some(r#""roots""#),
            doc: "What the DHT is told of: the roots of pins, every block, or nothing.",
        },
        OptionSpec {
            key: "announce_interval",
            kind: Kind::Duration(60_000, 48 * HOUR_MS),
            default: Some(r#""22h""#),
            doc: "How often each is told anew; they are spread over that time. The DHT forgets after 48h.",
        },
        OptionSpec {
            key: "gateway_listen",
            kind: Kind::Checked(listen_or_none),
            default: Some(r#""""#),
            doc: "Where a trustless gateway serves over HTTP what the node holds, such as \"127.0.0.1:8080\". Empty: \
                  nowhere.",
        },
        OptionSpec {
            key: "rpc_listen",
            kind: Kind::Checked(listen_or_none),
            default: Some(r#""""#),
            doc: "Where the part of Kubo's RPC is served by which another cluster drives this node. Whoever reaches it \
                  may pin and unpin. Empty: nowhere.",
        },
        OptionSpec {
            key: "rpc_auth_file",
            kind: Kind::Text,
            default: Some(r#""""#),
            doc: "File with the credentials that the RPC asks for, `bearer:TOKEN` or `basic:USER:PASSWORD`, readable by \
                  its owner only. Empty: none.",
        },
    ],
};

impl Embedded {
    pub(super) fn check(&self, problems: &mut Problems<'_>) {
        if self.stop_percent < self.collect_percent {
            problems.add(
                "embedded.stop_percent",
                "at least `embedded.collect_percent`, or intake stops before any garbage is collected",
            );
        }
    }
}
