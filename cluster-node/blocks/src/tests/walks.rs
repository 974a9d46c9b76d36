//! Walks: interrupted, repeated, wide.

use super::*;

/// A root of `fan` nodes of `fan` leaves each.
fn tree(fan: u32) -> (Cid, Vec<Block>) {
    let mut blocks = Vec::new();
    let mut roots = Vec::new();
    for node in 0..fan {
        let leaves: Vec<Block> = (0..fan)
            .map(|leaf| raw([node.to_be_bytes(), leaf.to_be_bytes()].concat()))
            .collect();
        let links: Vec<Cid> = leaves.iter().map(Block::cid).collect();
        let block = cbor(&node.to_be_bytes(), &links);
        roots.push(block.cid());
        blocks.extend(leaves);
        blocks.push(block);
    }
    let root = cbor(b"root", &roots);
    let cid = root.cid();
    blocks.push(root);
    (cid, blocks)
}

#[test]
fn a_walk_goes_on_after_a_restart() {
    let (folder, mut store) = fresh();
    let (root, blocks) = tree(20);
    let network = Network::of(&blocks);
    begin(&store, root, Mode::Recursive);
    let (mut fetched, mut seen) = (0, Progress::default());
    let done = loop {
        let walk = store.walk(&root).expect("reads").expect("walking");
        assert_eq!(walk.progress(), seen, "nothing that was handed in is forgotten");
        let mut done = None;
        for _ in 0..9 {
            let step = walk.advance(5).expect("advances");
            fetched += step.missing.len();
            wait(walk.store(network.fetch(&step.missing))).expect("taken");
            if step.next == Next::Finish && step.missing.is_empty() {
                done = Some(wait(walk.finish(now())).expect("finished"));
                break;
            }
        }
        seen = walk.progress();
        // Asked for and never handed in.
        let lost = walk.advance(2).map_or(0, |step| step.missing.len());
        fetched += lost;
        drop(walk);
        drop(store);
        store = open(&folder);
        check(&store);
        collect(&store);
        match done {
            Some(done) => break done,
            None => fetched -= lost,
        }
    };
    assert_eq!(done.progress.blocks, 421);
    assert_eq!(fetched, 421);
    assert_eq!(store.usage().blocks, 421);
    check(&store);
}

#[test]
fn more_than_fits_into_memory_waits_on_disk() {
    let (_folder, store) = fresh();
    // Each node has more links than are kept, and each leaf is fetched while others wait.
    let leaves: Vec<Block> = (0..9_000u32).map(|n| raw(n.to_be_bytes())).collect();
    let cids: Vec<Cid> = leaves.iter().map(Block::cid).collect();
    let nodes: Vec<Block> = cids.chunks(3_000).map(|links| cbor(b"", links)).collect();
    let mut links: Vec<Cid> = nodes.iter().map(Block::cid).collect();
    links.extend(&cids[..5_000]);
    let root = cbor(b"root", &links);
    let network = Network::of(leaves.iter().chain(&nodes).chain([&root]));
    begin(&store, root.cid(), Mode::Recursive);
    let walk = store.walk(&root.cid()).expect("reads").expect("walking");
    let (mut fetched, mut back) = (Vec::new(), 0u32);
    loop {
        let mut step = walk.advance(64).expect("advances");
        // Some can't be had at once.
        if fetched.len() % 5 == 1
            && let Some(cid) = step.missing.pop()
        {
            walk.give_back(&[cid]);
            back += 1;
        }
        fetched.extend(step.missing.clone());
        wait(walk.store(network.fetch(&step.missing))).expect("taken");
        if step.next == Next::Finish && step.missing.is_empty() {
            break;
        }
    }
    assert!(back > 3, "{back}");
    let distinct: std::collections::HashSet<_> = fetched.iter().collect();
    assert_eq!((fetched.len(), distinct.len()), (9_004, 9_004));
    check(&store);
    let pin = wait(walk.finish(now())).expect("finished");
    assert_eq!(pin.progress.blocks, 9_004);
    drop(walk);
    check(&store);
    // All present: nothing is fetched.
    wait(store.unpin(&root.cid())).expect("removed");
    let (pin, fetched) = super::pin(&store, root.cid(), Mode::Recursive, &network);
    assert_eq!((pin.progress.blocks, fetched.len()), (9_004, 0));
    check(&store);
}

#[test]
fn what_is_a_complete_pin_is_not_walked_again() {
    let (_folder, store) = fresh();
    let (inner, blocks) = tree(6);
    let other = raw("other");
    let root = cbor(b"root", &[inner, other.cid()]);
    let network = Network::of(blocks.iter().chain([&other, &root]));
    let (first, _) = pin(&store, inner, Mode::Recursive, &network);
    let (second, fetched) = pin(&store, root.cid(), Mode::Recursive, &network);
    assert_eq!(fetched, [root.cid(), other.cid()]);
    assert_eq!(second.progress.blocks, first.progress.blocks + 2);
    check(&store);
    wait(store.unpin(&inner)).expect("removed");
    collect(&store);
    assert_eq!(store.usage().blocks, 45);
    check(&store);
    // A limited pin must not take the shortcut: it would hold more than it should.
    let (limited, _) = pin(&store, root.cid(), Mode::Depth(1), &network);
    assert_eq!(limited.progress.blocks, 3);
    check(&store);
}

#[test]
fn a_walk_has_one_holder_and_ends_with_its_pin() {
    let (_folder, store) = fresh();
    let (root, blocks) = tree(3);
    let network = Network::of(&blocks);
    assert!(store.walk(&root).expect("reads").is_none());
    begin(&store, root, Mode::Recursive);
    let walk = store.walk(&root).expect("reads").expect("walking");
    assert!(matches!(store.walk(&root), Err(Error::WalkInUse(cid)) if *cid == root));
    let step = walk.advance(1).expect("advances");
    assert_eq!(step.missing, [root]);
    assert_eq!(walk.advance(1).expect("advances").next, Next::Wait);
    wait(store.unpin(&root)).expect("removed");
    // The writer says so when it comes to what is handed in.
    wait(walk.store(network.fetch(&step.missing))).expect("taken");
    let ended = wait(walk.finish(now())).expect_err("over");
    assert!(matches!(ended, Error::WalkEnded(cid) if cid == Box::new(root)));
    assert!(matches!(walk.advance(1), Err(Error::WalkEnded(_))));
    // A new pin has a new walk, whatever the old holder does.
    begin(&store, root, Mode::Recursive);
    let second = store.walk(&root).expect("reads").expect("walking");
    assert!(matches!(wait(walk.finish(now())), Err(Error::WalkEnded(_))));
    drop(walk);
    walk_to_end(&second, &network);
    wait(second.finish(now())).expect("finished");
    check(&store);
}

#[test]
fn a_walk_is_not_finished_before_its_end() {
    let (_folder, store) = fresh();
    let (root, _) = tree(2);
    begin(&store, root, Mode::Recursive);
    let walk = store.walk(&root).expect("reads").expect("walking");
    assert!(matches!(wait(walk.finish(now())), Err(Error::Damaged(_))));
    assert_eq!(store.pin(&root).expect("reads").expect("pinned").state, State::Walking);
    check(&store);
}

#[test]
fn blocks_that_were_not_asked_for_are_not_taken() {
    let (_folder, store) = fresh();
    let (root, blocks) = tree(2);
    begin(&store, root, Mode::Recursive);
    let walk = store.walk(&root).expect("reads").expect("walking");
    wait(walk.store(blocks)).expect("ignored");
    walk.give_back(&[root]);
    assert_eq!(store.usage().blocks, 0);
    assert_eq!(walk.advance(9).expect("advances").missing, [root]);
}

#[test]
fn one_walk_may_be_driven_from_several_threads() {
    let (_folder, store) = fresh();
    let (root, blocks) = tree(30);
    let network = Network::of(&blocks);
    begin(&store, root, Mode::Recursive);
    let walk = store.walk(&root).expect("reads").expect("walking");
    let fetched = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let step = walk.advance(3).expect("advances");
                    fetched.fetch_add(step.missing.len(), std::sync::atomic::Ordering::Relaxed);
                    wait(walk.store(network.fetch(&step.missing))).expect("taken");
                    if step.next == Next::Finish && step.missing.is_empty() {
                        break;
                    }
                    if step.missing.is_empty() {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    assert_eq!(fetched.into_inner(), 931);
    let pin = wait(walk.finish(now())).expect("finished");
    assert_eq!(pin.progress.blocks, 931);
    check(&store);
}
