//! Garbage collection, beside adds and walks.

use std::time::Duration;

use super::*;

#[test]
fn adds_are_safe_until_they_end() {
    let (_folder, store) = fresh();
    let old = raw("old");
    put(&store, &[&old]);
    let session = store.begin_add();
    let leaf = raw("leaf");
    wait(store.put(Some(&session), vec![leaf.clone(), old.clone()])).expect("stored");
    let later = store.begin_add();
    let other = raw("other");
    wait(store.put(Some(&later), vec![other.clone(), leaf.clone()])).expect("stored");
    // Neither the leaf that nothing links to yet, nor what was there before and was put again.
    assert_eq!(collect(&store), Progress::default());
    drop(session);
    assert_eq!(collect(&store).blocks, 1);
    assert!(!has(&store, &old) && has(&store, &leaf) && has(&store, &other));
    drop(later);
    collect(&store);
    assert_empty(&store);
}

#[test]
fn an_add_protects_what_its_blocks_link_to() {
    let (_folder, store) = fresh();
    let child = raw("child");
    let session = store.begin_add();
    wait(store.put(Some(&session), vec![child.clone()])).expect("stored");
    let root = cbor(b"root", &[child.cid()]);
    wait(store.put(Some(&session), vec![root.clone()])).expect("stored");
    begin(&store, root.cid(), Mode::Recursive);
    drop(session);
    // The pin has been begun: that is enough.
    assert_eq!(collect(&store), Progress::default());
    let (pin, fetched) = pin(&store, root.cid(), Mode::Recursive, &Network::default());
    assert_eq!((pin.progress.blocks, fetched.len()), (2, 0));
    check(&store);
}

#[test]
fn half_an_add_is_garbage_after_a_crash() {
    let (folder, store) = fresh();
    let session = store.begin_add();
    let leaf = raw("leaf");
    wait(store.put(Some(&session), vec![leaf.clone()])).expect("stored");
    drop(store);
    std::mem::forget(session);
    let _ = leaf;
    // The handle in the add keeps the database open, so a copy is what a crash leaves.
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder.path()).expect("lists") {
        let entry = entry.expect("lists");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    let store = open(&copy);
    assert_eq!(store.usage().blocks, 1);
    let _session = store.begin_add();
    assert_eq!(
        collect(&store).blocks,
        1,
        "epochs of this run are later than all of the one before"
    );
    assert_empty(&store);
}

#[test]
fn what_a_running_walk_fetched_is_safe() {
    let (_folder, store) = fresh();
    let leaves: Vec<Block> = (0..40u32).map(|n| raw(n.to_be_bytes())).collect();
    let links: Vec<Cid> = leaves.iter().map(Block::cid).collect();
    let root = cbor(b"root", &links);
    let network = Network::of(leaves.iter().chain([&root]));
    begin(&store, root.cid(), Mode::Recursive);
    let walk = store.walk(&root.cid()).expect("reads").expect("walking");
    for _ in 0..5 {
        let step = walk.advance(4).expect("advances");
        wait(walk.store(network.fetch(&step.missing))).expect("taken");
        assert_eq!(collect(&store), Progress::default());
    }
    drop(walk);
    wait(store.unpin(&root.cid())).expect("removed");
    assert_eq!(collect(&store).blocks, 17);
    assert_empty(&store);
}

#[test]
fn a_step_keeps_to_its_budget_and_a_pass_finds_all() {
    let (_folder, store) = fresh();
    // A chain, each link of which is garbage only after the one before.
    let mut below = raw("end");
    let mut blocks = vec![below.clone()];
    for n in 0..300u32 {
        below = cbor(&n.to_be_bytes(), &[below.cid()]);
        blocks.push(below.clone());
    }
    let keep = raw("keep");
    pin(&store, keep.cid(), Mode::Direct, &Network::of([&keep]));
    wait(store.put(None, blocks)).expect("stored");
    let estimate = store.gc_estimate(Duration::from_secs(60)).expect("estimates");
    assert_eq!((estimate.garbage.blocks, estimate.looked_at), (301, 1.0));
    let budget = Budget {
        keys: 10,
        ..Budget::default()
    };
    let (mut cursor, mut deleted, mut steps, mut done) = (Some(GcCursor::default()), 0, 0, 0.0);
    while let Some(at) = cursor {
        let step = store.gc_step(at, budget).expect("a step");
        assert!(step.scanned <= 10, "{}", step.scanned);
        assert!(step.done >= done && step.done <= 1.0, "{done} then {}", step.done);
        done = step.done;
        deleted += step.deleted.blocks;
        steps += 1;
        cursor = step.next;
    }
    assert_eq!((deleted, done), (301, 1.0));
    assert!(steps >= 30, "{steps}");
    assert_eq!(store.usage().blocks, 1);
    check(&store);
    let estimate = store.gc_estimate(Duration::from_secs(60)).expect("estimates");
    assert_eq!(estimate.garbage, Progress::default());
}

#[test]
fn an_estimate_knows_what_several_hold() {
    let (_folder, store) = fresh();
    let leaf = raw("leaf");
    let held = raw("held");
    let parents: Vec<Block> = (0..5u32)
        .map(|n| cbor(&n.to_be_bytes(), &[leaf.cid(), held.cid()]))
        .collect();
    let root = cbor(b"root", &[held.cid()]);
    let network = Network::of([&held, &root]);
    pin(&store, root.cid(), Mode::Recursive, &network);
    put(&store, &parents.iter().chain([&leaf]).collect::<Vec<_>>());
    let estimate = store.gc_estimate(Duration::from_secs(60)).expect("estimates");
    assert_eq!(estimate.garbage.blocks, 6);
    assert_eq!(estimate.garbage, collect(&store), "it is what is then collected");
    check(&store);
}

#[test]
fn references_of_what_never_came_go_too() {
    let (_folder, store) = fresh();
    let root = cbor(b"root", &[raw("never").cid(), raw("neither").cid()]);
    put(&store, &[&root]);
    assert!(store.is_referenced(&raw("never").cid()).expect("reads"));
    assert_eq!(collect(&store).blocks, 1);
    assert_empty(&store);
    let mut rows = store.shared().rows(crate::options::REFS, None);
    rows.seek_to_first();
    assert_eq!(rows.key(), None, "not even rows that say nothing");
}

#[test]
fn deleted_blocks_give_back_their_space() {
    let (_folder, store) = fresh();
    let mut dice = Dice::new(7);
    let mut noise = || -> Vec<u8> { (0..16_384).flat_map(|_| dice.below(u64::MAX).to_le_bytes()).collect() };
    let blocks: Vec<Block> = (0..160).map(|_| raw(noise())).collect();
    let keep = &blocks[..8];
    for block in keep {
        begin(&store, block.cid(), Mode::Direct);
    }
    for some in blocks.chunks(16) {
        wait(store.put(None, some.to_vec())).expect("stored");
    }
    store.flush().expect("flushed");
    let before = store.disk_bytes().expect("reads");
    assert!(before > 160 * 131_072, "{before}");
    assert_eq!(collect(&store).blocks, 152);
    store.reclaim().expect("reclaimed");
    let after = store.disk_bytes().expect("reads");
    assert!(after < before / 2, "{before} bytes before, {after} after");
    assert!(keep.iter().all(|block| has(&store, block)));
    check(&store);
}
