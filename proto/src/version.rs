//! Which versions of the peer protocol go together.

/// The version of the peer protocol that this build speaks.
pub const WIRE_VERSION: u32 = 1;

/// The oldest version that this build accepts from another peer.
pub const WIRE_VERSION_OLDEST: u32 = 1;
