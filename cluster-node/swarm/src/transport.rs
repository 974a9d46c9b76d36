//! How bytes get to other peers.
//!
//! | what | how |
//! |---|---|
//! | TCP | Noise for secrecy, Yamux for streams, no Nagle delay |
//! | QUIC v1 | its own TLS 1.3 and streams |
//! | private network | TCP only: XSalsa20 with the swarm key below Noise |
//! | relayed | as TCP, within a stream of a relay |
//!
//! **Windows.** A Yamux stream starts with a window of 256 KiB, which grows to twice the product of bandwidth and delay as
//! long as it is read that fast; so a stream that is not read costs 256 KiB, and a connection at most that for each of its
//! [`STREAMS_MAX`] streams. A QUIC stream has [`QUIC_STREAM_WINDOW`], a connection [`QUIC_CONNECTION_WINDOW`], both from
//! the start. 16 MiB fill 1 Gbit/s over 130 ms, like the fetch window of Bitswap.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{PeerId, dns, noise, quic, relay, tcp, yamux};

use crate::config::{Dns, SwarmConfig, SwarmKey};
use crate::error::StartError;

/// Streams of a Yamux or QUIC connection. Kubo opens one for each message that it answers with, and closes it at once.
/// A peer that opens more loses the connection (Yamux) or has to wait (QUIC).
const STREAMS_MAX: usize = 256;

/// What a peer may send in one QUIC stream before it is read, in bytes.
const QUIC_STREAM_WINDOW: u32 = 8 << 20;

/// What a peer may send in all streams of a QUIC connection before it is read, in bytes.
const QUIC_CONNECTION_WINDOW: u32 = 16 << 20;

/// A handshake that takes longer is given up, so that nobody holds its place with nothing.
const HANDSHAKE: Duration = Duration::from_secs(15);

type Output = (PeerId, StreamMuxerBox);

/// All transports, and the behaviour that belongs to the relayed one.
pub(crate) fn build(
    config: &SwarmConfig,
    key: &Keypair,
) -> Result<(Boxed<Output>, relay::client::Behaviour), StartError> {
    let (relayed, behaviour) = relay::client::new(key.public().to_peer_id());
    let swarm_key = config.swarm_key.as_ref();
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let mut direct = secured(tcp, key, swarm_key)?;
    // QUIC has no place for a swarm key.
    if swarm_key.is_none() {
        let mut options = quic::Config::new(key);
        options.handshake_timeout = HANDSHAKE;
        options.max_concurrent_stream_limit = STREAMS_MAX as u32;
        options.max_stream_data = QUIC_STREAM_WINDOW;
        options.max_connection_data = QUIC_CONNECTION_WINDOW;
        let quic = quic::tokio::Transport::new(options).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        direct = direct.or_transport(quic).map(|either, _| either.into_inner()).boxed();
    }
    let named = match &config.dns {
        Dns::Off => direct,
        Dns::System => dns::tokio::Transport::system(direct)
            .map_err(|e| StartError::Dns(e.to_string()))?
            .boxed(),
        Dns::Servers(servers) => {
            let servers = servers.iter().map(name_server).collect();
            let resolvers = dns::ResolverConfig::from_parts(None, Vec::new(), servers);
            dns::tokio::Transport::custom(direct, resolvers, dns::ResolverOpts::default()).boxed()
        }
    };
    let all = secured(relayed, key, swarm_key)?
        .or_transport(named)
        .map(|either, _| either.into_inner())
        .boxed();
    Ok((all, behaviour))
}

/// A transport of bare bytes, with secrecy and streams on top.
fn secured<T>(transport: T, key: &Keypair, swarm_key: Option<&SwarmKey>) -> Result<Boxed<Output>, StartError>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
{
    let noise = noise::Config::new(key).map_err(|e| StartError::Transport {
        transport: "Noise",
        reason: e.to_string(),
    })?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_MAX);
    Ok(match swarm_key {
        None => transport
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(yamux)
            .timeout(HANDSHAKE)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed(),
        Some(SwarmKey(bytes)) => {
            let private = PnetConfig::new(PreSharedKey::new(*bytes));
            transport
                .and_then(move |socket, _| private.handshake(socket))
                .upgrade(Version::V1Lazy)
                .authenticate(noise)
                .multiplex(yamux)
                .timeout(HANDSHAKE)
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                .boxed()
        }
    })
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
