//! Embedded nodes on loopback: no internet, no daemon.

mod announcing;
mod announcing_many;
mod crash;
mod garbage;
mod http;
mod pinning;
mod reading;
mod scrubbing;
mod support;
