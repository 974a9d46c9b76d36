//! Kill -9 at random moments of adding, walking and collecting: this test binary runs itself as a child, and kills it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::model::shared_dag;
use super::*;

const CHILD: &str = "PINFLEET_BLOCKS_CRASH";
const ROUNDS: u32 = 10;
const WORKERS: u64 = 2;
/// Pins that a worker keeps.
const KEPT: u64 = 6;

fn say(what: &str, worker: u64, round: u64) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\nsaid {what} {worker} {round}");
    let _ = out.flush();
}

fn heard(line: &str) -> Option<(&str, u64, u64)> {
    let mut words = line.strip_prefix("said ")?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Pins and unpins until it is killed, while another thread collects.
fn child(folder: &std::path::Path) {
    let store = BlockStore::open(folder, &small()).expect("the store opens");
    let start: u64 = std::env::var("PINFLEET_BLOCKS_START")
        .expect("set")
        .parse()
        .expect("a number");
    std::thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            loop {
                collect(store);
            }
        });
        for worker in 0..WORKERS {
            scope.spawn(move || {
                for round in start.. {
                    let (root, blocks) = shared_dag(worker, round);
                    if round % 2 == 0 {
                        let session = store.begin_add();
                        for block in &blocks {
                            wait(store.put(Some(&session), vec![block.clone()])).expect("stored");
                        }
                        pin(store, root, Mode::Recursive, &Network::default());
                    } else {
                        pin(store, root, Mode::Recursive, &Network::of(&blocks));
                    }
                    say("pinned", worker, round);
                    if round >= start + KEPT {
                        say("unpinning", worker, round - KEPT);
                        wait(store.unpin(&shared_dag(worker, round - KEPT).0)).expect("removed");
                    }
                }
            });
        }
    });
}

#[test]
fn nothing_that_is_pinned_is_lost_by_a_kill() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return child(folder.as_ref());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut pinned = BTreeSet::new();
    let (mut start, mut total) = (0, 0);
    for attempt in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "tests::crash::nothing_that_is_pinned_is_lost_by_a_kill"])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD, folder.path())
            .env("PINFLEET_BLOCKS_START", format!("{start}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let nanos = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("after 1970")
            .subsec_nanos();
        let life = Duration::from_micros(u64::from(nanos) / 7 % 400_000);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut began: Option<Instant> = None;
        let mut hear = |line: &str| {
            match heard(line) {
                Some(("pinned", worker, round)) => pinned.insert((worker, round)),
                // From when it says so it may be gone; the record tells.
                Some((_, worker, round)) => pinned.remove(&(worker, round)),
                None => return,
            };
            total += 1;
            start = start.max(heard(line).map_or(0, |(_, _, round)| round + 2));
        };
        while began.is_none_or(|began| began.elapsed() < life) {
            let Some(Ok(line)) = lines.next() else { break };
            if heard(&line).is_some() {
                began.get_or_insert_with(Instant::now);
            }
            hear(&line);
        }
        child.kill().expect("SIGKILL");
        // What it said before it died counts too.
        lines.map_while(Result::ok).for_each(|line| hear(&line));
        child.wait().expect("ends");

        let store = open(&folder);
        check(&store);
        let whole = |store: &BlockStore| {
            for (worker, round) in &pinned {
                let (root, blocks) = shared_dag(*worker, *round);
                let pin = store.pin(&root).expect("reads").expect("it was pinned");
                assert_eq!(pin.state, State::Complete, "attempt {attempt}: {worker} {round}");
                for block in &blocks {
                    assert_eq!(store.get(&block.cid()).expect("reads").as_ref(), Some(block.bytes()));
                }
            }
        };
        whole(&store);
        // What was in the middle goes on or goes.
        collect(&store);
        check(&store);
        whole(&store);
        let mut after = None;
        while let Some(pin) = store.pins(after.as_ref(), 1).expect("reads").pop() {
            after = Some(pin.cid);
            if pin.state == State::Walking {
                let round = (0..WORKERS)
                    .flat_map(|worker| (0..start + 1_000).map(move |round| shared_dag(worker, round)))
                    .find(|(root, _)| *root == pin.cid);
                let (root, blocks) = round.expect("the child pins nothing else");
                super::pin(&store, root, Mode::Recursive, &Network::of(&blocks));
                wait(store.unpin(&root)).expect("removed");
            }
        }
        collect(&store);
        check(&store);
    }
    assert!(total > 20, "the children did something: {total}");
    let store = open(&folder);
    while let Some(pin) = store.pins(None, 1).expect("reads").pop() {
        wait(store.unpin(&pin.cid)).expect("removed");
    }
    collect(&store);
    assert_empty(&store);
}
