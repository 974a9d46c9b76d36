//! The binary against a fake cluster: what it prints, how it ends, and what it sends.
//!
//! Golden files hold whole sessions; `UPDATE_GOLDEN=1 cargo test -p cluster-ctl` writes them anew.

mod access;
mod add;
mod bad_input;
mod endpoints;
mod fake;
mod get;
mod golden;
mod import;
mod migrate;
mod node;
mod runner;
mod scenes;
