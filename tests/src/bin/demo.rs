//! The main story: three peers with a real IPFS node each; nothing that was asked for is lost when the leader dies.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::fresh_bytes;
use cluster_tests::ctl::Ctl;
use cluster_tests::kubo::KuboDaemon;
use cluster_tests::node::{Node, NodeKind};
use cluster_tests::wait::wait_until;
use node_core::Cid;
use tokio::signal::unix::{SignalKind, signal};

/// Three peers with a real IPFS node each; nothing that was asked for is lost when the leader dies.
///
/// Everything runs on loopback, away from the public IPFS network, in a temporary folder, and is gone at the end.
#[derive(Parser)]
#[command(name = "demo", bin_name = "cargo xtask demo", version)]
struct Arguments {
    /// Size of the largest file that is pinned, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
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

async fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let now = Instant::now();
    let mut story = Story { begun: now, last: now };

    Story::title("A cluster of three peers, each with its own Kubo");
    let options = ClusterOptions {
        node: NodeKind::Kubo,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options).await?;
    let ctl = Ctl::new(cluster.api())?;
    story.done("three Kubo daemons and three peers run; the first made the cluster, two joined with a token each");
    Story::show(&ctl.run(&["status"]).await?);

    Story::title("Real content, pinned with two replicas");
    let source = kubo(&cluster, 0)?;
    let file = source.add(&fresh_bytes(usize::from(arguments.size) << 20)).await?;
    let folder = add_folder(source).await?;
    let mut asked = vec![file, folder];
    story.done(&format!(
        "a file of {} MiB and a folder of three files were added to one Kubo",
        arguments.size
    ));
    for (cid, name) in [(&file, "demo-file"), (&folder, "demo-folder")] {
        pin(&ctl, cid, name).await?;
    }
    story.done("`cluster-ctl pin add --replicas 2 --wait` ended: both are pinned");
    Story::show(&ctl.run(&["pin", "status", "--detail"]).await?);
    verify(&cluster, &ctl, &asked, LIMIT).await?;
    story.done("Kubo's own `pin ls` says so too, on the nodes assigned and no other");

    Story::title("The leader is killed with -9");
    let leader = cluster.leader().await?;
    let survivor = kubo(&cluster, (leader + 1) % 3)?;
    let mut later = Vec::new();
    for _ in 0..5 {
        later.push(survivor.add(&fresh_bytes(512 << 10)).await?);
    }
    cluster.peer(leader).kill9()?;
    let killed = Instant::now();
    println!("  \u{2713} {} is dead", cluster.peer(leader).name());
    story.last = Instant::now();
    let ctl = Ctl::new(cluster.api())?;
    for (at, cid) in later.iter().enumerate() {
        record(&ctl, cid, &format!("after-{}", at + 1)).await?;
        if at == 0 {
            let gap = killed.elapsed().as_secs_f64();
            println!("  \u{2713} the first pin after that was acknowledged {gap:.1} s after the kill");
        }
    }
    asked.extend(later);
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
    verify(&cluster, &ctl, &asked, LIMIT).await?;
    story.done(&format!(
        "all {} are pinned with two replicas each; Kubo's own `pin ls` says so too",
        asked.len()
    ));
    Story::show(&ctl.run(&["pin", "status"]).await?);

    Story::title("The end");
    cluster.stop().await?;
    story.done("peers and daemons stopped in good order; nothing is left running");
    println!("\nAll went well, in {:.0} s.", story.begun.elapsed().as_secs_f64());
    Ok(())
}

fn kubo(cluster: &Cluster, index: usize) -> anyhow::Result<&KuboDaemon> {
    match cluster.nodes().get(index) {
        Some((_, Node::Kubo(daemon))) => Ok(daemon),
        _ => anyhow::bail!("node {index} is no Kubo"),
    }
}

/// A folder of three files, made by Kubo itself.
async fn add_folder(daemon: &KuboDaemon) -> anyhow::Result<Cid> {
    daemon.call("files/mkdir?arg=/demo&cid-version=1").await?;
    for name in ["one", "two", "three"] {
        let cid = daemon.add(&fresh_bytes(100 << 10)).await?;
        daemon
            .call(&format!("files/cp?arg=/ipfs/{cid}&arg=/demo/{name}"))
            .await?;
    }
    let answer: serde_json::Value = serde_json::from_str(&daemon.call("files/stat?arg=/demo").await?)?;
    let cid = answer["Hash"].as_str().context("the answer has no Hash")?;
    Ok(cid.parse()?)
}

/// Pins and waits until the nodes hold it.
async fn pin(ctl: &Ctl, cid: &Cid, name: &str) -> anyhow::Result<()> {
    let cid = cid.to_string();
    let line = [
        "pin",
        "add",
        &cid,
        "--name",
        name,
        "--replicas",
        "2",
        "--wait",
        "--wait-timeout",
        "2m",
        "--quiet",
    ];
    ctl.run(&line).await.map(drop)
}

/// Pins and waits for the acknowledgement only.
async fn record(ctl: &Ctl, cid: &Cid, name: &str) -> anyhow::Result<()> {
    let cid = cid.to_string();
    let line = ["pin", "add", &cid, "--name", name, "--replicas", "2", "--quiet"];
    ctl.run(&line).await.map(drop)
}

/// Compares what the cluster says with what the daemons say.
async fn verify(cluster: &Cluster, ctl: &Ctl, asked: &[Cid], limit: Duration) -> anyhow::Result<()> {
    for cid in asked {
        let text = cid.to_string();
        let holders = wait_until(&format!("{cid} is pinned on two nodes"), limit, async || {
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
        for (name, node) in cluster.nodes() {
            let Node::Kubo(daemon) = node else { continue };
            let kind = daemon.pin_kind(cid).await?;
            let wanted = holders.contains(name).then(|| "recursive".to_owned());
            ensure!(
                kind == wanted,
                "{name} holds {cid} as {kind:?}, and should as {wanted:?}"
            );
        }
    }
    Ok(())
}
