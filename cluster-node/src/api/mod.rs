//! The APIs: thin handlers that convert and call the service. Nothing is decided here.

mod access;
mod adding;
mod caller;
mod cluster;
mod content;
mod convert;
mod details;
mod error;
mod failure;
mod guard;
mod peer;
pub mod pinning;
mod pins;
pub mod proxy;
pub mod rest;
mod routing;

pub use access::AccessApi;
pub use caller::CallerLayer;
pub use cluster::ClusterApi;
pub use content::ContentApi;
pub use details::ErrorDetailsLayer;
pub use error::{code_of, status};
pub use peer::PeerApi;
pub use pins::PinsApi;
