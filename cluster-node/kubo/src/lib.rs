//! What Pinfleet asks of a storage node ([`IpfsNode`]), and the client that asks it of a Kubo daemon ([`KuboClient`]).
//!
//! Outcomes are sorted where they arise: a call ends well, or with an [`Error`] whose class says when it is worth another
//! try and whose message is what the daemon said.

mod address;
mod answer;
mod client;
mod credentials;
mod error;
mod judge;
mod node;

pub use address::{Address, AddressError, masked};
pub use client::{CallObserver, KuboClient, KuboOptions, Silent};
pub use credentials::{Credentials, CredentialsError};
pub use error::{Error, Operation};
pub use node::{
    Added, Connected, Held, Identity, IpfsNode, Listed, LookFor, PIN_NAME, Progress, ProgressSink, RepoStat, Updated,
    pin_name,
};
