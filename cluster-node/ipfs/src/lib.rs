//! What Pinfleet asks of a storage node ([`IpfsNode`]), be it a Kubo daemon, an embedded node or a simulated one.
//!
//! Outcomes are sorted where they arise: a call ends well, or with an [`Error`] whose class says when it is worth another
//! try and whose message is what the node said.

mod error;
mod node;

pub use error::{Error, MESSAGE_BYTES_MAX, Operation, cut};
pub use node::{
    Added, Connected, Held, Identity, Intake, IpfsNode, KEPT_FOR, KEPT_FOR_PIN, Listed, LookFor, PIN_NAME, Progress,
    ProgressSink, RepoStat, Updated, pin_name,
};
