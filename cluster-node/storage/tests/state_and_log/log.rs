//! The log against a list, with restarts and crashes in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cluster_storage::raft_log::{
    Done, LogEngine, LogHead, LogOp, LogOptions, MemoryLogEngine, RaftLog, RaftLogOptions, RocksLogEngine,
};
use proptest::prelude::*;
use tokio::sync::oneshot;

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Truncate(u64),
    Purge(u64),
    Vote(u8),
    Committed(u8),
    Read(u64, u64, usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..8).prop_map(Step::Append),
        2 => (0_u64..12).prop_map(Step::Truncate),
        2 => (0_u64..12).prop_map(Step::Purge),
        1 => any::<u8>().prop_map(Step::Vote),
        1 => any::<u8>().prop_map(Step::Committed),
        4 => (0_u64..40, 0_u64..40, 1_usize..200).prop_map(|(a, b, n)| Step::Read(a, b, n)),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, Bytes>,
    next: u64,
    purged: Option<u64>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    made: u64,
}

enum Disk {
    Rocks(PathBuf),
    Memory(MemoryLogEngine),
}

impl Disk {
    fn open(&self) -> RaftLog {
        let (engine, inline): (Arc<dyn LogEngine>, bool) = match self {
            Self::Rocks(folder) => (
                Arc::new(RocksLogEngine::open(folder, &LogOptions::default()).expect("it opens")),
                false,
            ),
            Self::Memory(engine) => (Arc::new(engine.clone()), true),
        };
        // A ring of a few entries only, so that reads come from both.
        RaftLog::open(
            engine,
            &RaftLogOptions {
                ring_bytes: 64,
                queue_len: 4,
                inline,
            },
        )
        .expect("it opens")
    }
}

fn waiting() -> (Done, oneshot::Receiver<std::io::Result<()>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    (done, receiver)
}

async fn run(disk: Disk, steps: Vec<Step>) {
    let mut model = Model::default();
    let mut log = disk.open();
    let mut acknowledgements = Vec::new();
    for step in steps {
        match step {
            Step::Append(count) => {
                let mut entries = Vec::new();
                for _ in 0..count {
                    model.made += 1;
                    let value = Bytes::from(format!("entry {} made as {}", model.next, model.made));
                    model.entries.insert(model.next, value.clone());
                    entries.push((model.next, value));
                    model.next += 1;
                }
                let (done, receiver) = waiting();
                log.append(entries, done).await.expect("taken");
                acknowledgements.push(receiver);
            }
            Step::Truncate(back) => {
                let floor = model.purged.map_or(0, |purged| purged + 1);
                let from = model.next.saturating_sub(back).max(floor);
                log.truncate(from).await.expect("truncated");
                model.entries.split_off(&from);
                model.next = from;
            }
            Step::Purge(ahead) => {
                // Sometimes beyond the end, as after a snapshot.
                let upto = model.purged.map_or(0, |purged| purged + 1) + ahead;
                log.purge(upto, Bytes::from(format!("purged {upto}")))
                    .await
                    .expect("purged");
                model.entries = model.entries.split_off(&(upto + 1));
                model.purged = Some(upto);
                model.next = model.next.max(upto + 1);
            }
            Step::Vote(vote) => {
                let vote = Bytes::from(vec![vote]);
                log.save_vote(vote.clone()).await.expect("saved");
                model.vote = Some(vote);
            }
            Step::Committed(committed) => {
                let committed = Bytes::from(vec![committed]);
                log.save_committed(committed.clone()).await.expect("saved");
                model.committed = Some(committed);
            }
            Step::Read(start, end, bytes_max) => {
                let start = start.max(model.purged.map_or(0, |purged| purged + 1));
                let read = log.read(start, end, bytes_max).await.expect("read");
                let expected = if start < end {
                    model.entries.range(start..end).collect()
                } else {
                    Vec::new()
                };
                assert!(read.len() <= expected.len());
                assert_eq!(read.is_empty(), expected.is_empty(), "the first entry always comes");
                for (value, (_, of_model)) in read.iter().zip(&expected) {
                    assert_eq!(value, *of_model);
                }
                let bytes: usize = read.iter().map(Bytes::len).sum();
                assert!(
                    read.len() <= 1 || bytes <= bytes_max,
                    "{} entries of {bytes} bytes",
                    read.len()
                );
            }
            Step::Reopen => {
                log.close().await;
                drop(log);
                for receiver in acknowledgements.drain(..) {
                    receiver.await.expect("each is called").expect("written");
                }
                log = disk.open();
                let head = log.head();
                assert_eq!(head.vote, model.vote);
                assert_eq!(head.committed, model.committed);
                let purged = model.purged.map(|upto| (upto, Bytes::from(format!("purged {upto}"))));
                assert_eq!(head.purged, purged);
                let last = model
                    .entries
                    .last_key_value()
                    .map(|(index, value)| (*index, value.clone()));
                assert_eq!(head.last, last);
                let first = model.purged.map_or(0, |purged| purged + 1);
                let all = log.read(first, u64::MAX, usize::MAX).await.expect("read");
                assert_eq!(all, model.entries.values().cloned().collect::<Vec<_>>());
            }
        }
    }
    log.close().await;
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_log_on_rocksdb_is_a_list(mut steps in prop::collection::vec(step(), 1..60)) {
        steps.push(Step::Reopen);
        let folder = tempfile::tempdir().expect("a folder");
        block_on(run(Disk::Rocks(folder.path().join("log")), steps));
    }

    #[test]
    fn the_log_in_memory_is_a_list(mut steps in prop::collection::vec(step(), 1..60)) {
        steps.push(Step::Reopen);
        block_on(run(Disk::Memory(MemoryLogEngine::new()), steps));
    }
}

#[tokio::test]
async fn the_memory_engine_forgets_what_was_not_synced() {
    let engine = MemoryLogEngine::new();
    let disk = Disk::Memory(engine.clone());
    let log = disk.open();
    let (done, receiver) = waiting();
    log.append(vec![(0, Bytes::from_static(b"a"))], done)
        .await
        .expect("taken");
    receiver.await.expect("called").expect("synced");
    log.save_committed(Bytes::from_static(b"c")).await.expect("saved");
    engine.crash();
    let log = disk.open();
    assert_eq!(log.head().committed, None, "it was not synced");
    assert_eq!(
        log.head().last,
        Some((0, Bytes::from_static(b"a"))),
        "it was acknowledged"
    );
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let engine = MemoryLogEngine::new();
    for inline in [false, true] {
        let options = RaftLogOptions {
            inline,
            ..RaftLogOptions::default()
        };
        let log = RaftLog::open(Arc::new(engine.clone()), &options).expect("it opens");
        engine.fail_next_sync("the disk is gone");
        let (done, receiver) = waiting();
        log.append(vec![(0, Bytes::from_static(b"a"))], done)
            .await
            .expect("taken");
        let error = receiver.await.expect("called").expect_err("not synced");
        assert!(error.to_string().contains("the disk is gone"), "{error}");
        let error = log.save_vote(Bytes::from_static(b"v")).await.expect_err("not synced");
        assert!(error.to_string().contains("the disk is gone"), "{error}");
        log.close().await;
    }
}

/// A purge must leave the log readable when it removed whole files, and cost nothing later.
#[tokio::test]
async fn a_long_log_is_purged_and_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::Rocks(folder.path().join("log"));
    let log = disk.open();
    let value = Bytes::from(vec![7; 16 << 10]);
    let count = 4000_u64;
    for chunk in 0..count / 100 {
        let (done, receiver) = waiting();
        let entries = (chunk * 100..(chunk + 1) * 100)
            .map(|index| (index, value.clone()))
            .collect();
        log.append(entries, done).await.expect("taken");
        receiver.await.expect("called").expect("synced");
    }
    for upto in [999, 1999, 3500] {
        log.purge(upto, Bytes::from_static(b"m")).await.expect("purged");
    }
    log.close().await;
    drop(log);
    let log = disk.open();
    assert_eq!(log.head().purged.as_ref().map(|(index, _)| *index), Some(3500));
    assert_eq!(log.head().last.as_ref().map(|(index, _)| *index), Some(count - 1));
    let left = log.read(3501, u64::MAX, usize::MAX).await.expect("read");
    assert_eq!(left.len() as u64, count - 3501);
    assert!(log.read(0, 10, usize::MAX).await.expect("read").is_empty());
}

/// A disk that takes its time.
struct Slow {
    disk: MemoryLogEngine,
    /// Each write waits for a word.
    gate: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl LogEngine for Slow {
    fn load(&self) -> std::io::Result<LogHead> {
        self.disk.load()
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> std::io::Result<Vec<Bytes>> {
        self.disk.read(start, end, bytes_max)
    }

    fn write(&self, ops: Vec<LogOp>, sync: bool) -> std::io::Result<()> {
        // Without a sender every write goes through.
        let _ = self.gate.lock().expect("one writer").recv();
        self.disk.write(ops, sync)
    }
}

fn slow() -> (std::sync::mpsc::Sender<()>, Arc<Slow>) {
    let (open, gate) = std::sync::mpsc::channel();
    let slow = Slow {
        disk: MemoryLogEngine::new(),
        gate: std::sync::Mutex::new(gate),
    };
    (open, Arc::new(slow))
}

/// Dropping files takes a while, and the Raft core calls this itself.
#[tokio::test]
async fn a_purge_does_not_wait_for_the_disk() {
    let (open, engine) = slow();
    let log = RaftLog::open(engine.clone(), &RaftLogOptions::default()).expect("it opens");
    let (done, receiver) = waiting();
    let entries = (0..10).map(|index| (index, Bytes::from(vec![7; 9])));
    log.append(entries.collect(), done).await.expect("taken");
    log.purge(5, Bytes::from_static(b"m")).await.expect("taken");
    assert_eq!(log.read(6, 10, usize::MAX).await.expect("read").len(), 4);
    let (later, after) = waiting();
    log.append(vec![(10, Bytes::from_static(b"x"))], later)
        .await
        .expect("taken");
    drop(open);
    receiver.await.expect("called").expect("written");
    after.await.expect("called").expect("written");
    assert_eq!(engine.load().expect("read").purged, Some((5, Bytes::from_static(b"m"))));
    log.close().await;
}

/// Whoever lets go of the log last closes its database, not some thread that may run while the process exits.
#[tokio::test]
async fn the_engine_is_closed_by_whoever_drops_the_log() {
    let (open, engine) = slow();
    let left = Arc::downgrade(&engine);
    let log = RaftLog::open(engine, &RaftLogOptions::default()).expect("it opens");
    let (done, receiver) = waiting();
    log.append(vec![(0, Bytes::from_static(b"a"))], done)
        .await
        .expect("taken");
    let other = log.clone();
    drop(log);
    assert!(left.upgrade().is_some());
    drop(open);
    drop(other);
    assert!(left.upgrade().is_none(), "the thread still has it");
    receiver.await.expect("called").expect("what was queued is written");
}

#[tokio::test]
async fn a_log_is_claimed_once() {
    let folder = tempfile::tempdir().expect("a folder");
    for disk in [
        Disk::Rocks(folder.path().join("log")),
        Disk::Memory(MemoryLogEngine::new()),
    ] {
        let log = disk.open();
        assert_eq!(log.head().owner, None);
        log.claim(7).await.expect("nobody's");
        log.close().await;
        drop(log);
        let log = disk.open();
        assert_eq!(log.head().owner, Some(7));
        log.claim(7).await.expect("its own");
        let error = log.claim(8).await.expect_err("another's").to_string();
        assert!(error.contains("number 7") && error.contains("number 8"), "{error}");
        log.close().await;
    }
}
