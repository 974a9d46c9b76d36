//! Helia: content goes from one peer to the embedded node and from there to another peer, which are not connected.

use std::time::Instant;

use anyhow::{Context, ensure};
use cluster_tests::content::{fresh_bytes, seeded_bytes};
use cluster_tests::helia::{Added, GraphCodec, Hash, HeliaOptions, HeliaPeer, Make, Transport, UnixfsOptions, car};

use super::{FETCH_LIMIT, LARGE, MANY_FILES, Ours};

/// The node between two peers.
struct Chain {
    transport: Transport,
    from: HeliaPeer,
    ours: Ours,
    to: HeliaPeer,
}

impl Chain {
    async fn start(transport: Transport) -> anyhow::Result<Self> {
        // Only with this one: nodes tell each other all of their addresses, and take any of them when they meet again.
        let options = HeliaOptions {
            listen: vec![transport],
            ..HeliaOptions::default()
        };
        let (from, to) = (HeliaPeer::start_with(options.clone()), HeliaPeer::start_with(options));
        let (from, ours, to) = tokio::try_join!(from, Ours::start(), to)?;
        let connection = to.connect(&ours.address(transport).await?).await?;
        ensure!(transport.is_of(&connection.address), "{connection:?}");
        Ok(Self {
            transport,
            from,
            ours,
            to,
        })
    }

    /// Brings something from the first peer to the second. Of its blocks, `known` are there already.
    async fn pass(&self, what: &Make, known: u64) -> anyhow::Result<Added> {
        let added = self.from.add(what).await?;
        let begun = Instant::now();
        let cid = added.cid;
        let pinned = self.ours.pin_from(&cid, self.from.address(self.transport)).await;
        let status = pinned.with_context(|| format!("we fetch {what:?}, {cid}, from Helia"))?;
        ensure!(
            (status.blocks, status.bytes) == (added.blocks, added.bytes),
            "{what:?}: {status:?}, {added:?}"
        );
        let ours = begun.elapsed();
        let fetched = self.to.fetch_within(&cid, FETCH_LIMIT, 64).await;
        let fetched = fetched.with_context(|| format!("Helia fetches {what:?}, {cid}, from us"))?;
        // Shown when the test fails.
        let name: String = format!("{what:?}").chars().take(70).collect();
        println!(
            "{name}: {ours:?} from Helia to us, {:?} on to Helia",
            begun.elapsed() - ours
        );
        ensure!(
            (fetched.blocks, fetched.bytes) == (added.blocks, added.bytes),
            "{what:?}: {fetched:?}, {added:?}"
        );
        ensure!(fetched.received_blocks == added.blocks - known, "{what:?}: {fetched:?}");
        ensure!(fetched.content_sha256 == what.content_sha256(), "{what:?}: {fetched:?}");
        Ok(added)
    }

    /// That what we have is what was made.
    async fn check(&self, what: &Make, added: Added) -> anyhow::Result<()> {
        match what {
            Make::Bytes { seed, size, .. } => {
                let content = seeded_bytes(*seed, 0, usize::try_from(*size)?);
                ensure!(self.ours.client().cat(added.cid).await? == content, "{what:?}");
            }
            Make::Block { data, .. } => ensure!(self.ours.client().cat(added.cid).await? == *data, "{what:?}"),
            Make::Directory { .. } | Make::Graph { .. } => {
                let report = car::read(&self.ours.export(&added.cid).await?).await?;
                ensure!(report.is_whole() && report.roots == [added.cid], "{what:?}: {report:?}");
                ensure!(
                    (report.blocks, report.bytes) == (added.blocks, added.bytes),
                    "{what:?}: {report:?}"
                );
            }
        }
        Ok(())
    }

    async fn stop(self) -> anyhow::Result<()> {
        for peer in [&self.from, &self.to] {
            let connections = peer.connections().await?;
            ensure!(connections.len() == 1, "{connections:?}");
            ensure!(self.transport.is_of(&connections[0].address), "{connections:?}");
            ensure!(connections[0].agent.starts_with("pinfleet/"), "{connections:?}");
            peer.stop().await?;
        }
        self.ours.stop().await
    }
}

/// Files of all sizes, directories, graphs, and blocks with other hashes.
async fn pass_small(chain: &Chain) -> anyhow::Result<()> {
    let file = |seed, size, raw_leaves| Make::Bytes {
        seed,
        size,
        options: UnixfsOptions {
            raw_leaves: Some(raw_leaves),
            ..UnixfsOptions::chunks_of(256 * 1024)
        },
    };
    let all = [
        (file(1, 0, false), 0),
        (file(1, 0, true), 0),
        (file(2, 1, true), 0),
        (file(3, 1, false), 0),
        (file(4, 1 << 20, true), 0),
        (file(5, 1 << 20, false), 0),
        (Make::directory(6, 100, 1_000), 0),
        // All its files are the empty block, which has come already.
        (Make::directory(7, 10, 0), 1),
        (Make::hamt(8, 300, 10), 0),
        (Make::graph(GraphCodec::DagCbor, 9, 3, 4), 0),
        (Make::graph(GraphCodec::DagJson, 10, 3, 4), 0),
        (Make::graph(GraphCodec::DagCbor, 11, 50, 1), 0),
    ];
    for (what, known) in &all {
        let added = chain.pass(what, *known).await?;
        chain.check(what, added).await?;
    }
    for hash in Hash::ALL.into_iter().filter(|hash| *hash != Hash::Identity) {
        let what = Make::raw_block(hash, &fresh_bytes(1_000));
        let added = chain.pass(&what, 0).await?;
        chain.check(&what, added).await?;
    }
    Ok(())
}

/// No large file here: with TCP both sides speak Yamux, and Helia's (@libp2p/yamux 8.0) sends as much in one frame as the
/// other one's window lets it, where ours (yamux 0.14) lets windows grow and hangs up on frames of more than 1 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_goes_from_helia_to_us_and_on_to_helia_over_tcp() -> anyhow::Result<()> {
    let chain = Chain::start(Transport::Tcp).await?;
    pass_small(&chain).await?;
    let what = Make::directory(21, MANY_FILES, 50);
    let added = chain.pass(&what, 0).await?;
    ensure!(added.blocks > u64::from(MANY_FILES), "{added:?}");
    chain.check(&what, added).await?;
    chain.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_goes_from_helia_to_us_and_on_to_helia_over_quic() -> anyhow::Result<()> {
    let chain = Chain::start(Transport::Quic).await?;
    pass_small(&chain).await?;
    let what = Make::bytes(20, LARGE as u64);
    let added = chain.pass(&what, 0).await?;
    chain.check(&what, added).await?;
    chain.stop().await
}
