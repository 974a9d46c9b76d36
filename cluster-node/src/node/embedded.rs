//! The IPFS node inside this peer: what the configuration says becomes what the node takes, and it is started and stopped.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster_consensus::{OwnRuntime, RuntimeOptions};
use cluster_embedded::{
    AnnounceConfig, DhtMode, DiskConfig, EmbeddedConfig, EmbeddedNode, FetchConfig, GatewayConfig, Multiaddr,
    RoutingConfig, ScrubConfig, StoreOptions, Strategy, SwarmConfig, SwarmKey,
};
use cluster_storage::lower_priority;
use node_core::Cid;

use super::content_http::ContentHttp;
use super::operate::OperatedNode;
use crate::config::{Announce, Config, DataDir, Dht, NodeKind};
use crate::service::{Fellows, OwnNode};
use crate::telemetry::{EmbeddedNumbers, Metrics};

/// Threads of the embedded node: the network, hashing of what comes in, and its loops.
const THREADS_MAX: usize = 8;

/// Threads on which it reads and writes blocks.
const BLOCKING_MAX: usize = 32;

/// Lines of a file of denied CIDs: about 100 MiB in memory.
const DENIED_MAX: usize = 1_000_000;

/// The node, and the threads that it runs on.
pub struct Embedded {
    /// The node.
    pub node: EmbeddedNode,
    http: ContentHttp,
    operated: Arc<OperatedNode>,
    runtime: OwnRuntime,
}

impl Embedded {
    /// Starts it, if the configuration has one.
    pub async fn start(dir: &DataDir, config: &Config) -> anyhow::Result<Option<Self>> {
        if !config.nodes.iter().any(|node| node.kind == NodeKind::Embedded) {
            return Ok(None);
        }
        let runtime = OwnRuntime::start(RuntimeOptions {
            name: "ipfs",
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX)),
            blocking_max: BLOCKING_MAX,
            // Content may take all that is left of the machine, and never what adds and heartbeats need.
            on_thread_start: lower_priority,
        })
        .context("the threads of the embedded node can't be started")?;
        let options = node_config(dir, config)?;
        let denied = read_denied(&config.embedded.deny_file)?;
        let (disk, announce, dht) = (options.disk, options.announce, options.swarm.dht);
        let started = runtime.handle().spawn(EmbeddedNode::start(options)).await?;
        let node = started.context("the embedded IPFS node can't be started")?;
        node.set_denied(&denied);
        let http = ContentHttp::start(&node, &config.embedded, &runtime.handle()).await?;
        let operated = OperatedNode {
            node: node.clone(),
            runtime: runtime.handle(),
            disk,
            announce,
            dht,
        };
        Ok(Some(Self {
            node,
            http,
            operated: Arc::new(operated),
            runtime,
        }))
    }

    /// Ends it, with all that it was given on disk.
    pub async fn stop(self, limit: Duration) {
        self.http.stop(limit / 2).await;
        match tokio::time::timeout(limit, self.node.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the embedded node did not stop cleanly; what is pinned is safe"),
            Err(_) => tracing::warn!("the embedded node did not stop in time; what is pinned is safe"),
        }
        self.runtime.stop(limit).await;
    }
}

fn node_config(dir: &DataDir, config: &Config) -> anyhow::Result<EmbeddedConfig> {
    let given = &config.embedded;
    let swarm_key = match given.swarm_key_file.as_os_str().is_empty() {
        true => None,
        false => {
            let text = read_option("embedded.swarm_key_file", &given.swarm_key_file)?;
            Some(SwarmKey::parse(&text).context("embedded.swarm_key_file")?)
        }
    };
    let mut swarm = SwarmConfig {
        listen: given.listen.clone(),
        announce: given.announce_addresses.clone(),
        bootstrap: given.bootstrap.clone(),
        dht: match given.dht {
            Dht::Auto | Dht::Lan => DhtMode::Auto,
            Dht::Server => DhtMode::Server,
            Dht::Client => DhtMode::Client,
            Dht::Off => DhtMode::Off,
        },
        lan: given.dht == Dht::Lan,
        swarm_key,
        ..SwarmConfig::default()
    };
    let connections = &mut swarm.connections;
    connections.established = given.connections_max;
    connections.incoming = given.connections_max / 4 * 3;
    connections.high_water = (given.connections_max / 2).max(1);
    swarm.server.bytes_per_second = given.serve_bytes_per_second;
    let fetch = FetchConfig {
        blocks_in_flight: given.blocks_in_flight as usize,
        stall_timeout: config.worker.stall_timeout,
        not_found_after: given.not_found_after.min(config.worker.stall_timeout),
        ..FetchConfig::default()
    };
    Ok(EmbeddedConfig {
        swarm,
        fetch,
        gateways: GatewayConfig {
            gateways: given.gateways.clone(),
            ..GatewayConfig::default()
        },
        routing: RoutingConfig {
            routers: given.routers.clone(),
            ..RoutingConfig::default()
        },
        disk: DiskConfig {
            max_bytes: (given.storage_max > 0).then_some(given.storage_max),
            collect_percent: given.collect_percent,
            stop_percent: given.stop_percent,
            free_bytes_min: given.free_min,
        },
        store: store_options(given.store_memory, given.block_cache),
        scrub: ScrubConfig {
            bytes_per_second: given.scrub_bytes_per_second,
            ..ScrubConfig::default()
        },
        announce: AnnounceConfig {
            strategy: match given.announce {
                Announce::Roots => Strategy::Roots,
                Announce::All => Strategy::All,
                Announce::None => Strategy::None,
            },
            interval: given.announce_interval,
            ..AnnounceConfig::default()
        },
        ..EmbeddedConfig::new(dir.node())
    })
}

/// The log is as long as what it is for, or it would end a memtable, and with it a file of blocks, before that is full.
fn store_options(memory: u64, cache: u64) -> StoreOptions {
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let least = StoreOptions::default();
    StoreOptions {
        write_buffers_bytes: bytes(memory),
        cache_bytes: bytes(cache),
        wal_bytes: least.wal_bytes.max(memory.saturating_add(memory / 3)),
        ..least
    }
}

fn read_option(option: &str, path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{option} = {:?} can't be read", path.display().to_string()))
}

/// The CIDs that are served to nobody. A line that is none stops the start: content that was to be denied would be served.
fn read_denied(path: &Path) -> anyhow::Result<Vec<Cid>> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let text = read_option("embedded.deny_file", path)?;
    let mut denied = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let cid = line
            .strip_prefix("/ipfs/")
            .unwrap_or(line)
            .parse()
            .with_context(|| format!("embedded.deny_file, line {}", number + 1))?;
        denied.push(cid);
        if denied.len() > DENIED_MAX {
            bail!("embedded.deny_file has more than {DENIED_MAX} lines");
        }
    }
    Ok(denied)
}

/// The node, as the loop that tells it of the others sees it.
pub struct TellFellows(pub EmbeddedNode);

impl Fellows for TellFellows {
    fn told(&self, addresses: Vec<String>) {
        let usable = |text: &String| {
            let address: Multiaddr = text.parse().ok()?;
            matches!(address.iter().last(), Some(multiaddr::Protocol::P2p(_))).then_some(address)
        };
        let mut addresses: Vec<_> = addresses.iter().filter_map(usable).collect();
        addresses.truncate(cluster_embedded::FELLOWS_MAX);
        if let Err(error) = self.0.set_fellows(&addresses) {
            tracing::warn!(%error, "the other nodes of the cluster were not told to the embedded node");
        }
    }
}

/// How often the node's numbers are brought up to date. They are asked of several tasks, so not at each scrape.
const NUMBERS_EVERY: Duration = Duration::from_secs(5);

/// Keeps the metrics of the node up to date. Ends when the node is shut down.
pub async fn tell_numbers(node: EmbeddedNode, name: String, metrics: Metrics) {
    while let Ok(report) = node.report().await {
        metrics.set_embedded(
            &name,
            &EmbeddedNumbers {
                blocks: report.usage.blocks,
                bytes: report.usage.bytes,
                disk_bytes: report.disk_bytes,
                disk_max_bytes: report.disk_max_bytes,
                intake_stopped: report.intake_stopped.is_some(),
                walks: report.walks.len() as u64,
                peers: report.swarm.peers.len() as u64,
                bytes_in: report.swarm.bytes_in,
                bytes_out: report.swarm.bytes_out,
                offences: report.swarm.offences,
                gateway_blocks: report.fetched.gateway_blocks,
                collected_blocks: report.gc.deleted_blocks,
                collected_bytes: report.gc.deleted_bytes,
                gc_running: report.gc.running,
                gc_progress: report.gc.done,
                announce_behind: report.announce.behind,
                announce_late_seconds: report.announce.late.as_secs_f64(),
                corrupt: report.scrub.corrupt,
            },
        );
        tokio::time::sleep(NUMBERS_EVERY).await;
    }
    // Never a reason for the peer to stop: what fails here is logged where it fails.
    std::future::pending().await
}

/// The node as the service sees it.
pub fn own_node(embedded: &Option<Embedded>) -> Option<OwnNode> {
    embedded.as_ref().map(|embedded| OwnNode {
        driven: Arc::new(embedded.node.clone()),
        operated: embedded.operated.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_denied_cids_is_read_or_refused_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("denied");
        let cid = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        std::fs::write(&file, format!("# why\n\n{cid}\n/ipfs/{cid}\n")).expect("written");
        assert_eq!(read_denied(&file).expect("read").len(), 2);
        assert!(read_denied(Path::new("")).expect("none").is_empty());
        std::fs::write(&file, format!("{cid}\nnonsense\n")).expect("written");
        let error = format!("{:#}", read_denied(&file).expect_err("refused"));
        assert!(error.contains("deny_file, line 2"), "{error}");
        assert!(read_denied(&folder.path().join("missing")).is_err());
    }

    #[test]
    fn the_log_of_the_blocks_never_ends_a_memtable_early() {
        for memory in [12 << 20, 96 << 20, 1 << 30, 64 << 30_u64] {
            let options = store_options(memory, 4 << 20);
            assert_eq!(options.write_buffers_bytes as u64, memory);
            assert_eq!(options.cache_bytes, 4 << 20);
            assert!(options.wal_bytes > memory, "{options:?}");
        }
    }
}
