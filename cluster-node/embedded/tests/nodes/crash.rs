//! Killed in the middle of fetching: a child process, SIGKILL, and the folder opened again.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use cluster_embedded::{EmbeddedNode, State};
use cluster_ipfs::{IpfsNode as _, LookFor};
use node_core::{Cid, PinMode};

use crate::support::*;

/// The variables by which the child is told what to do: folder, address of the one who has it, CID.
const DIR: &str = "PINFLEET_TEST_CRASH_DIR";
const FELLOW: &str = "PINFLEET_TEST_CRASH_FELLOW";
const ROOT: &str = "PINFLEET_TEST_CRASH_ROOT";

/// Not a test by itself: what the child does. It ends at once where it is not one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_fetches_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let of = |name: &str| std::env::var(name).expect(name);
    let root: Cid = of(ROOT).parse().expect("cid");
    let node = EmbeddedNode::start(config(dir.as_ref())).await.expect("a node");
    node.set_fellows(&[of(FELLOW).parse().expect("address")])
        .expect("fellow");
    let sink = |progress: cluster_ipfs::Progress| eprintln!("blocks {}", progress.blocks);
    node.pin_add(&root, PinMode::Recursive, "n", &sink)
        .await
        .expect("pinned");
    eprintln!("blocks done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_goes_on_and_lies_about_nothing() {
    let a = Node::with(|config| {
        // Slow, so that there is a middle to be killed in.
        config.swarm.server.bytes_per_second = 2_000_000;
    })
    .await;
    let blocks = tree(1, 20, 40, 10_000);
    a.put(&blocks).await;
    let dir = tempfile::tempdir().expect("folder");
    let mut fetched_before = 0;
    for kill_at in [50, 200, 400] {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "crash::child_that_fetches_until_it_is_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIR, dir.path())
            .env(FELLOW, a.node.addresses()[0].to_string())
            .env(ROOT, root(&blocks).to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let killed = tokio::task::spawn_blocking(move || {
            let mut last = String::new();
            for line in lines {
                last = line.expect("text");
                let blocks = last.strip_prefix("blocks ").and_then(|rest| rest.parse::<u64>().ok());
                if blocks.is_some_and(|blocks| blocks >= kill_at) {
                    break;
                }
            }
            child.kill().expect("killed");
            child.wait().expect("gone");
            last
        });
        let last = within("the child gets so far", killed).await.expect("ran");
        assert!(last.starts_with("blocks ") && last != "blocks done", "{last}");

        let b = Node::open(tempfile::tempdir().expect("folder"), |config| {
            config.dir = dir.path().to_owned()
        })
        .await;
        let pins = b.node.pins(None, 10).await.expect("pins");
        assert_eq!(pins.len(), 1);
        assert_eq!(pins[0].state, State::Walking);
        assert_eq!(
            b.node.pin_ls(&root(&blocks), LookFor::Recursive).await.expect("listed"),
            None
        );
        let there = b.has(&blocks);
        assert!(
            there >= fetched_before,
            "what was synced stays: {there} after {fetched_before}"
        );
        assert!(
            pins[0].progress.blocks <= there as u64,
            "no block is counted that is not there"
        );
        // Nothing of the walk is garbage.
        within("collecting", b.node.collect_garbage()).await.expect("collected");
        assert_eq!(b.has(&blocks), there);
        fetched_before = there;
        b.stop().await;
    }
    let b = Node::open(tempfile::tempdir().expect("folder"), |config| {
        config.dir = dir.path().to_owned()
    })
    .await;
    b.knows(&[&a]);
    within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "n", &silent),
    )
    .await
    .expect("pinned");
    assert_eq!(b.has(&blocks), blocks.len());
    assert_eq!(
        b.fetched().await,
        (blocks.len() - fetched_before) as u64,
        "nothing is fetched twice"
    );
    b.stop().await;
    a.stop().await;
}
