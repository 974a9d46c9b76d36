//! What an operator can say.

use std::path::PathBuf;
use std::time::Duration;

use cluster_swarm::SwarmConfig;
use node_core::Invalid;

use crate::announce::AnnounceConfig;
use crate::disk::DiskConfig;
use crate::http::{GatewayConfig, RoutingConfig};

/// Everything that an embedded node can be told. Only [`dir`](Self::dir) has no default.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The node's folder: `node.key`, and the block store in `blocks/`.
    pub dir: PathBuf,
    /// The network.
    pub swarm: SwarmConfig,
    /// The block store.
    pub store: cluster_blocks::StoreOptions,
    /// How content is fetched.
    pub fetch: FetchConfig,
    /// Trustless gateways.
    pub gateways: GatewayConfig,
    /// Delegated routing.
    pub routing: RoutingConfig,
    /// How full the disk may get.
    pub disk: DiskConfig,
    /// Collecting garbage.
    pub gc: GcConfig,
    /// How long blocks are safe from that which were handed over and that nobody pins.
    pub kept_for: Duration,
    /// Reading again what rests.
    pub scrub: ScrubConfig,
    /// Announcing.
    pub announce: AnnounceConfig,
}

impl EmbeddedConfig {
    /// The defaults, in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            swarm: SwarmConfig::default(),
            store: cluster_blocks::StoreOptions::default(),
            fetch: FetchConfig::default(),
            gateways: GatewayConfig::default(),
            routing: RoutingConfig::default(),
            disk: DiskConfig::default(),
            gc: GcConfig::default(),
            kept_for: cluster_ipfs::KEPT_FOR,
            scrub: ScrubConfig::default(),
            announce: AnnounceConfig::default(),
        }
    }

    /// Checks the bounds of everything that is not checked by whom it is for (the network, the addresses).
    pub fn check(&self) -> Result<(), Invalid> {
        self.fetch.check()?;
        self.disk.check()?;
        self.gc.check()?;
        self.scrub.check()?;
        self.announce.check()
    }
}

/// Blocks of one pin that may be under way, at most. A block is up to 2 MiB.
pub const BLOCKS_IN_FLIGHT_MAX: usize = 256;

/// How content is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchConfig {
    /// Blocks of one pin that are asked for or being written at a time, 1 to [`BLOCKS_IN_FLIGHT_MAX`].
    pub blocks_in_flight: usize,
    /// For a pin to grow by a block. There is no limit for a pin that grows.
    pub stall_timeout: Duration,
    /// How long a pin waits after the last block when nobody is left to be asked: no peer, no provider that was found,
    /// no gateway has what it lacks. Peers that just connect, or just got it, are found within that time. At most
    /// `stall_timeout`.
    pub not_found_after: Duration,
    /// For one search for providers.
    pub search_timeout: Duration,
    /// For one connection to an origin.
    pub connect_timeout: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            blocks_in_flight: 64,
            // Kubo's driver waits as long.
            stall_timeout: Duration::from_secs(120),
            not_found_after: Duration::from_secs(30),
            search_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl FetchConfig {
    fn check(&self) -> Result<(), Invalid> {
        if !(1..=BLOCKS_IN_FLIGHT_MAX).contains(&self.blocks_in_flight) {
            let given = self.blocks_in_flight.to_string();
            return Err(Invalid::new("fetch.blocks_in_flight", given, "give 1 to 256"));
        }
        for (field, value) in [
            ("fetch.stall_timeout", self.stall_timeout),
            ("fetch.not_found_after", self.not_found_after),
            ("fetch.search_timeout", self.search_timeout),
            ("fetch.connect_timeout", self.connect_timeout),
        ] {
            between(field, value, Duration::from_millis(100), Duration::from_secs(24 * 3600))?;
        }
        if self.not_found_after > self.stall_timeout {
            let given = format!("{:?}", self.not_found_after);
            return Err(Invalid::new(
                "fetch.not_found_after",
                given,
                "give at most fetch.stall_timeout",
            ));
        }
        Ok(())
    }
}

/// When garbage is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcConfig {
    /// Whether it is collected by itself at [`DiskConfig::collect_percent`], and not only on command.
    pub by_itself: bool,
    /// How often the disk is looked at, and the shortest time between two passes that were begun by themselves.
    pub interval: Duration,
    /// Share of the time that a pass may take from the store's writer, in percent, 1 to 100: it pauses after each step.
    pub effort_percent: u8,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            by_itself: true,
            interval: Duration::from_secs(60),
            effort_percent: 50,
        }
    }
}

impl GcConfig {
    fn check(&self) -> Result<(), Invalid> {
        if !(1..=100).contains(&self.effort_percent) {
            let given = self.effort_percent.to_string();
            return Err(Invalid::new("gc.effort_percent", given, "give 1 to 100"));
        }
        between(
            "gc.interval",
            self.interval,
            Duration::from_millis(100),
            Duration::from_secs(24 * 3600),
        )
    }
}

/// How resting blocks are read again and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Bytes read per second; 0 turns it off. 1 MiB/s goes through 86 GiB a day.
    pub bytes_per_second: u64,
    /// Pause between two passes.
    pub pause: Duration,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            bytes_per_second: 1024 * 1024,
            pause: Duration::from_secs(24 * 3600),
        }
    }
}

impl ScrubConfig {
    fn check(&self) -> Result<(), Invalid> {
        between(
            "scrub.pause",
            self.pause,
            Duration::from_millis(100),
            Duration::from_secs(366 * 24 * 3600),
        )
    }
}

/// Checks a duration.
pub(crate) fn between(field: &str, value: Duration, min: Duration, max: Duration) -> Result<(), Invalid> {
    if value < min || value > max {
        let remedy = format!("give {min:?} to {max:?}");
        return Err(Invalid::new(field, format!("{value:?}"), remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_bad_values_are_named() {
        let good = EmbeddedConfig::new("/tmp/x");
        assert_eq!(good.check(), Ok(()));
        type Spoil = fn(&mut EmbeddedConfig);
        let bad: [(Spoil, &str); 7] = [
            (|c| c.fetch.blocks_in_flight = 0, "fetch.blocks_in_flight"),
            (|c| c.fetch.stall_timeout = Duration::ZERO, "fetch.stall_timeout"),
            (
                |c| c.fetch.not_found_after = Duration::from_secs(121),
                "fetch.not_found_after",
            ),
            (|c| c.gc.effort_percent = 0, "gc.effort_percent"),
            (|c| c.disk.collect_percent = 0, "disk.collect_percent"),
            (|c| c.scrub.pause = Duration::ZERO, "scrub.pause"),
            (|c| c.announce.interval = Duration::ZERO, "announce.interval"),
        ];
        for (spoil, field) in bad {
            let mut config = good.clone();
            spoil(&mut config);
            assert_eq!(config.check().expect_err(field).field, field);
        }
    }
}
