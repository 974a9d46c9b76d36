//! What Pinfleet's HTTP servers share.

pub mod answer;
pub mod auth;
pub mod body;
mod cors;
mod failure;
mod limits;
pub mod multipart;
mod query;
mod server;
mod stream;
pub mod time;

pub use answer::{AsIs, empty, json};
pub use auth::{Authenticate, Denied, Open, Presented, Principal, Scope, Scopes};
pub use body::Whole;
pub use cors::Cors;
pub use failure::{ErrorForm, Failure};
pub use limits::{InvalidLimit, Limits};
pub use query::{Query, invalid};
pub use server::{Paths, ServerOptions, serve};
pub use stream::{STREAM_ERROR, ndjson};
