//! Embedded nodes on loopback: no internet, no daemon.

mod announcing;
mod crash;
mod garbage;
mod http;
mod pinning;
mod reading;
mod support;
