//! Kubo: content goes from one daemon to the embedded node and from there to another daemon, which are not connected.

use std::time::Instant;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::content::fresh_bytes;
use cluster_tests::helia::{GraphCodec, Make, Transport, UnixfsOptions, car, seeded_files};
use cluster_tests::kubo::{KuboDaemon, KuboOptions};
use node_core::Cid;
use serde_json::Value;
use tempfile::TempDir;

use super::{FETCH_LIMIT, LARGE, MANY_FILES, Ours, same_blocks, unixfs};

/// What `ipfs add` is told for the profile of 2015, and for that of 2025.
const PROFILES: [&str; 2] = [
    "cid-version=0&raw-leaves=false&chunker=size-262144&max-file-links=174",
    "cid-version=1&raw-leaves=true&chunker=size-1048576&max-file-links=1024",
];

async fn kubo(transport: Transport) -> anyhow::Result<(TempDir, KuboDaemon)> {
    let folder = tempfile::tempdir()?;
    let options = KuboOptions {
        quic: transport == Transport::Quic,
        ..KuboOptions::default()
    };
    let daemon = KuboDaemon::start_with(folder.path(), options).await?;
    Ok((folder, daemon))
}

/// The node between two daemons.
struct Chain {
    transport: Transport,
    from: (TempDir, KuboDaemon),
    ours: Ours,
    to: (TempDir, KuboDaemon),
}

impl Chain {
    async fn start(transport: Transport) -> anyhow::Result<Self> {
        let (from, ours, to) = tokio::try_join!(kubo(transport), Ours::start(), kubo(transport))?;
        let address = ours.address(transport).await?;
        to.1.call(&format!("swarm/connect?arg={address}")).await?;
        Ok(Self {
            transport,
            from,
            ours,
            to,
        })
    }

    /// Brings what the first daemon has to the second.
    async fn pass(&self, cid: &Cid, what: &str) -> anyhow::Result<v1::NodeStatus> {
        let begun = Instant::now();
        let fetch = self.ours.pin_from(cid, self.from.1.swarm_address());
        let status = fetch
            .await
            .with_context(|| format!("we fetch {what}, {cid}, from Kubo"))?;
        let ours = begun.elapsed();
        self.take(cid, what).await?;
        // Shown when the test fails.
        println!(
            "{what}: {ours:?} from Kubo to us, {:?} on to Kubo",
            begun.elapsed() - ours
        );
        Ok(status)
    }

    /// Lets the second daemon fetch.
    async fn take(&self, cid: &Cid, what: &str) -> anyhow::Result<()> {
        let pinned = self.to.1.pin(cid, FETCH_LIMIT).await;
        pinned.with_context(|| format!("Kubo fetches {what}, {cid}, from us"))?;
        Ok(())
    }

    /// The content of a file on both.
    async fn check_file(&self, path: &str, content: &[u8], what: &str) -> anyhow::Result<()> {
        ensure!(self.ours.client().cat(path).await? == content, "{what}: what we have");
        let theirs = self.to.1.read(&format!("cat?arg={path}")).await?;
        ensure!(theirs == content, "{what}: what Kubo has");
        Ok(())
    }

    async fn pass_file(&self, options: &str, content: &[u8]) -> anyhow::Result<()> {
        let what = format!("{} bytes with {options}", content.len());
        let cid = self.from.1.add_with(options, &[("file", content)]).await?;
        let status = self.pass(&cid, &what).await?;
        ensure!(status.bytes >= content.len() as u64, "{what}: {status:?}");
        self.check_file(&cid.to_string(), content, &what).await
    }

    /// A DAG whose blocks are compared on all three, and are so many, if that is known.
    async fn pass_graph(&self, cid: &Cid, blocks: Option<u64>, what: &str) -> anyhow::Result<()> {
        let status = self.pass(cid, what).await?;
        let ours = self.ours.export(cid).await?;
        let count = same_blocks(&ours, &self.from.1.export(cid).await?, what).await?;
        same_blocks(&ours, &self.to.1.export(cid).await?, what).await?;
        ensure!(status.blocks == count as u64, "{what}: {status:?}, {count} blocks");
        ensure!(
            blocks.is_none_or(|blocks| blocks == status.blocks),
            "{what}: {count} blocks"
        );
        Ok(())
    }

    /// What the JavaScript side makes, through the CAR import of the first daemon.
    async fn pass_made(&self, what: &Make) -> anyhow::Result<()> {
        let (file, added) = car::make(what).await?;
        ensure!(self.from.1.import(&file).await? == added.blocks, "{what:?}");
        self.pass_graph(&added.cid, Some(added.blocks), &format!("{what:?}"))
            .await
    }

    /// That nothing went another way.
    async fn stop(mut self) -> anyhow::Result<()> {
        for (_, daemon) in [&self.from, &self.to] {
            let peers: Value = serde_json::from_str(&daemon.call("swarm/peers").await?)?;
            let peers = peers["Peers"].as_array().context("peers")?;
            ensure!(peers.len() == 1, "{peers:?}");
            let address = peers[0]["Addr"].as_str().context("an address")?;
            ensure!(self.transport.is_of(address), "{address}");
        }
        self.from.1.stop().await?;
        self.to.1.stop().await?;
        self.ours.stop().await
    }
}

/// Files of all sizes under both profiles, a directory with an empty file in it, and graphs.
async fn pass_small(chain: &Chain) -> anyhow::Result<()> {
    for profile in PROFILES {
        for size in [0, 1, 1 << 20] {
            chain.pass_file(profile, &fresh_bytes(size)).await?;
        }
    }
    // Kubo says that it has the empty block, and never sends it.
    let mut files = seeded_files(1, 20, 5_000);
    files.push(("empty".to_owned(), Vec::new()));
    let cid = chain.from.1.add_directory(&files).await?;
    chain
        .pass_graph(&cid, Some(22), "a directory with an empty file")
        .await?;
    for (name, content) in &files {
        chain.check_file(&format!("{cid}/{name}"), content, name).await?;
    }
    for what in [
        Make::graph(GraphCodec::DagCbor, 2, 3, 4),
        Make::graph(GraphCodec::DagJson, 3, 3, 4),
        Make::graph(GraphCodec::DagCbor, 4, 50, 1),
        Make::hamt(5, 300, 100),
    ] {
        chain.pass_made(&what).await?;
    }
    Ok(())
}

/// What was added here is Kubo's too, under the CIDs that Kubo gives it.
async fn pass_added(chain: &Chain) -> anyhow::Result<()> {
    for (profile, theirs) in ["unixfs-v0-2015", "unixfs-v1-2025"].into_iter().zip(PROFILES) {
        let options = v1::UnixFsOptions {
            profile: profile.to_owned(),
            ..v1::UnixFsOptions::default()
        };
        let content = fresh_bytes(3 << 20);
        let done = chain
            .ours
            .client()
            .add(unixfs(options), &[("file", Some(&content))])
            .await?;
        let only_hash = format!("only-hash=true&{theirs}");
        let cid = chain.from.1.add_with(&only_hash, &[("file", &content)]).await?;
        ensure!(done.cid == cid.to_string(), "{} and {cid} of one file", done.cid);
        chain.take(&cid, profile).await?;
        chain.check_file(&done.cid, &content, profile).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_goes_from_kubo_to_us_and_on_to_kubo_over_tcp() -> anyhow::Result<()> {
    let chain = Chain::start(Transport::Tcp).await?;
    pass_small(&chain).await?;
    pass_added(&chain).await?;
    chain.pass_file(PROFILES[0], &fresh_bytes(LARGE)).await?;
    // In one block of some 600 KiB, which Kubo would make a HAMT of.
    let flat = Make::Directory {
        seed: 6,
        files: MANY_FILES,
        size: 50,
        options: UnixfsOptions {
            shard_above_bytes: Some(1 << 30),
            ..UnixfsOptions::default()
        },
    };
    chain.pass_made(&flat).await?;
    chain.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_goes_from_kubo_to_us_and_on_to_kubo_over_quic() -> anyhow::Result<()> {
    let chain = Chain::start(Transport::Quic).await?;
    pass_small(&chain).await?;
    pass_added(&chain).await?;
    chain.pass_file(PROFILES[1], &fresh_bytes(LARGE)).await?;
    // Kubo's own HAMT.
    let files = seeded_files(7, MANY_FILES, 50);
    let cid = chain.from.1.add_directory(&files).await?;
    chain
        .pass_graph(&cid, None, "a directory of ten thousand files")
        .await?;
    for (name, content) in files.iter().step_by(999) {
        chain.check_file(&format!("{cid}/{name}"), content, name).await?;
    }
    chain.stop().await
}
