//! The main story: three peers with an IPFS node each; nothing that was asked for is lost when the leader dies.

mod embedded;
mod kubo;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::ctl::Ctl;
use cluster_tests::node::NodeKind;
use cluster_tests::wait::wait_until;
use node_core::Cid;
use tokio::signal::unix::{SignalKind, signal};

/// Three peers with an IPFS node each; nothing that was asked for is lost when the leader dies.
///
/// Everything runs on loopback, away from the public IPFS network, in a temporary folder, and is gone at the end.
#[derive(Parser)]
#[command(name = "demo", bin_name = "cargo xtask demo", version)]
struct Arguments {
    /// What holds the content: the node inside each peer, or a real Kubo daemon beside it
    #[arg(long, value_enum, default_value_t = Nodes::Embedded)]
    node: Nodes,
    /// Size of the largest file that is pinned, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Nodes {
    Embedded,
    Kubo,
}

/// How long the nodes may take to fetch what the demo pins.
const LIMIT: Duration = Duration::from_secs(120);

/// Tells people what was done, and how long it took.
struct Story {
    begun: Instant,
    last: Instant,
}

impl Story {
    fn title(text: &str) {
        println!("\n{text}");
    }

    fn done(&mut self, text: &str) {
        println!("  \u{2713} {text}  ({:.1} s)", self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }

    fn show(text: &str) {
        for line in text.lines() {
            println!("      {line}");
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::select! {
        told = tell(&arguments) => told,
        // All processes end with the future that is dropped here.
        _ = terminated.recv() => anyhow::bail!("stopped"),
        _ = interrupted.recv() => anyhow::bail!("interrupted"),
    }
}

/// Content that was asked for, and what it must be when it comes back.
struct Asked {
    cid: Cid,
    /// Of a file: its bytes.
    bytes: Option<Vec<u8>>,
}

async fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let now = Instant::now();
    let mut story = Story { begun: now, last: now };
    let nodes = arguments.node;

    let (title, node) = match nodes {
        Nodes::Embedded => (
            "A cluster of three peers, each with an IPFS node inside, and nothing else",
            NodeKind::Embedded,
        ),
        Nodes::Kubo => ("A cluster of three peers, each with its own Kubo", NodeKind::Kubo),
    };
    Story::title(title);
    let options = ClusterOptions {
        node,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options).await?;
    let ctl = Ctl::new(cluster.api())?;
    story.done("three peers and their IPFS nodes run; the first made the cluster, two joined with a token each");
    Story::show(&ctl.run(&["status"]).await?);

    Story::title("Real content, pinned with two replicas");
    let size = usize::from(arguments.size) << 20;
    let mut asked = match nodes {
        Nodes::Embedded => embedded::first(&mut story, &ctl, size).await?,
        Nodes::Kubo => kubo::first(&mut story, &cluster, &ctl, size).await?,
    };
    Story::show(&ctl.run(&["pin", "status", "--detail"]).await?);
    verify(nodes, &cluster, &ctl, &asked).await?;
    story.done(held(nodes));

    Story::title("The leader is killed with -9");
    let leader = cluster.leader().await?;
    // Made before, so that only the cluster is timed.
    let prepared = match nodes {
        Nodes::Embedded => embedded::prepare(5)?,
        Nodes::Kubo => kubo::prepare(&cluster, (leader + 1) % 3, 5).await?,
    };
    cluster.peer(leader).kill9()?;
    let killed = Instant::now();
    println!("  \u{2713} {} is dead", cluster.peer(leader).name());
    story.last = Instant::now();
    let ctl = Ctl::new(cluster.api())?;
    for (at, content) in prepared.into_iter().enumerate() {
        let name = format!("after-{}", at + 1);
        asked.push(match nodes {
            Nodes::Embedded => embedded::add(&ctl, content, &name).await?,
            Nodes::Kubo => kubo::record(&ctl, content, &name).await?,
        });
        if at == 0 {
            let gap = killed.elapsed().as_secs_f64();
            println!("  \u{2713} the first pin after that was acknowledged {gap:.1} s after the kill");
        }
    }
    let next = cluster.leader().await?;
    story.done(&format!(
        "five more pins were taken while it is down; {} leads now",
        cluster.peer(next).name()
    ));
    Story::show(&ctl.run(&["status"]).await?);
    let listed = ctl.run(&["pin", "ls", "--count", "--linearizable"]).await?;
    ensure!(
        listed.trim() == asked.len().to_string(),
        "{} pins are listed, {} were asked for",
        listed.trim(),
        asked.len()
    );
    story.done(&format!(
        "all {} pins asked for, before and after, are there",
        asked.len()
    ));

    Story::title("The killed peer comes back");
    cluster.peer(leader).start().await?;
    cluster.settled().await?;
    let ctl = Ctl::new(cluster.api())?;
    story.done(&format!(
        "{} runs again, and needed no hand",
        cluster.peer(leader).name()
    ));
    verify(nodes, &cluster, &ctl, &asked).await?;
    story.done(&format!(
        "all {} are pinned with two replicas each; {}",
        asked.len(),
        held(nodes)
    ));
    Story::show(&ctl.run(&["pin", "status"]).await?);

    Story::title("The end");
    cluster.stop().await?;
    story.done("peers and nodes stopped in good order; nothing is left running");
    println!("\nAll went well, in {:.0} s.", story.begun.elapsed().as_secs_f64());
    Ok(())
}

/// What was seen by [`verify`].
fn held(nodes: Nodes) -> &'static str {
    match nodes {
        Nodes::Embedded => "every peer gives every byte back, and exactly the nodes assigned serve it over HTTP",
        Nodes::Kubo => "Kubo's own `pin ls` says so too, on the nodes assigned and no other",
    }
}

/// Compares what the cluster says with what the nodes say.
async fn verify(nodes: Nodes, cluster: &Cluster, ctl: &Ctl, asked: &[Asked]) -> anyhow::Result<()> {
    for asked in asked {
        let cid = asked.cid;
        let text = cid.to_string();
        let holders = wait_until(&format!("{cid} is pinned on two nodes"), LIMIT, async || {
            let found = ctl.json(&["pin", "status", &text]).await?;
            let status = found.first().context("there is no status")?;
            let nodes = status["nodes"].as_array().context("no nodes")?;
            ensure!(
                status["status"] == "pinned" && nodes.len() == 2 && nodes.iter().all(|node| node["status"] == "pinned"),
                "{status}"
            );
            Ok(nodes
                .iter()
                .map(|node| node["node"].as_str().unwrap_or_default().to_owned())
                .collect::<Vec<_>>())
        })
        .await?;
        match nodes {
            Nodes::Embedded => embedded::verify(cluster, asked, &holders).await?,
            Nodes::Kubo => kubo::verify(cluster, &cid, &holders).await?,
        }
    }
    Ok(())
}
