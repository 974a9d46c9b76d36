//! What Pinfleet's HTTP servers share: the REST API, the Pinning Services API and the IPFS proxy write routes and handlers, and
//! everything else about HTTP is here. Nothing here knows a route.
//!
//! | module | what it does |
//! |---|---|
//! | [`serve`], [`serve_router`] | connections, TLS, limits, trailers, the way of a request through a server, the end |
//! | [`auth`] | credentials are read and shown to an [`Authenticate`]; who asks is a [`Principal`] with [`Scopes`]; how long they last says [`Lasting`] |
//! | [`Failure`] | an error as a handler gives it; each server writes it in its [`ErrorForm`] |
//! | [`json`], [`empty`], [`pieces`], [`ndjson`], [`ndjson_pieces`] | answers; the last two stream, with what went wrong at the end in a trailer |
//! | [`Query`], [`time`] | queries, times and durations as Go's clients write them |
//! | [`Whole`], [`multipart`] | bodies: small ones as a whole, large ones as they come |
//! | [`Cors`] | what pages of other origins may do |
//! | [`tls`] | certificates from files |
//!
//! # The way of a request
//!
//! Head within its bounds → log → `Host` → credentials → CORS → tidy path → room for one more request → router → form of errors
//! → configured headers. [`serve`] says more.
//!
//! # Bounds
//!
//! All of [`Limits`] are an operator's to change; the rest are constants beside what they bound.
//!
//! | what | bound | what a client gets beyond it |
//! |---|---|---|
//! | connections, idle ones too | `connections_max`, 4,096 | the one idle longest is closed for it; if none is, 503 |
//! | connections that are told 503 | 64 | waits in the system's queue |
//! | requests at the same time (health excepted) | `requests_max`, 1,024 | 503 with `Retry-After` |
//! | request line and headers | `head_bytes_max`, 80 KiB | 431 |
//! | number of headers | 100, hyper's own | 431 without a body |
//! | path and query | `target_bytes_max`, 65,534 | 414 |
//! | TLS handshake; first byte of the first head | `head_timeout`, 15 s | the connection is closed |
//! | rest of a head | `head_timeout`, 15 s | 408 |
//! | next request | `idle_timeout`, 120 s | the connection is closed |
//! | next piece of a body that is waited for | `body_idle_timeout`, 60 s | 408, or the trailer of a stream |
//! | time for a body read as a whole | `body_timeout`, 30 s | 408 |
//! | size of a body read as a whole | `body_bytes_max`, 1 MiB | 413 |
//! | parts of a multipart body | `parts_max`, 1,000,000 | 413, or the trailer of a stream |
//! | headers of a part | `part_head_bytes_max`, 16 KiB, and 32 of them | 400, or the trailer |
//! | boundary of a multipart body | 200 bytes | 400 |
//! | bytes before the first boundary | 64 KiB | 400 |
//! | client that takes nothing | `stall_timeout`, 60 s | the connection is broken |
//! | held of a connection | 128 KiB each way (or a head) | what sends or reads waits |
//! | lines put into one frame of a stream | 64 KiB | nothing: the next frame begins |
//! | text of an error in a trailer | 4 KiB | it is cut |
//! | after an early answer: what is still sent | 5 s, or until there is no room for it | the connection is reset |
//! | what is being answered at the end | `grace`, 5 s | it is cut off |
//!
//! A body of an answer is asked for its next piece when there is room for it, and the body of a request is read when its handler
//! asks: nothing is collected between a client and a handler. A client that goes away ends the work that is done for it.

pub mod answer;
pub mod auth;
pub mod body;
mod cors;
mod failure;
mod limits;
pub mod multipart;
mod paths;
mod query;
mod server;
mod stream;
pub mod time;
pub mod tls;

pub use answer::{AsIs, empty, json, pieces};
pub use auth::{Authenticate, Denied, Lasting, Open, Presented, Principal, Scope, Scopes};
pub use body::Whole;
pub use cors::Cors;
pub use failure::{ErrorForm, Failure};
pub use limits::{HEAD_BYTES_LEAST, InvalidLimit, Limits, TARGET_BYTES_LIMIT};
pub use query::{Query, invalid};
pub use server::{Observer, Paths, ServerOptions, serve, serve_router};
pub use stream::{STREAM_ERROR, ndjson, ndjson_pieces};
