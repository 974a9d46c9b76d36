//! The replicated state: its tables, and the one function that changes them.
//!
//! [`apply`] is deterministic: the same batches in the same order give the same rows on every peer. It reads no clock
//! and makes no choice; the leader put time and plans into the batch, and applying checks that they still fit.

mod apply;
mod codec;
mod command_codec;
mod credentials;
mod demand;
mod invariants;
pub mod keys;
mod members;
mod memory;
mod placing;
mod read;
mod records;
mod requests;
mod view;

pub use apply::{CHANGES_KEPT, EXPIRE_LIMIT_MAX, Effects, apply};
pub use codec::{decode_change, decode_node, decode_peer, decode_pin, decode_pin_name, decode_placement};
pub use command_codec::{decode_requests, decode_results, encode_requests, encode_results};
pub use credentials::{credential, credential_named, credentials};
pub use demand::{Demand, PINS_PER_CID_MAX, Step, demand};
pub use invariants::check_invariants;
pub use members::{FIRST_RAFT_ID, NODES_MAX, PEERS_MAX, TOKENS_MAX, check_admission};
pub use memory::MemoryKv;
pub use read::{
    changes_after, find_node, header, is_wanted, kept, next_expiry, node, nodes, nodes_of_peer, peer, peers, pin,
    pin_under, pins_of, placement,
};
pub use records::{Change, ChangeKind, Header, Settings, Unsettled};
pub use requests::{REQUESTS_KEPT_FOR, REQUESTS_KEPT_MAX};
pub use view::{KvError, KvRead, KvWalk, KvWrite, Table, Visit};
