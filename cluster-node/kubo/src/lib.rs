//! Storage nodes that are Kubo daemons: [`KuboClient`] asks over Kubo's RPC what is asked of any node, and sorts what the
//! daemon answers.

mod address;
mod answer;
mod client;
mod content;
mod credentials;
mod judge;
mod passage;

pub use address::{Address, AddressError, masked};
pub use client::{CallObserver, KuboClient, KuboOptions, Silent};
pub use credentials::{Credentials, CredentialsError, Shown};
pub use passage::{PassError, PassedBody};
