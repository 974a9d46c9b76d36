//! What Pinfleet decides: the model of the pinset, and pure functions over it.
//!
//! Nothing in this crate does anything. It has no clock, no randomness, no network and no disk; time and seeds come in
//! as arguments, storage comes in as the trait [`pinset::KvRead`]. So every decision can be tested by properties, and
//! every peer that applies the same log has the same state.
//!
//! The model on one page:
//!
//! - A **pin** is what a user asked for: a CID with options, in a namespace ([`Pin`]).
//! - A **placement** is what the cluster decided for a CID, for all pins of it together: which storage nodes shall hold
//!   it ([`Placement`]). It is *wanted*, and it is replicated.
//! - What a node really holds is *seen*. It is kept by the peer that drives the node, and never replicated.
//! - [`pinset::apply`] is the only way the wanted state changes; [`reconcile`] compares wanted and seen and says what
//!   to do; [`retry`] says when to do it again; [`allocate`] chooses the nodes.
//!
//! Invariants (checked by [`pinset::check_invariants`]):
//!
//! 1. Every pin is in exactly the indexes that its options ask for, and the indexes hold nothing else.
//! 2. A CID has one placement, exactly as long as a pin or what replaces one wants it, with the largest demand of these.
//! 3. What is held everywhere names no nodes; a node that is named finds the CID under its own ID.
//! 4. What does not fit its factors is listed, so that a loop finds it without a scan.
//! 5. The counters count.
//! 6. A name belongs to one storage node that is not gone; an ID belongs to one node for ever.
//! 7. The history of changes has no holes.
//! 8. A credential is found by its ID and by its name, and a name belongs to one.
//! 9. What was replaced is held until what replaces it is.

pub mod allocate;
mod cid;
pub mod command;
mod credential;
mod id;
mod member;
mod pin;
mod pinning;
pub mod pinset;
pub mod reconcile;
pub mod retry;
mod status;
mod time;

pub use cid::{CID_BYTES_MAX, Cid, CidError, DIGEST_BYTES_MAX};
pub use credential::{
    CREDENTIALS_MAX, Credential, CredentialId, SIGNING_KEY_BYTES, Scope, SecretHash, SigningKey, check_credential_name,
};
pub use id::{InvalidId, Namespace, NodeId, PeerId, PeerIdError, RequestId, check_name};
pub use member::{NodeState, Peer, StorageNode};
pub use pin::{
    EXPIRE_IN_MIN, Invalid, Pin, PinKey, PinMode, PinOptions, Placement, REPLICATION_MAX, Replication, check_slot,
    is_request_slot, limits,
};
pub use pinning::{PinningStatus, pinning_status};
pub use status::{ErrorClass, Status, fold};
pub use time::{Created, Timestamp};
