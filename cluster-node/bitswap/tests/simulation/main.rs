//! Whole nodes in virtual time: what arrives, how fast, and what it costs.

mod chaos;
mod numbers;
mod trouble;
mod world;

use std::time::Duration;

use world::Link;

/// A link with this round trip in milliseconds and this many megabits per second, that loses nothing.
fn link(round_trip: u64, megabits: u64) -> Link {
    Link {
        latency: Duration::from_micros(round_trip * 500),
        rate: megabits as f64 * 1e6 / 8.0,
        loss: 0,
    }
}
