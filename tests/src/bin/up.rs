//! A cluster to play with. Prints one JSON line when it is ready, runs until SIGTERM or Ctrl-C, leaves nothing running.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use cluster_tests::cluster::{Cluster, ClusterOptions, option_of_peers};
use cluster_tests::node::NodeKind;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// A real cluster on free loopback ports.
///
/// Prints one JSON line when it is ready: `peers`, each with id, pid, the addresses of its APIs (`null`: there is none of
/// that kind) and its configuration file; `nodes`, each with its address and the peer that drives it. Runs until SIGTERM
/// or Ctrl-C, and leaves nothing running.
#[derive(Parser)]
#[command(name = "up", bin_name = "cargo xtask up", version)]
struct Arguments {
    /// How many peers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    peers: u8,
    /// What they drive: `embedded`, `kubo` or `fake`, one for each peer, or URLs of running nodes, dealt out to the peers in
    /// turn. `embedded,kubo`: both in each peer
    #[arg(
        long,
        value_name = "embedded|kubo|fake|URL,…",
        default_value = "embedded",
        value_delimiter = ','
    )]
    node: Vec<String>,
    /// Keep everything here; the next `up` with this folder goes on from it [default: nothing is kept]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// An option of all peers, such as raft.heartbeat=100ms; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = option_of_peers)]
    set: Vec<(String, String)>,
}

/// What each peer drives, and what it drives besides.
fn kinds(given: Vec<String>) -> anyhow::Result<(NodeKind, NodeKind)> {
    match given.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["embedded"] => Ok((NodeKind::Embedded, NodeKind::None)),
        ["embedded", "kubo"] => Ok((NodeKind::Embedded, NodeKind::Kubo)),
        ["embedded", "fake"] => Ok((NodeKind::Embedded, NodeKind::Fake)),
        ["kubo"] => Ok((NodeKind::Kubo, NodeKind::None)),
        ["fake"] => Ok((NodeKind::Fake, NodeKind::None)),
        several => {
            let wrong = several.iter().find(|url| !url.contains('/') && !url.contains(':'));
            ensure!(
                wrong.is_none(),
                "--node takes `embedded`, `kubo`, `fake`, `embedded,kubo`, or addresses; {wrong:?} is none of these"
            );
            Ok((NodeKind::Urls(given), NodeKind::None))
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Before anything is started, so that nothing is left behind by an early signal.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let (node, beside) = kinds(arguments.node)?;
    let options = ClusterOptions {
        peers: arguments.peers.into(),
        node,
        beside,
        dir: arguments.dir,
        set: arguments.set,
        ..ClusterOptions::default()
    };
    let mut cluster = tokio::select! {
        started = Cluster::start(options) => started?,
        // What was started so far ends with the future that is dropped here.
        _ = terminated.recv() => return Ok(()),
        _ = interrupted.recv() => return Ok(()),
    };
    println!("{}", describe(&cluster));
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    cluster.stop().await.context("the cluster did not end well")
}

fn describe(cluster: &Cluster) -> Value {
    let peers: Vec<_> = cluster
        .peers()
        .iter()
        .map(|peer| {
            let run = peer.info();
            json!({
                "id": run.id,
                "name": run.name,
                "pid": run.pid,
                "grpc": run.grpc,
                "rest": run.rest,
                "proxy": run.proxy,
                "pinning": run.pinning,
                "metrics": run.http,
                "peer": run.peer,
                "config": peer.config_file(),
            })
        })
        .collect();
    let nodes: Vec<_> = cluster
        .nodes()
        .iter()
        .enumerate()
        .map(|(at, (name, node))| {
            json!({
                "name": name,
                "kind": node.kind(),
                "address": node.address(),
                "pid": node.pid(),
                "peer": peers[at % peers.len()]["id"],
            })
        })
        .collect();
    json!({ "dir": cluster.root(), "peers": peers, "nodes": nodes })
}
