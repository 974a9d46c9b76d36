//! A Pinfleet peer: the shell around what `node-core` decides.

pub mod api;
pub mod cli;
pub mod config;
pub mod node;
pub mod service;
pub mod telemetry;
