//! The harness for Helia, proven by Helia peers and Kubo daemons that fetch from each other, and by CAR files that they
//! make for each other. Pinfleet itself has no part in this.

use std::time::{Duration, Instant};

use cluster_tests::content::{cid, fresh_bytes, seeded_bytes};
use cluster_tests::helia::{
    Added, Fetched, GraphCodec, Hash, HeliaOptions, HeliaPeer, Make, Transport, UnixfsOptions, car, seeded_files,
};
use cluster_tests::kubo::{KuboDaemon, KuboOptions};
use tempfile::TempDir;

/// Kubo's block size in these tests.
const CHUNK: u64 = 256 * 1024;

async fn kubo(transport: Transport) -> (TempDir, KuboDaemon) {
    let folder = tempfile::tempdir().expect("folder");
    let options = KuboOptions {
        quic: transport == Transport::Quic,
        ..KuboOptions::default()
    };
    let daemon = KuboDaemon::start_with(folder.path(), options).await.expect("daemon");
    assert!(transport.is_of(daemon.swarm_address()), "{}", daemon.swarm_address());
    (folder, daemon)
}

async fn pair() -> (HeliaPeer, HeliaPeer) {
    let (a, b) = tokio::join!(HeliaPeer::start(), HeliaPeer::start());
    (a.expect("a Helia peer"), b.expect("a Helia peer"))
}

/// Files of 0 B, 1 B and 1 MiB and a directory, cut as Kubo cuts them here. The empty file is a node of its own: an empty
/// raw block is nothing that Kubo 0.43 sends, it answers a want for it with HAVE.
fn files(seed: u32) -> Vec<Make> {
    let options = UnixfsOptions::chunks_of(CHUNK);
    let file = |at: u32, size| Make::Bytes {
        seed: seed + at,
        size,
        options: options.clone(),
    };
    let empty = Make::Bytes {
        seed,
        size: 0,
        options: UnixfsOptions {
            raw_leaves: Some(false),
            ..options.clone()
        },
    };
    vec![
        empty,
        file(1, 1),
        file(2, 1024 * 1024),
        Make::Directory {
            seed: seed + 3,
            files: 100,
            size: 1000,
            options,
        },
    ]
}

/// The same, made by Kubo.
async fn add_to_kubo(daemon: &KuboDaemon, what: &Make) -> node_core::Cid {
    let bytes = |size: u64| usize::try_from(size).expect("small");
    match *what {
        Make::Bytes {
            seed,
            size,
            ref options,
        } => {
            let raw = options.raw_leaves.unwrap_or(true);
            let options = format!("cid-version=1&chunker=size-{CHUNK}&raw-leaves={raw}");
            daemon
                .add_with(&options, &[("file", &seeded_bytes(seed, 0, bytes(size)))])
                .await
        }
        Make::Directory { seed, files, size, .. } => {
            daemon.add_directory(&seeded_files(seed, files, bytes(size))).await
        }
        ref other => unreachable!("{other:?} is not made by Kubo here"),
    }
    .expect("add")
}

/// That a fetch brought all of it, over the network, and that it is what the seed says.
fn check(what: &Make, added: Added, fetched: &Fetched) {
    assert_eq!(fetched.blocks, added.blocks, "{what:?}");
    assert_eq!(fetched.bytes, added.bytes, "{what:?}");
    assert_eq!(fetched.received_blocks, added.blocks, "{what:?}");
    assert_eq!(fetched.received_bytes, added.bytes, "{what:?}");
    assert_eq!(fetched.content_sha256, what.content_sha256(), "{what:?}");
}

#[tokio::test]
async fn helia_fetches_from_helia() {
    for transport in Transport::ALL {
        let (a, b) = pair().await;
        let connection = b.connect(a.address(transport)).await.expect("connect");
        assert_eq!(connection.peer_id, a.peer_id());
        assert!(connection.agent.starts_with("helia/7."), "{connection:?}");
        for (from, to, seed) in [(&a, &b, 0), (&b, &a, 100)] {
            for what in [files(seed), vec![Make::bytes(0, 0)]].concat() {
                let added = from.add(&what).await.expect("add");
                check(&what, added, &to.fetch(&added.cid).await.expect("fetch"));
            }
            // Some of it is the same in both directions.
            from.gc().await.expect("gc");
            to.gc().await.expect("gc");
            let connections = to.connections().await.expect("connections");
            assert_eq!(connections.len(), 1);
            assert_eq!(connections[0].peer_id, from.peer_id());
            assert!(transport.is_of(&connections[0].address), "{connections:?}");
        }
        assert_eq!(b.disconnect(a.peer_id()).await.expect("disconnect"), 1);
        assert_eq!(b.connections().await.expect("connections"), []);
    }
}

#[tokio::test]
async fn helia_and_kubo_fetch_from_each_other() {
    for transport in Transport::ALL {
        let ((_folder, daemon), peer) = tokio::join!(kubo(transport), HeliaPeer::start());
        let peer = peer.expect("a Helia peer");
        let connection = peer.connect(daemon.swarm_address()).await.expect("connect");
        assert_eq!(connection.peer_id, daemon.peer_id());
        assert!(connection.agent.starts_with("kubo/"), "{connection:?}");
        assert!(transport.is_of(&connection.address), "{connection:?}");

        // Kubo has it.
        for what in files(200) {
            let cid = add_to_kubo(&daemon, &what).await;
            let fetched = peer.fetch(&cid).await.expect("fetch");
            assert_eq!(fetched.received_blocks, fetched.blocks);
            assert_eq!(fetched.content_sha256, what.content_sha256());
            // Helia makes the same of the same bytes, and so it lacks nothing now.
            let added = peer.add(&what).await.expect("add");
            assert_eq!(
                (added.cid, added.blocks, added.bytes),
                (cid, fetched.blocks, fetched.bytes)
            );
        }

        // Helia has it. Empty files are the same whatever the seed.
        daemon.call("repo/gc").await.expect("repo/gc");
        for what in [files(300), vec![Make::bytes(0, 0)]].concat() {
            let added = peer.add(&what).await.expect("add");
            assert_eq!(daemon.block_size(&added.cid).await.expect("block/stat"), None);
            daemon
                .call(&format!("pin/add?arg={}", added.cid))
                .await
                .expect("pin/add");
            match what {
                Make::Bytes { seed, size, .. } => {
                    let content = daemon.read(&format!("cat?arg={}", added.cid)).await.expect("cat");
                    assert!(content == seeded_bytes(seed, 0, size as usize), "{what:?}");
                }
                Make::Directory { seed, files, size, .. } => {
                    for (name, content) in seeded_files(seed, files, size as usize) {
                        let got = daemon.read(&format!("cat?arg={}/{name}", added.cid)).await;
                        assert!(got.expect("cat") == content, "{name}");
                    }
                }
                Make::Graph { .. } | Make::Block { .. } => unreachable!("only files"),
            }
        }
    }
}

#[tokio::test]
async fn graphs_sharded_directories_and_other_hashes_travel_too() {
    let ((_folder, daemon), (a, b)) = tokio::join!(kubo(Transport::Tcp), pair());
    b.connect(a.address(Transport::Quic)).await.expect("connect");
    a.connect(daemon.swarm_address()).await.expect("connect");
    let graph = |codec, depth, width| Make::graph(codec, 1, depth, width);
    let mut all = vec![
        (Make::hamt(1, 300, 10), None),
        // 1 + 4 + 16 nodes and the raw block below them.
        (graph(GraphCodec::DagCbor, 2, 4), Some(22)),
        (graph(GraphCodec::DagJson, 2, 4), Some(22)),
        (graph(GraphCodec::DagCbor, 19, 1), Some(21)),
    ];
    for hash in Hash::ALL {
        all.push((Make::raw_block(hash, &fresh_bytes(100)), Some(1)));
    }
    for (what, blocks) in all {
        let added = a.add(&what).await.expect("add");
        if let Some(blocks) = blocks {
            assert_eq!(added.blocks, blocks, "{what:?}");
        }
        let fetched = b.fetch(&added.cid).await.expect("fetch");
        assert_eq!((fetched.blocks, fetched.bytes), (added.blocks, added.bytes), "{what:?}");
        assert_eq!(fetched.content_sha256, what.content_sha256(), "{what:?}");
        // A CID with the identity hash holds its block itself, and all graphs share one.
        let shared = match what {
            Make::Graph { .. } => fetched.blocks - fetched.received_blocks <= 1,
            Make::Block {
                hash: Hash::Identity, ..
            } => fetched.received_blocks == 0,
            _ => fetched.received_blocks == fetched.blocks,
        };
        assert!(shared, "{what:?}: {fetched:?}");
        daemon
            .call(&format!("pin/add?arg={}", added.cid))
            .await
            .expect("pin/add");
    }
    // A HAMT has inner nodes: more blocks than files and root.
    let hamt = b.add(&Make::hamt(2, 300, 10)).await.expect("add");
    assert!(hamt.blocks > 301, "{hamt:?}");
}

#[tokio::test]
async fn a_peer_with_a_folder_keeps_its_key_blocks_and_pins() {
    let folder = tempfile::tempdir().expect("folder");
    let options = HeliaOptions {
        folder: Some(folder.path().to_owned()),
        listen: vec![Transport::Tcp],
        ..HeliaOptions::default()
    };
    let peer = HeliaPeer::start_with(options.clone()).await.expect("a Helia peer");
    assert_eq!(peer.addresses().len(), 1);
    assert_eq!(peer.address(Transport::Quic), "");
    let id = peer.peer_id().to_owned();
    let kept = peer.add(&Make::directory(1, 3, 100)).await.expect("add").cid;
    let dropped = peer.add(&Make::bytes(2, 100)).await.expect("add").cid;
    assert_eq!(peer.pin(&kept).await.expect("pin"), 4);
    assert!(peer.is_pinned(&kept).await.expect("pinned"));
    assert!(!peer.is_pinned(&dropped).await.expect("pinned"));
    assert_eq!(
        peer.block(&dropped).await.expect("block"),
        Some(seeded_bytes(2, 0, 100))
    );
    peer.gc().await.expect("gc");
    assert_eq!(peer.block(&dropped).await.expect("block"), None);
    peer.stop().await.expect("stop");
    assert_eq!(peer.pid(), None);
    let error = peer.block(&kept).await.expect_err("stopped");
    assert!(format!("{error:#}").contains("has ended"), "{error:#}");

    let peer = HeliaPeer::start_with(options).await.expect("a Helia peer");
    assert_eq!(peer.peer_id(), id);
    assert!(peer.is_pinned(&kept).await.expect("pinned"));
    let fetched = peer.fetch(&kept).await.expect("fetch");
    assert_eq!(
        (fetched.blocks, fetched.received_blocks, fetched.files),
        (4, 0, Some(3))
    );
    peer.unpin(&kept).await.expect("unpin");
    assert!(!peer.is_pinned(&kept).await.expect("pinned"));
    peer.kill().expect("kill");
    assert_eq!(peer.pid(), None);
}

#[tokio::test]
async fn what_can_not_be_done_is_an_error_in_time() {
    let (a, b) = pair().await;
    b.connect(a.address(Transport::Tcp)).await.expect("connect");
    let limit = Duration::from_millis(500);
    let lost = cid(1);
    let begun = Instant::now();
    let error = b.fetch_within(&lost, limit, 64).await.expect_err("nobody has it");
    assert!(format!("{error:#}").contains(&lost.to_string()), "{error:#}");
    assert!(begun.elapsed() >= limit);

    // A block that comes while it is waited for is taken.
    let what = Make::bytes(7, 1000);
    let later = a.add(&what).await.expect("add").cid;
    let other = Make::bytes(8, 1000);
    let waiting = b.add(&other).await.expect("add").cid;
    let (fetched, added) = tokio::join!(a.fetch(&waiting), b.fetch(&later));
    assert_eq!(fetched.expect("fetch").content_sha256, other.content_sha256());
    assert_eq!(added.expect("fetch").content_sha256, what.content_sha256());

    // One that stands still sends nothing, and goes on where it stood.
    let what = Make::bytes(9, 3 * 1024 * 1024);
    let added = a.add(&what).await.expect("add");
    a.freeze().expect("freeze");
    let error = b.fetch_within(&added.cid, limit, 64).await.expect_err("frozen");
    assert!(format!("{error:#}").contains("Failed to load block"), "{error:#}");
    a.thaw().expect("thaw");
    check(&what, added, &b.fetch(&added.cid).await.expect("fetch"));

    a.kill().expect("kill");
    let error = b.connect(a.address(Transport::Tcp)).await.expect_err("killed");
    assert!(format!("{error:#}").contains("connect"), "{error:#}");
    let error = a.connections().await.expect_err("killed");
    assert!(format!("{error:#}").contains("has ended"), "{error:#}");
}

#[tokio::test]
async fn car_files_are_made_and_read() {
    let (_folder, daemon) = kubo(Transport::Tcp).await;
    let blocks = [
        Make::bytes(1, 0),
        Make::bytes(2, 3_000_000),
        Make::directory(3, 100, 10),
        Make::hamt(4, 50, 10),
        Make::graph(GraphCodec::DagCbor, 5, 2, 3),
        Make::graph(GraphCodec::DagJson, 6, 10, 1),
        Make::raw_block(Hash::Blake3, b"a block"),
    ];
    for what in &blocks {
        let (file, added) = car::make(what).await.expect("make");
        let report = car::read(&file).await.expect("read");
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.version, &report.roots[..]), (Some(1), &[added.cid][..]));
        assert_eq!((report.blocks, report.bytes), (added.blocks, added.bytes));
        assert_eq!(report.cids[0], added.cid);
    }

    // Kubo's own.
    let content = fresh_bytes(1024 * 1024);
    let root = daemon.add(&content).await.expect("add");
    let file = daemon
        .read(&format!("dag/export?arg={root}"))
        .await
        .expect("dag/export");
    let report = car::read(&file).await.expect("read");
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((&report.roots[..], report.blocks), (&[root][..], 5));

    // Cut off in the last block; with another last byte; and no CAR at all.
    let report = car::read(&file[..file.len() - 1]).await.expect("read");
    assert_eq!((report.blocks, report.missing.len()), (4, 1), "{report:?}");
    assert!(report.error.is_some());
    let mut wrong = file.clone();
    *wrong.last_mut().expect("not empty") ^= 1;
    let report = car::read(&wrong).await.expect("read");
    assert_eq!((report.blocks, &report.error), (5, &None));
    assert_eq!(report.wrong, report.cids[4..]);
    assert!(!report.is_whole());
    let report = car::read(b"no CAR").await.expect("read");
    assert_eq!((report.version, report.blocks), (None, 0));
    assert!(report.error.is_some());
}
