//! What a peer can be asked to do, once, for all APIs.
//!
//! ```text
//! api/grpc ─► service ─► proposer ─► consensus        writes, on the leader or handed to it
//!                 └────► state, ledger, other peers   reads
//! ```
//!
//! Handlers of an API convert and call; they decide nothing. Nobody here calls an API.

mod access;
mod chunks;
mod compat_members;
mod confine;
mod content;
mod error;
mod fleet;
mod gather;
mod health;
mod list;
mod loops;
mod member_views;
mod members;
mod names;
mod nodes;
mod operate;
mod peers;
mod pinning;
mod pins;
mod proposer;
mod reads;
mod recover;
mod release;
mod report;
mod settle;
mod shown;
mod status;
mod views;
mod walk;
mod wanted;
mod watch;

pub use access::{Access, CredentialWish, Gatekeeper, Grant, SecretWish, WEB_TOKEN_MAX};
pub use chunks::{AHEAD, ChunkSender, SEND_LIMIT, chunks_within};
pub use compat_members::{Member, Members};
pub use confine::OwnPins;
pub use content::{
    AddWish, Added, Adding, BLOCKS_ASKED_MAX, ClusterSource, Format, INGEST_BLOCKS_MAX, own_blocks, take_in,
};
pub use error::Error;
pub use fleet::{FleetView, Heard, HeardNode, SILENT_AFTER};
pub use gather::{ENTRIES_CHUNK, Gather, put_entry};
pub use list::{LIST_CHUNK, ListChunk, ListRequest, PinFilter};
pub use loops::{Fellows, LoopSettings, Loops, OnEnd};
pub use member_views::{IpfsNodeSeen, IpfsSeen, MemberView, ipfs_node};
pub use members::{ClusterView, JoinAnswer, NodeWish, PeerRole, PeerView, Problem, Severity, check_wire_version};
pub use names::NodeNames;
pub use nodes::{NodeFactory, NodeLimits, ObserverOf, OwnNode, is_embedded};
pub use operate::{NodeView, Operated};
pub use peers::{LinkPurpose, Links, PeerDirectory, PeerLink};
pub use pinning::{
    Match, NameFilter, PINNING_PAGE_MAX, PINNING_REQUESTS, PinningFilter, PinningPage, PinningView, PinningWish,
    RequestName, request_slot,
};
pub use pins::{Explanation, PinWish, Pins, UpdateWish};
pub use proposer::{Answer, Proposer, ProposerLimits};
pub use reads::{Reads, ServiceMetrics, Shared};
pub use recover::RecoverFilter;
pub use report::{put_item, read_item, read_report};
pub use shown::{ShowRequest, Shown, ShownChunk, allocated};
pub use status::{FIRST_PAGE, StatusAllRequest, StatusChunk, own_page};
pub use views::{NodeEntry, PinView, StatusView};
pub use wanted::StateWanted;
pub use watch::WatchChunk;

use std::time::Duration;

/// The longest that a call may wait; deadlines of clients are cut to it, so that no call outlives its purpose.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// What a call waits when its client named no deadline.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(20);

/// What a panic said, as far as that is text.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}
