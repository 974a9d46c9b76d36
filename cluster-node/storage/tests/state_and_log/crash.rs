//! Kill -9 at random points: this test binary runs itself as a child that writes, and kills it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_storage::Overlay;
use cluster_storage::raft_log::{Done, LogOptions, RaftLog, RaftLogOptions, RocksLogEngine};
use node_core::pinset::{KvRead, KvWrite, Table};

use crate::{open, rows};

const CHILD: &str = "PINFLEET_CRASH_CHILD";
const ROUNDS: u64 = 12;

/// Tables of which each batch writes one row: after a crash all end at the same batch.
const TABLES: [Table; 6] = [
    Table::Pins,
    Table::CidPins,
    Table::Placements,
    Table::ByName,
    Table::Changes,
    Table::Todo,
];

/// A number that differs from run to run.
fn random(seed: u64) -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    u64::from(now.subsec_nanos())
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(seed)
        >> 33
}

/// Runs one test of this binary as a child and kills it after a random time; returns the last number it said.
fn run_and_kill(test: &str, folder: &std::path::Path, round: u64) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the child starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let life = Duration::from_millis(5 + random(round) % 250);
    let mut last = None;
    let mut began = None;
    for line in &mut lines {
        let Ok(line) = line else { break };
        // The harness prints on the same line, so the number is looked for.
        let Some(number) = line.split("acked=").nth(1).and_then(|rest| rest.trim().parse().ok()) else {
            continue;
        };
        last = Some(number);
        if began.get_or_insert_with(Instant::now).elapsed() >= life {
            break;
        }
    }
    child.kill().expect("killed");
    // What it said before it died counts too.
    for line in lines.map_while(Result::ok) {
        if let Some(number) = line.split("acked=").nth(1).and_then(|rest| rest.trim().parse().ok()) {
            last = Some(number);
        }
    }
    child.wait().expect("gone");
    last
}

fn say(number: u64) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "acked={number}");
    let _ = out.flush();
}

fn open_log(folder: &std::path::Path) -> RaftLog {
    let engine = RocksLogEngine::open(&folder.join("log"), &LogOptions::default()).expect("the log opens");
    RaftLog::open(
        Arc::new(engine),
        &RaftLogOptions {
            ring_bytes: 1 << 16,
            ..RaftLogOptions::default()
        },
    )
    .expect("the log opens")
}

fn entry(index: u64) -> Bytes {
    let mut value = index.to_be_bytes().to_vec();
    value.resize(8 + usize::try_from(index % 700).expect("small"), 0x5a);
    value.into()
}

#[test]
fn acknowledged_entries_survive() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    if let Some(folder) = std::env::var_os(CHILD) {
        runtime().block_on(write_log(folder.as_ref()));
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut acked = None;
    for round in 0..ROUNDS {
        acked = run_and_kill("crash::acknowledged_entries_survive", folder.path(), round).or(acked);
        let log = open_log(folder.path());
        let last = log.head().last.as_ref().map(|(index, _)| *index);
        let purged = log.head().purged.as_ref().map(|(index, _)| *index);
        assert!(
            last.max(purged) >= acked,
            "round {round}: {acked:?} was acknowledged, the log ends at {last:?}"
        );
        runtime().block_on(async {
            let first = purged.map_or(0, |purged| purged + 1);
            let entries = log.read(first, u64::MAX, usize::MAX).await.expect("read");
            assert_eq!(
                entries.len() as u64,
                last.map_or(0, |last| last + 1 - first),
                "round {round}: no holes"
            );
            for (value, index) in entries.iter().zip(first..) {
                assert_eq!(*value, entry(index), "round {round}");
            }
            log.close().await;
        });
    }
    assert!(acked > Some(100), "the child did something: {acked:?}");
}

async fn write_log(folder: &std::path::Path) {
    let log = open_log(folder);
    let purged = log.head().purged.as_ref().map(|(index, _)| *index);
    let mut next = log
        .head()
        .last
        .as_ref()
        .map(|(index, _)| *index)
        .or(purged)
        .map_or(0, |last| last + 1);
    loop {
        let count = 1 + next % 5;
        let last = next + count - 1;
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                say(last);
            }
        });
        log.append((next..=last).map(|index| (index, entry(index))).collect(), done)
            .await
            .expect("taken");
        next = last + 1;
        if next % 97 < count {
            log.save_committed(entry(next)).await.expect("saved");
        }
        if next % 501 < count && next > 400 {
            log.purge(next - 400, Bytes::from_static(b"m")).await.expect("purged");
        }
    }
}

#[test]
fn the_state_comes_back_as_it_was_at_one_batch() {
    if let Some(folder) = std::env::var_os(CHILD) {
        write_state(folder.as_ref());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut flushed = 0;
    for round in 0..ROUNDS {
        // The child says which batches a flush has made durable.
        let said = run_and_kill(
            "crash::the_state_comes_back_as_it_was_at_one_batch",
            folder.path(),
            round,
        );
        flushed = said.unwrap_or(0).max(flushed);
        let store = open(folder.path());
        let db = store.current();
        let applied = applied(&*db);
        assert!(
            applied >= flushed,
            "round {round}: {flushed} was flushed, the state is at {applied}"
        );
        let found = rows(&*db, &TABLES);
        let expected = TABLES
            .iter()
            .flat_map(|table| (1..=applied).map(|batch| (*table, row_key(batch))));
        let found_keys = found.iter().map(|(table, key, _)| (*table, key.clone()));
        assert!(
            found_keys.eq(expected),
            "round {round}: the tables differ at batch {applied}"
        );
    }
    assert!(flushed > 10, "the child did something: {flushed}");
}

fn applied(kv: &dyn KvRead) -> u64 {
    let row = kv.get(Table::Meta, b"raft/applied").expect("read");
    row.map_or(0, |row| u64::from_be_bytes(row.try_into().expect("eight bytes")))
}

fn row_key(batch: u64) -> Vec<u8> {
    batch.to_be_bytes().to_vec()
}

fn write_state(folder: &std::path::Path) -> ! {
    // Little memory, so that RocksDB flushes by itself at moments of its own.
    let options = cluster_storage::StateOptions {
        write_buffers_bytes: 1 << 20,
        ..Default::default()
    };
    let store = cluster_storage::StateStore::open(folder, options).expect("the state opens");
    let db = store.current();
    let mut batch = applied(&*db);
    loop {
        batch += 1;
        let mut overlay = Overlay::new(&db);
        for (table, number) in TABLES.into_iter().zip(1..) {
            overlay.put(table, row_key(batch), vec![number; 512]);
        }
        overlay.put(Table::Meta, b"raft/applied".to_vec(), row_key(batch));
        store.write(overlay.into_batch()).expect("written");
        if batch.is_multiple_of(150) {
            store.flush().expect("flushed");
            say(batch);
        } else if batch.is_multiple_of(20) {
            say(0);
        }
    }
}
