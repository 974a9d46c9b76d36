//! Many blocks: what must not grow with them.

use std::time::{Duration, Instant};

use super::*;

const LEAVES: u32 = 200_000;
const FAN: usize = 174;

#[test]
fn steps_and_opening_do_not_grow_with_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = BlockStore::open(folder.path(), &StoreOptions::default()).expect("the store opens");
    let session = store.begin_add();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut level: Vec<Cid> = Vec::new();
    let numbers: Vec<u32> = (0..LEAVES).collect();
    for some in numbers.chunks(2_000) {
        let blocks: Vec<Block> = some.iter().map(|n| raw(n.to_be_bytes())).collect();
        level.extend(blocks.iter().map(Block::cid));
        runtime.block_on(store.put(Some(&session), blocks)).expect("stored");
    }
    while level.len() > 1 {
        let blocks: Vec<Block> = level.chunks(FAN).map(|links| cbor(b"", links)).collect();
        level = blocks.iter().map(Block::cid).collect();
        runtime.block_on(store.put(Some(&session), blocks)).expect("stored");
    }
    let root = level[0];
    let (pin, fetched) = pin(&store, root, Mode::Recursive, &Network::default());
    drop(session);
    assert!(fetched.is_empty());
    let blocks = store.usage().blocks;
    assert_eq!(pin.progress.blocks, blocks);
    assert!(blocks > u64::from(LEAVES));

    let all = |expected: u64| {
        let budget = Budget {
            keys: 5_000,
            bytes: 1 << 20,
            time: Duration::from_millis(50),
        };
        let (mut cursor, mut deleted, mut scanned, mut longest) = (Some(GcCursor::default()), 0, 0, Duration::ZERO);
        while let Some(at) = cursor {
            let begun = Instant::now();
            let step = store.gc_step(at, budget).expect("a step");
            longest = longest.max(begun.elapsed());
            assert!(step.scanned <= 5_000, "{}", step.scanned);
            deleted += step.deleted.blocks;
            scanned += step.scanned;
            cursor = step.next;
        }
        assert_eq!(deleted, expected);
        assert!(scanned >= blocks);
        // A few milliseconds beyond its time are a batch of the writer's. This is a bound for machines that do much else.
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        longest
    };
    let kept = all(0);
    store.close().expect("closes");
    drop(store);
    let begun = Instant::now();
    let store = BlockStore::open(folder.path(), &StoreOptions::default()).expect("the store opens");
    let opened = begun.elapsed();
    assert!(opened < Duration::from_secs(2), "{opened:?}");
    assert_eq!(store.usage().blocks, blocks);
    let estimate = store.gc_estimate(Duration::from_secs(600)).expect("estimates");
    assert_eq!(estimate.garbage, Progress::default());
    wait(store.unpin(&root)).expect("removed");
    let estimate = store.gc_estimate(Duration::from_secs(600)).expect("estimates");
    assert_eq!(estimate.garbage.blocks, blocks);

    // All is garbage now, and puts go on meanwhile.
    let (stop, slowest) = (
        std::sync::atomic::AtomicBool::new(false),
        parking_lot::Mutex::new(Duration::ZERO),
    );
    let freed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = LEAVES;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                let begun = Instant::now();
                let session = store.begin_add();
                wait(store.put(Some(&session), vec![raw(n.to_be_bytes())])).expect("stored");
                let mut slowest = slowest.lock();
                *slowest = slowest.max(begun.elapsed());
            }
        });
        let (mut cursor, mut deleted) = (Some(GcCursor::default()), 0);
        while let Some(at) = cursor {
            let step = store.gc_step(at, Budget::default()).expect("a step");
            deleted += step.deleted.blocks;
            cursor = step.next;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        deleted
    });
    assert!(freed >= blocks, "{freed} of {blocks}");
    let slowest = slowest.into_inner();
    assert!(slowest < Duration::from_secs(2), "a put waited {slowest:?}");
    collect(&store);
    assert_empty(&store);
    println!("opened in {opened:?}, longest step {kept:?}, slowest put beside a collection {slowest:?}");
}
