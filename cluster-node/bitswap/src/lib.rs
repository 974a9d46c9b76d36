//! Bitswap 1.2.0 (and 1.1.0 and 1.0.0), client and server, as an engine that decides and does nothing.
//!
//! There is no network, disk, clock or randomness here. Whoever drives the engine tells it what happened ([`Event`]) and
//! when, and does what it says ([`Action`]); so the same engine runs behind libp2p and in a simulator with virtual time.
//! The protocol is that of specs.ipfs.tech/bitswap-protocol.
//!
//! # The loop
//!
//! ```text
//!   bytes of a stream ──► FrameDecoder ──► Message::decode ──► Message::identify ─┐  (hashing: in any thread)
//!                         bounds length    bounds everything   CIDs from content  │
//!                                                                                 ▼
//!   connected, sent, stored, want, read, tick … ──────────────► Event ──► Engine::handle(event, now)
//!                                                                                 │
//!                        ┌──────────────── until it returns none ─────── Engine::poll_action()
//!                        ▼
//!   Send ────────────► write the frame to the peer's lane      then  Event::Sent / Event::Failed
//!   LookUp, Read ────► ask the block store                     then  Event::LookedUp / Event::Read
//!   Block ───────────► store it, look for links in it          then  Event::Stored, Event::Want
//!   NobodyHas ───────► look for providers, dial them           then  Event::Connected, Event::Candidates
//!   Misbehaved, … ───► log it, hang up
//!
//!   and at Engine::next_deadline() ──────────────────────────► Event::Tick
//! ```
//!
//! Every `Send`, `LookUp` and `Read` must be answered once, except after `Event::Disconnected` of its peer (`Send`).
//! Take all actions after each event: what they hold is not counted below. A write that makes no progress for long must
//! be given up by the caller (`Event::Failed`), because the peer keeps its share of the server's memory until then.
//!
//! # Bounds
//!
//! [`Engine::usage`] says what is held, [`Engine::usage_max`] what may be; numbers are those of the default [`Config`].
//!
//! | what | for one peer or fetch | in all |
//! |---|---|---|
//! | a message that arrives | 4 MiB in its `FrameDecoder`, none reserved beforehand | by the caller's number of streams |
//! | parsed message | 16,384 entries, presences and blocks each | one at a time |
//! | connected peers | | 4,096 |
//! | client: fetches | | 1,024 |
//! | client: wants, about 0.5 KiB each | 4,096 of a fetch | 65,536 |
//! | client: facts about a want, about 50 B each | 64 peers | |
//! | client: what a peer was told, about 0.2 KiB each | 1,024 wants, 1,024 cancels, 1,024 late blocks | |
//! | client: blocks in flight | 32 to 256 of a fetch, 16 MiB | 2,048 |
//! | server: wants, about 0.7 KiB each | 1,024 of a peer | 262,144, and an equal share of them is every peer's |
//! | server: answers that wait, about 0.1 KiB each | 2,048 of a peer | |
//! | server: bytes read and written | 2 MiB of a peer and one turn (2.5 MiB) | 64 MiB and one turn |
//! | server: questions to the store | one look-up of 256 blocks, 8 readings | 16 look-ups |
//!
//! # What it trusts
//!
//! Nothing. A block has no name but the one computed from its content, so what was not asked for is never taken, and who
//! sends it is reported and in the end shunned. Who stalls loses what it was asked for to others. What a peer wants is
//! bounded, and served in turns by bytes.

mod api;
mod builder;
mod client;
mod engine;
mod frame;
mod hash;
pub mod limits;
mod message;
mod server;
mod wire;

pub use api::{Action, Event, Lane, Offence, Peer, PeerReport, Refusal, Served, SessionId, SessionReport, Ticket};
pub use builder::{BuildError, MessageBuilder, split};
pub use client::{ClientConfig, ClientUsage};
pub use engine::{Config, Engine, Usage};
pub use frame::{FrameDecoder, FrameError};
pub use hash::{Block, BlockHasher, Prefix, Sha2Hasher};
pub use message::{Ask, Entry, Incoming, Message, MessageError, Presence, RawBlock, Version, WantKind};
pub use server::{Deny, ServerConfig, ServerUsage};
