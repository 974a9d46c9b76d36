//! Who a peer is, and how peers prove it to each other.
//!
//! A peer is its Ed25519 key. Peers talk TLS 1.3, each presenting a self-signed certificate of that key; the handshake
//! proves that it has the key, and the key is the peer ID. There is no authority and no name to check: whether a proven
//! peer may say anything is decided by the list of members, request by request ([`MemberGuard`]).
//!
//! ```text
//!  connect ──► TLS 1.3, both sides prove their key ──► PeerAcceptor ──► MemberGuard ──► service
//!              the caller: is it the peer I wanted?                     member? removed? stranger?
//! ```
//!
//! A stranger reaches one method, `Join`, and that wants a [`JoinToken`]. Who is a stranger only because this peer was
//! away is found out by asking the members that it knows ([`Vouchers`]).
//!
//! What clients show instead is here too: tokens ([`ApiToken`]), passwords, and signed web tokens ([`WebToken`]).

mod accept;
mod api_token;
mod certificate;
mod connect;
mod guard;
mod identity;
mod join_token;
mod log_limit;
mod password;
pub mod secret_file;
mod tls;
mod web_token;

pub use accept::{AcceptorOptions, PeerAcceptor, PeerConnection, PeerStream};
pub use api_token::{ApiToken, ApiTokenError};
pub use certificate::CertificateError;
pub use connect::{Addresses, ConnectError, ConnectorOptions, PeerConnector, Purpose};
pub use guard::{MemberGuard, MemberGuardLayer, Members, Membership, PeerIdentity, Vouchers};
pub use identity::{Identity, IdentityError};
pub use join_token::{JoinToken, JoinTokenError, PeerAddress, TokenSecret};
pub use log_limit::LogLimit;
pub use password::{HASH_KIB, PASSWORD_BYTES_MAX, generate_password, hash_password, verify_password};
pub use tls::{PeerTls, install_default_provider};
pub use web_token::{Claims, WebToken, sign};
