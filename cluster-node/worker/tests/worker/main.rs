//! The worker against a scriptable node in memory. One binary, because each one links all of RocksDB.

mod basics;
mod beliefs;
mod chaos;
mod common;
mod faults;
mod flow;
mod restart;
mod throughput;
