//! Makes the storage nodes that a peer drives hold what they were assigned, and let go of what they were not.
//!
//! ```text
//! pinset ─▶ notes ─▶ drain ─▶ ledger ─▶ driver (one per node) ─▶ attempt ─▶ storage node
//!                               ▲                                   │
//!                               └──────────── outcome ◀─────────────┘
//! ```
//! - [`WantedSource`] says what is wanted and leaves notes about what changed. `drain` brings that into the ledger.
//! - The ledger is the only queue. What is in memory is the front of it, so a restart goes on at once, however long the
//!   queue is, and a killed process loses nothing.
//! - Each node has a driver of its own with its own rate, permits and breaker. Nodes share nothing that can block.
//! - Unpins are queued like pins and never given up: what the cluster let go of does not stay on a disk for ever.
//! - Pins made by hand are left alone; `attempt` says how they are told apart.
//! - What was pinned is not taken on trust for ever: `probe` notices another daemon at the node's address, `audit` looks
//!   at a few pins a minute.

mod attempt;
mod audit;
mod drain;
mod driver;
mod flow;
mod gate;
mod live;
mod log;
mod probe;
mod queue;
mod recover;
mod report;
mod settings;
mod source;
mod view;
mod worker;

pub use live::Live;
pub use node_core::reconcile::Kind;
pub use recover::Recover;
pub use report::NodeReport;
pub use settings::{NodeSettings, WorkerConfig};
pub use source::{ALL_NODES, Clock, Observer, SystemClock, TodoRow, WantedSource};
pub use view::View;
pub use worker::Worker;
