//! The embedded node in the network: libp2p with Bitswap, DHT, relay and hole punching.
