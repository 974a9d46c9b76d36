mod crash;

use std::collections::BTreeMap;

use multihash_codetable::{Code, MultihashDigest};
use node_core::{ErrorClass, PinMode};
use proptest::prelude::*;

use super::*;

fn cid(n: u64) -> Cid {
    let hash = Code::Sha2_256.digest(&n.to_be_bytes());
    let mut bytes = vec![1, 0x55];
    bytes.extend_from_slice(&hash.to_bytes());
    Cid::from_bytes(&bytes).expect("a valid CID")
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn entry(status: Status, due: u64) -> Entry {
    let mut entry = Entry::queued(PinMode::Recursive, 1, at(due));
    entry.status = status;
    if entry.lane().is_none() {
        // Not stored for entries that wait for nothing: reads back as the time of the change.
        entry.next_due = entry.changed;
    }
    entry
}

fn open(dir: &tempfile::TempDir) -> Ledger {
    // Small memtables, so that the tests also read what went to disk.
    let options = LedgerOptions {
        memtable_bytes: 256 << 10,
        cache_bytes: 1 << 20,
        ..LedgerOptions::default()
    };
    Ledger::open(dir.path(), &options).expect("opens")
}

const NODE: NodeId = NodeId(3);

#[test]
fn an_edit_sees_what_the_one_before_it_left() {
    let dir = tempfile::tempdir().expect("folder");
    let ledger = open(&dir);
    let bump = || {
        Edit::new(NODE, cid(1), |old| {
            let mut next = old.cloned().unwrap_or_else(|| entry(Status::Queued, 7));
            next.attempts += 1;
            Change::Put(next)
        })
    };
    let after = ledger
        .edit_blocking(vec![bump(), bump(), Edit::new(NODE, cid(2), |_| Change::Keep)])
        .expect("edits");
    assert_eq!(
        after
            .iter()
            .map(|entry| entry.as_ref().map(|e| e.attempts))
            .collect::<Vec<_>>(),
        [Some(1), Some(2), None]
    );
    let after = ledger
        .edit_blocking(vec![bump(), Edit::new(NODE, cid(1), |_| Change::Delete), bump()])
        .expect("edits");
    assert_eq!(after[2].as_ref().map(|entry| entry.attempts), Some(1));
    assert_eq!(ledger.counts(NODE).of(Status::Queued), 1);
    ledger.check().expect("consistent");
}

#[test]
fn queues_are_read_in_order_and_from_where_they_begin() {
    let dir = tempfile::tempdir().expect("folder");
    let ledger = open(&dir);
    let put = |n, status, due| Edit::put(NODE, cid(n), entry(status, due));
    let edits = (0..100)
        .map(|n| put(n, Status::Queued, 1_000 + n))
        .chain([put(500, Status::Retrying, 5)])
        .collect();
    ledger.edit_blocking(edits).expect("edits");
    let fresh = |now, limit| ledger.due(NODE, Lane::Fresh, at(now), limit, |_| false).expect("reads");
    let found = fresh(1_009, 1_000);
    assert_eq!(
        found.items.iter().map(|(due, _)| due.as_millis()).collect::<Vec<_>>(),
        (1_000..1_010).collect::<Vec<_>>()
    );
    assert_eq!(found.next, Some(at(1_010)));
    assert_eq!(ledger.oldest_queued(NODE).expect("reads"), Some(at(1_000)));

    // Empty the queue from the front, then put something in front of where it had begun.
    for n in 0..100 {
        assert_eq!(fresh(u64::MAX, 1).items, [(at(1_000 + n), cid(n))]);
        ledger.edit_blocking(vec![put(n, Status::Pinned, 0)]).expect("edits");
    }
    assert_eq!(fresh(u64::MAX, 10), Due::default());
    ledger.edit_blocking(vec![put(200, Status::Queued, 50)]).expect("edits");
    assert_eq!(fresh(u64::MAX, 10).items, [(at(50), cid(200))]);
    assert_eq!(
        ledger.due(NODE, Lane::Retry, at(4), 10, |_| false).expect("reads").next,
        Some(at(5))
    );
    let skipped = ledger
        .due(NODE, Lane::Retry, at(9), 10, |found| *found == cid(500))
        .expect("reads");
    assert_eq!(skipped, Due::default());
}

/// Whoever walks the pages takes a short one for the last: what goes meanwhile must cost nobody else.
#[test]
fn pages_of_a_state_end_with_its_last_entry_and_not_where_others_go() {
    const ENTRIES: u64 = 2_000;
    const PAGE: usize = 100;
    /// Each round lets a thousand entries go and come back in two batches, so that a page falls into one or the other.
    const ROUNDS: usize = 60;
    let dir = tempfile::tempdir().expect("folder");
    let ledger = open(&dir);
    let unpinning = |n| Edit::put(NODE, cid(n), entry(Status::Unpinning, 1));
    ledger
        .edit_blocking((0..ENTRIES).map(unpinning).collect())
        .expect("edits");
    let mut stay: Vec<Cid> = (0..ENTRIES).step_by(2).map(cid).collect();
    stay.sort_unstable();
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let go = || (1..ENTRIES).step_by(2);
            for _ in 0..ROUNDS {
                let gone = go().map(|n| Edit::new(NODE, cid(n), |_| Change::Delete)).collect();
                ledger.edit_blocking(gone).expect("edits");
                ledger.edit_blocking(go().map(unpinning).collect()).expect("edits");
            }
        });
        let mut is_last = false;
        // Once more after the last change.
        while !is_last {
            is_last = others.is_finished();
            let mut seen = Vec::new();
            loop {
                let after = seen.last();
                let page = ledger.scan_status(NODE, Status::Unpinning, after, PAGE).expect("reads");
                seen.extend(page.iter().map(|(cid, _)| *cid));
                if page.len() < PAGE {
                    break;
                }
            }
            assert!(seen.is_sorted_by(|a, b| a < b), "each once, in order");
            let missing = stay.iter().filter(|cid| seen.binary_search(cid).is_err()).count();
            assert_eq!(missing, 0, "of {}", stay.len());
        }
    });
    ledger.check().expect("consistent");
}

#[test]
fn a_dropped_node_leaves_nothing_and_touches_no_other() {
    let dir = tempfile::tempdir().expect("folder");
    let ledger = open(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    for node in [NodeId(2), NODE, NodeId(4)] {
        let edits = (0..50)
            .map(|n| Edit::put(node, cid(n), entry(Status::Queued, n)))
            .collect();
        ledger.edit_blocking(edits).expect("edits");
    }
    runtime.block_on(ledger.drop_node(NODE)).expect("drops");
    assert_eq!(ledger.nodes(), [NodeId(2), NodeId(4)]);
    assert_eq!(ledger.page(NODE, None, 10).expect("reads"), []);
    assert_eq!(ledger.page(NodeId(4), None, 100).expect("reads").len(), 50);
    assert_eq!(ledger.check().expect("consistent").entries, 100);
    ledger
        .edit_blocking(vec![Edit::put(NODE, cid(1), entry(Status::Queued, 3))])
        .expect("edits");
    assert_eq!(
        ledger
            .due(NODE, Lane::Fresh, at(9), 10, |_| false)
            .expect("reads")
            .items
            .len(),
        1
    );
}

#[test]
fn notes_are_kept_per_node_and_go_with_it() {
    let dir = tempfile::tempdir().expect("folder");
    let ledger = open(&dir);
    assert_eq!(ledger.note(NODE, Note::Daemon).expect("reads"), None);
    for node in [NODE, NodeId(4)] {
        ledger.set_note(node, Note::Daemon, b"12D3").expect("writes");
        ledger
            .set_note(node, Note::Audited, &node.0.to_be_bytes())
            .expect("writes");
    }
    drop(ledger);
    let ledger = open(&dir);
    assert_eq!(ledger.nodes(), [], "a note is no entry");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(ledger.drop_node(NODE)).expect("drops");
    assert_eq!(ledger.note(NODE, Note::Daemon).expect("reads"), None);
    assert_eq!(ledger.note(NODE, Note::Audited).expect("reads"), None);
    let other = ledger.note(NodeId(4), Note::Daemon).expect("reads");
    assert_eq!(other.as_deref(), Some(&b"12D3"[..]));
    ledger.check().expect("consistent");
}

#[test]
fn a_sync_waits_for_the_one_that_runs() {
    let dir = tempfile::tempdir().expect("folder");
    let ledger = Arc::new(open(&dir));
    ledger
        .edit_blocking(vec![Edit::put(NODE, cid(1), entry(Status::Queued, 1))])
        .expect("edits");
    // Somebody else has taken the mark and is about to flush.
    let running = ledger.shared.syncing.lock();
    ledger.shared.unsynced.store(false, Ordering::Release);
    let (done, ended) = std::sync::mpsc::channel();
    let second = Arc::clone(&ledger);
    let thread = std::thread::spawn(move || {
        second.sync().expect("syncs");
        done.send(()).expect("heard");
    });
    let wait = std::time::Duration::from_millis(100);
    assert!(
        ended.recv_timeout(wait).is_err(),
        "it returned before what it waits for was on disk"
    );
    drop(running);
    ended.recv().expect("it goes on");
    thread.join().expect("ends");
}

#[test]
fn a_newer_ledger_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let ledger = open(&dir);
    let meta = ledger.shared.column(META);
    ledger
        .shared
        .db
        .put_cf(&meta, FORM_KEY, 2_u32.to_be_bytes())
        .expect("writes");
    drop(meta);
    drop(ledger);
    let error = Ledger::open(dir.path(), &LedgerOptions::default())
        .err()
        .expect("refused");
    assert!(matches!(error, Error::Newer { found: 2, known: 1 }), "{error}");
}

#[derive(Debug, Clone)]
enum Step {
    Put { node: u32, n: u64, entry: Entry },
    Delete { node: u32, n: u64 },
    DropNode { node: u32 },
    Reopen,
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let texts = prop_oneof![
        Just(String::new()),
        Just("context deadline exceeded".to_owned()),
        Just("é".repeat(300))
    ];
    (
        0..COUNTS.len(),
        0..5_000_u64,
        0..4_u32,
        texts,
        0..=ErrorClass::ALL.len(),
        any::<(bool, bool, bool)>(),
        0..3_u64,
    )
        .prop_map(
            |(status, time, attempts, error, class, (direct, ours, found), revision)| {
                let mut entry = entry(COUNTS[status], time);
                entry.mode = if direct { PinMode::Direct } else { PinMode::Recursive };
                entry.attempts = attempts;
                entry.error = error;
                super::entry::normalise(&mut entry);
                entry.class = ErrorClass::ALL.get(class).copied();
                entry.ours = ours;
                entry.found = found.then_some(entry.mode);
                entry.hints = found != ours;
                entry.look_again = found == ours;
                entry.first_failed = (attempts > 2).then(|| at(time / 2));
                entry.revision = revision;
                entry.pinned_at = (status == 1).then(|| at(time.saturating_sub(revision)));
                (entry.blocks, entry.bytes) = (time, time << 20);
                entry
            },
        )
}

fn any_step() -> impl Strategy<Value = Step> {
    let (node, n) = (0..3_u32, 0..40_u64);
    prop_oneof![
        12 => (node.clone(), n.clone(), any_entry()).prop_map(|(node, n, entry)| Step::Put { node, n, entry }),
        4 => (node.clone(), n).prop_map(|(node, n)| Step::Delete { node, n }),
        1 => node.prop_map(|node| Step::DropNode { node }),
        1 => Just(Step::Reopen),
    ]
}

type Model = BTreeMap<(u32, Cid), Entry>;

fn compare(ledger: &Ledger, model: &Model) {
    ledger.check().expect("consistent");
    for node in 0..3 {
        let id = NodeId(node);
        let of_node: Vec<_> = model
            .iter()
            .filter(|((of, _), _)| *of == node)
            .map(|((_, cid), entry)| (*cid, entry.clone()))
            .collect();
        assert_eq!(ledger.page(id, None, 1_000).expect("reads"), of_node);
        if let Some((middle, _)) = of_node.get(of_node.len() / 2) {
            assert_eq!(
                ledger.page(id, Some(middle), 3).expect("reads"),
                of_node
                    .iter()
                    .skip(of_node.len() / 2 + 1)
                    .take(3)
                    .cloned()
                    .collect::<Vec<_>>()
            );
        }
        for status in COUNTS {
            let in_status: Vec<_> = of_node
                .iter()
                .filter(|(_, entry)| entry.status == status)
                .cloned()
                .collect();
            assert_eq!(ledger.counts(id).of(status), in_status.len() as u64);
            assert_eq!(ledger.scan_status(id, status, None, 1_000).expect("reads"), in_status);
        }
        for lane in Lane::ALL {
            let mut due: Vec<_> = of_node
                .iter()
                .filter(|(_, e)| e.lane() == Some(lane))
                .map(|(cid, e)| (e.next_due, *cid))
                .collect();
            due.sort();
            let now = at(2_500);
            let next = due.iter().map(|(time, _)| *time).find(|time| *time > now);
            due.retain(|(time, _)| *time <= now);
            assert_eq!(
                ledger.due(id, lane, now, 1_000, |_| false).expect("reads"),
                Due { items: due, next }
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn it_behaves_like_a_map(steps in prop::collection::vec(any_step(), 1..120)) {
        let dir = tempfile::tempdir().expect("folder");
        let mut ledger = open(&dir);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let mut model = Model::new();
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put { node, n, entry } => {
                    model.insert((node, cid(n)), entry.clone());
                    ledger.edit_blocking(vec![Edit::put(NodeId(node), cid(n), entry)]).expect("edits");
                }
                Step::Delete { node, n } => {
                    model.remove(&(node, cid(n)));
                    ledger.edit_blocking(vec![Edit::new(NodeId(node), cid(n), |_| Change::Delete)]).expect("edits");
                }
                Step::DropNode { node } => {
                    model.retain(|(of, _), _| *of != node);
                    runtime.block_on(ledger.drop_node(NodeId(node))).expect("drops");
                }
                Step::Reopen => {
                    drop(ledger);
                    ledger = open(&dir);
                }
            }
            if index % 16 == 0 {
                compare(&ledger, &model);
            }
        }
        compare(&ledger, &model);
    }
}

#[test]
fn throughput_is_printed() {
    const N: u64 = 50_000;
    let dir = tempfile::tempdir().expect("folder");
    let ledger = Ledger::open(dir.path(), &LedgerOptions::default()).expect("opens");
    let cids: Vec<_> = (0..N).map(cid).collect();
    let timed = |what: &str, run: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        run();
        #[allow(clippy::cast_precision_loss)]
        let rate = N as f64 / start.elapsed().as_secs_f64();
        println!("ledger: {what}: {rate:.0}/s");
    };
    for (what, status) in [
        ("queue", Status::Queued),
        ("retry", Status::Retrying),
        ("pinned", Status::Pinned),
    ] {
        timed(what, &mut || {
            for chunk in cids.chunks(64) {
                let edits = chunk
                    .iter()
                    .map(|cid| Edit::put(NODE, *cid, entry(status, 9)))
                    .collect();
                ledger.edit_blocking(edits).expect("edits");
            }
        });
    }
    let mut seen = 0;
    timed("scan", &mut || {
        let count = |_, entry: Entry| {
            seen += u64::from(entry.status == Status::Pinned);
            ControlFlow::Continue(())
        };
        ledger.scan(NODE, None, count).expect("reads");
    });
    assert_eq!(seen, N);
    println!("ledger: {:?}", ledger.stats());
}
