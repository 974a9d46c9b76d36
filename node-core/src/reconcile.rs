//! What is wanted of a node for one CID. What is seen lies in the ledger; comparing the two gives the work.

use crate::{Cid, PinMode};

/// How a node shall hold a CID: the part of its placement that matters to the one who brings it about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How much of the graph.
    pub mode: PinMode,
    /// Multiaddrs of IPFS nodes that have the content.
    pub origins: Vec<String>,
    /// A CID that the node may hold already and that shares blocks with this one.
    pub updated_from: Option<Cid>,
    /// The revision of the pinset at which the placement last changed.
    pub revision: u64,
}
