//! Generated gRPC types of Pinfleet, its wire version and its descriptor set. Nothing clever lives here.
//!
//! The `.proto` files are the reference of the API; the docs here are theirs.

mod version;

pub use version::{WIRE_VERSION, WIRE_VERSION_OLDEST};

/// Descriptors of all services.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Descriptors of what clients may call: without the services that peers have for each other.
pub const PUBLIC_FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));

/// The public API: for `cluster-ctl` and for storage services.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("pinfleet.v1");
}

/// What peers say to each other. Not for clients.
pub mod peer {
    /// Version 1 of the peer protocol.
    #[allow(clippy::all, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("pinfleet.peer.v1");
    }
}
