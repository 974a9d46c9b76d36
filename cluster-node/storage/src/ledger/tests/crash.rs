//! Kill -9: this test binary runs itself as a child that writes, and kills it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const CRASH_DIR: &str = "PINFLEET_TEST_LEDGER_DIR";

/// Not a test of its own: what the child process of the next one runs until it is killed.
#[test]
fn crash_child() {
    let Ok(dir) = std::env::var(CRASH_DIR) else { return };
    let options = LedgerOptions {
        memtable_bytes: 256 << 10,
        ..LedgerOptions::default()
    };
    let ledger = Ledger::open(Path::new(&dir), &options).expect("opens");
    // Each CID goes through its whole life; what is printed has been acknowledged.
    for n in 0_u64.. {
        let stages = [Status::Queued, Status::Retrying, Status::Pinned, Status::Unpinning];
        let edits = (0..=3_u64.min(n)).map(|back| {
            let stage = stages[usize::try_from(back).expect("small")];
            Edit::put(NODE, cid(n - back), entry(stage, n))
        });
        ledger.edit_blocking(edits.collect()).expect("edits");
        println!("done {n}");
        if n % 64 == 0 {
            ledger.sync().expect("syncs");
        }
    }
}

#[test]
fn kill_9_at_any_moment_leaves_all_tables_in_agreement() {
    let test = "ledger::tests::crash::crash_child";
    for round in 0..8_u64 {
        let dir = tempfile::tempdir().expect("folder");
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut done = None;
        // An uneven number of steps, then the kill falls wherever the child is by then.
        for line in lines {
            done = line
                .expect("reads")
                .strip_prefix("done ")
                .and_then(|n| n.parse::<u64>().ok())
                .or(done);
            if done.is_some_and(|n| n >= 100 + round * 397) {
                break;
            }
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        let done = done.expect("the child wrote something");
        let ledger = open(&dir);
        let checked = ledger.check().expect("consistent");
        assert!(checked.entries > done, "acknowledged {done}, found {checked:?}");
        // Nothing acknowledged went back to an earlier stage: all but the last few are at the end of their life.
        assert!(ledger.counts(NODE).of(Status::Unpinning) >= done.saturating_sub(3));
        let all: BTreeSet<_> = ledger
            .page(NODE, None, usize::MAX)
            .expect("reads")
            .into_iter()
            .map(|(cid, _)| cid)
            .collect();
        assert!((0..=done).all(|n| all.contains(&cid(n))));
    }
}

const RANDOM_DIR: &str = "PINFLEET_TEST_LEDGER_RANDOM_DIR";
const WRITERS: u32 = 3;

/// What writer number `node` has done when it is at step `n`: the last two are pinned, the one before goes, all others
/// are gone.
fn step(node: NodeId, n: u64) -> Vec<Edit> {
    let stages = [Status::Queued, Status::Pinned, Status::Unpinning];
    let puts = stages
        .iter()
        .zip(0..)
        .filter(|(_, back)| *back <= n)
        .map(|(status, back)| {
            let mut entry = entry(*status, n - back);
            entry.attempts = u32::try_from(n - back).expect("small");
            Edit::put(node, cid(n - back), entry)
        });
    let gone = n
        .checked_sub(3)
        .map(|gone| Edit::new(node, cid(gone), |_| Change::Delete));
    puts.chain(gone).collect()
}

/// The step of the newest entry.
fn reached(ledger: &Ledger, node: NodeId) -> Option<u64> {
    let page = ledger.page(node, None, 100).expect("reads");
    page.iter().map(|(_, entry)| u64::from(entry.attempts)).max()
}

/// Not a test of its own: what the child process of the next one runs until it is killed.
#[test]
fn random_crash_child() {
    let Ok(dir) = std::env::var(RANDOM_DIR) else { return };
    let options = LedgerOptions {
        memtable_bytes: 256 << 10,
        ..LedgerOptions::default()
    };
    let ledger = Ledger::open(Path::new(&dir), &options).expect("opens");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let ledger = &ledger;
            scope.spawn(move || {
                let node = NodeId(writer);
                for n in reached(ledger, node).map_or(0, |n| n + 1).. {
                    ledger.edit_blocking(step(node, n)).expect("edits");
                    ledger.set_note(node, Note::Audited, &n.to_be_bytes()).expect("writes");
                    // All of them at once, now and then: each must wait for what it wrote itself.
                    if n % 5 == 0 {
                        ledger.sync().expect("syncs");
                        let mut out = std::io::stdout().lock();
                        let _ = writeln!(out, "synced={writer} {n}");
                        let _ = out.flush();
                    }
                }
            });
        }
    });
}

fn said(line: &str) -> Option<(u32, u64)> {
    // The harness prints on the same line, so it is looked for.
    let (writer, n) = line.split("synced=").nth(1)?.trim().split_once(' ')?;
    Some((writer.parse().ok()?, n.parse().ok()?))
}

#[test]
fn kill_9_at_random_moments_loses_nothing_that_was_synced() {
    let dir = tempfile::tempdir().expect("folder");
    let mut synced: BTreeMap<u32, u64> = BTreeMap::new();
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([
                "ledger::tests::crash::random_crash_child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(RANDOM_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let nanos = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("after 1970")
            .subsec_nanos();
        let life = Duration::from_micros(u64::from(nanos) / 7 % 120_000);
        let mut began = None;
        while began.is_none_or(|began: Instant| began.elapsed() < life) {
            let Some(Ok(line)) = lines.next() else { break };
            if let Some((writer, n)) = said(&line) {
                synced.insert(writer, n);
                began.get_or_insert_with(Instant::now);
            }
        }
        child.kill().expect("SIGKILL");
        // What it said before it died counts too.
        for (writer, n) in lines.map_while(Result::ok).filter_map(|line| said(&line)) {
            synced.insert(writer, n);
        }
        child.wait().expect("ends");

        let ledger = open(&dir);
        ledger.check().expect("consistent");
        for writer in 0..WRITERS {
            let node = NodeId(writer);
            let (last, acknowledged) = (reached(&ledger, node), synced.get(&writer).copied());
            assert!(
                last >= acknowledged,
                "round {round}: {acknowledged:?} was synced, found {last:?}"
            );
            let Some(last) = last else { continue };
            // Each batch is there whole or not at all.
            let found: Vec<_> = ledger.page(node, None, 100).expect("reads");
            let statuses: BTreeMap<u64, Status> = found
                .iter()
                .map(|(_, entry)| (u64::from(entry.attempts), entry.status))
                .collect();
            let expected = [Status::Queued, Status::Pinned, Status::Unpinning];
            let expected: BTreeMap<u64, Status> = expected
                .into_iter()
                .zip(0..)
                .filter(|(_, back)| *back <= last)
                .map(|(status, back)| (last - back, status))
                .collect();
            assert_eq!(statuses, expected, "round {round}");
            let note = ledger.note(node, Note::Audited).expect("reads");
            let note = note.map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
            assert!(note >= acknowledged && note <= Some(last), "round {round}: {note:?}");
        }
    }
    assert!(synced.values().sum::<u64>() > 50, "the child did something: {synced:?}");
}
