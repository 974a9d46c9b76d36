//! Pins: begun, changed, removed.

use super::*;

#[test]
fn a_pin_is_complete_once_all_was_seen() {
    let (folder, store) = fresh();
    let (a, b) = (raw("a"), raw("b"));
    let mid = cbor(b"mid", &[a.cid(), b.cid(), a.cid()]);
    let root = pb(b"root", &[mid.cid(), b.cid()]);
    let network = Network::of([&a, &b, &mid, &root]);
    let begun = wait(store.pin_begin(root.cid(), Mode::Recursive, "film", now())).expect("begun");
    assert_eq!((begun.state, begun.progress), (State::Walking, Progress::default()));
    assert_eq!(begun.name, "film");
    check(&store);
    let (done, fetched) = pin(&store, root.cid(), Mode::Recursive, &network);
    assert_eq!(fetched, [root.cid(), mid.cid(), b.cid(), a.cid()], "each once");
    let bytes = [&a, &b, &mid, &root].map(|block| block.bytes().len() as u64);
    assert_eq!(
        done.progress,
        Progress {
            blocks: 4,
            bytes: bytes.iter().sum(),
        }
    );
    assert_eq!(done.completed, now());
    assert_eq!(collect(&store), Progress::default());
    assert_eq!((store.usage().pins, store.usage().walking), (1, 0));
    check(&store);
    // Again: it stays complete, and is called what the last one called it.
    let again = begin(&store, root.cid(), Mode::Recursive);
    assert_eq!((again.state, again.name.as_str()), (State::Complete, ""));
    assert!(store.walk(&root.cid()).expect("reads").is_none());
    drop(store);
    let store = open(&folder);
    assert_eq!(store.pins(None, 9).expect("reads"), vec![again]);
    assert!(wait(store.unpin(&root.cid())).expect("removed"));
    assert!(!wait(store.unpin(&root.cid())).expect("nothing to remove"));
    assert_eq!(collect(&store).blocks, 4);
    assert_empty(&store);
}

#[test]
fn one_at_a_time_a_walk_goes_depth_first() {
    let (_folder, store) = fresh();
    let leaves: Vec<Block> = (0..6u32).map(|n| raw(n.to_be_bytes())).collect();
    let cids: Vec<Cid> = leaves.iter().map(Block::cid).collect();
    let (one, two) = (cbor(b"1", &cids[..3]), cbor(b"2", &cids[3..]));
    let root = cbor(b"root", &[one.cid(), two.cid()]);
    let network = Network::of(leaves.iter().chain([&one, &two, &root]));
    begin(&store, root.cid(), Mode::Recursive);
    let walk = store.walk(&root.cid()).expect("reads").expect("walking");
    let mut fetched: Vec<Cid> = Vec::new();
    loop {
        let step = walk.advance(1).expect("advances");
        if step.missing.is_empty() && step.next == Next::Finish {
            break;
        }
        fetched.extend(&step.missing);
        wait(walk.store(network.fetch(&step.missing))).expect("taken");
    }
    let expected = [
        root.cid(),
        one.cid(),
        cids[0],
        cids[1],
        cids[2],
        two.cid(),
        cids[3],
        cids[4],
        cids[5],
    ];
    assert_eq!(fetched, expected);
}

#[test]
fn a_shared_block_outlives_one_of_its_pins() {
    let (_folder, store) = fresh();
    let shared = raw("shared");
    let one = cbor(b"1", &[shared.cid()]);
    let two = cbor(b"2", &[shared.cid()]);
    let network = Network::of([&shared, &one, &two]);
    pin(&store, one.cid(), Mode::Recursive, &network);
    let (_, fetched) = pin(&store, two.cid(), Mode::Recursive, &network);
    assert_eq!(fetched, [two.cid()]);
    wait(store.unpin(&one.cid())).expect("removed");
    assert_eq!(collect(&store).blocks, 1);
    assert!(has(&store, &shared) && has(&store, &two) && !has(&store, &one));
    check(&store);
    wait(store.unpin(&two.cid())).expect("removed");
    collect(&store);
    assert_empty(&store);
}

#[test]
fn direct_recursive_direct() {
    let (_folder, store) = fresh();
    let leaf = raw("leaf");
    let mid = cbor(b"mid", &[leaf.cid()]);
    let root = cbor(b"root", &[mid.cid()]);
    let network = Network::of([&leaf, &mid, &root]);
    let (direct, fetched) = pin(&store, root.cid(), Mode::Direct, &network);
    assert_eq!((fetched, direct.progress.blocks), (vec![root.cid()], 1));
    assert!(
        !store.is_referenced(&mid.cid()).expect("reads"),
        "links of a direct pin count for nothing"
    );
    check(&store);
    let (recursive, fetched) = pin(&store, root.cid(), Mode::Recursive, &network);
    assert_eq!((fetched, recursive.progress.blocks), (vec![mid.cid(), leaf.cid()], 3));
    collect(&store);
    assert_eq!(store.usage().blocks, 3);
    check(&store);
    let (direct, fetched) = pin(&store, root.cid(), Mode::Direct, &network);
    assert_eq!((fetched, direct.progress.blocks), (vec![], 1));
    assert_eq!(collect(&store).blocks, 2, "what only the recursive pin held goes");
    assert!(has(&store, &root));
    check(&store);
    // And a walk over the block whose links are not counted any more counts them again.
    pin(&store, root.cid(), Mode::Recursive, &network);
    collect(&store);
    assert_eq!(store.usage().blocks, 3);
    check(&store);
    wait(store.unpin(&root.cid())).expect("removed");
    collect(&store);
    assert_empty(&store);
}

#[test]
fn a_direct_pin_beside_a_recursive_one_above_it() {
    let (_folder, store) = fresh();
    let leaf = raw("leaf");
    let mid = cbor(b"mid", &[leaf.cid()]);
    let root = cbor(b"root", &[mid.cid()]);
    let network = Network::of([&leaf, &mid, &root]);
    pin(&store, mid.cid(), Mode::Direct, &network);
    pin(&store, root.cid(), Mode::Recursive, &network);
    wait(store.unpin(&mid.cid())).expect("removed");
    assert_eq!(collect(&store).blocks, 0);
    pin(&store, mid.cid(), Mode::Direct, &network);
    wait(store.unpin(&root.cid())).expect("removed");
    assert_eq!(collect(&store).blocks, 2);
    assert!(has(&store, &mid) && !has(&store, &leaf));
    check(&store);
}

#[test]
fn depth_is_a_number_of_links() {
    let (_folder, store) = fresh();
    let leaf = raw("leaf");
    let c = cbor(b"c", &[leaf.cid()]);
    let b = cbor(b"b", &[c.cid()]);
    // Its child is two links away on one way, and one on the other.
    let a = cbor(b"a", &[b.cid(), c.cid()]);
    let network = Network::of([&leaf, &a, &b, &c]);
    for (depth, blocks) in [(0, 1), (1, 3), (2, 4), (9, 4), (u32::MAX, 4)] {
        let (pinned, _) = pin(&store, a.cid(), Mode::Depth(depth), &network);
        assert_eq!(pinned.progress.blocks, blocks, "depth {depth}");
        collect(&store);
        assert_eq!(store.usage().blocks, blocks, "depth {depth}");
        check(&store);
        wait(store.unpin(&a.cid())).expect("removed");
        collect(&store);
        assert_empty(&store);
    }
}

#[test]
fn a_block_met_again_nearer_to_the_root_is_followed_further() {
    let (_folder, store) = fresh();
    let leaf = raw("leaf");
    let c = cbor(b"c", &[leaf.cid()]);
    let b = cbor(b"b", &[c.cid()]);
    // Depth first, `c` is first met below `b`, at the limit; then beside it, with a link to go.
    let a = cbor(b"a", &[b.cid(), c.cid()]);
    let network = Network::of([&leaf, &a, &b, &c]);
    // One at a time, fetched in the order asked; and all present from the start.
    for present in [false, true] {
        if present {
            put(&store, &[&leaf, &a, &b, &c]);
        }
        let (pinned, _) = pin(&store, a.cid(), Mode::Depth(2), &network);
        assert_eq!(pinned.progress.blocks, 4);
        assert!(has(&store, &leaf));
        check(&store);
        wait(store.unpin(&a.cid())).expect("removed");
        collect(&store);
        assert_empty(&store);
    }
}

#[test]
fn a_block_at_the_limit_need_not_be_readable() {
    let (_folder, store) = fresh();
    let tree = block(0x78, b"a git tree".to_vec());
    let root = cbor(b"root", &[tree.cid()]);
    let network = Network::of([&tree, &root]);
    pin(&store, tree.cid(), Mode::Direct, &network);
    pin(&store, root.cid(), Mode::Depth(1), &network);
    check(&store);
    begin(&store, root.cid(), Mode::Recursive);
    let walk = store.walk(&root.cid()).expect("reads").expect("walking");
    let error = loop {
        match walk.advance(4) {
            Ok(step) => wait(walk.store(network.fetch(&step.missing))).expect("taken"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Content(_)) && error.to_string().contains("git-raw"),
        "{error}"
    );
    // It says so each time.
    assert!(matches!(walk.advance(4), Err(Error::Content(_))));
    check(&store);
}

#[test]
fn one_content_in_two_codecs_is_one_block() {
    let (_folder, store) = fresh();
    let leaf = raw("leaf");
    let node = pb(b"node", &[leaf.cid()]);
    let as_raw = raw(node.bytes().to_vec());
    let network = Network::of([&leaf, &node]);
    pin(&store, as_raw.cid(), Mode::Recursive, &network);
    assert_eq!(store.usage().blocks, 1);
    check(&store);
    let (_, fetched) = pin(&store, node.cid(), Mode::Recursive, &network);
    assert_eq!(fetched, [leaf.cid()], "the bytes are there, what they link to is not");
    check(&store);
    wait(store.unpin(&as_raw.cid())).expect("removed");
    collect(&store);
    assert_eq!(store.usage().blocks, 2);
    wait(store.unpin(&node.cid())).expect("removed");
    collect(&store);
    assert_empty(&store);
    // Both in one DAG, and under both versions of the CID.
    let v0 = Cid::from_bytes(&node.cid().to_bytes()[2..]).expect("valid");
    assert_eq!(v0.version(), 0);
    let root = cbor(b"root", &[as_raw.cid(), node.cid(), v0]);
    let network = Network::of([&leaf, &node, &root]);
    let (_, fetched) = pin(&store, root.cid(), Mode::Recursive, &network);
    assert!(fetched.contains(&leaf.cid()) && fetched.len() <= 4, "{fetched:?}");
    check(&store);
    wait(store.unpin(&root.cid())).expect("removed");
    collect(&store);
    assert_empty(&store);
}

#[test]
fn what_identity_cids_carry_is_held() {
    let (_folder, store) = fresh();
    let leaf = raw("leaf");
    let inner = inline(&[leaf.cid()]);
    let root = cbor(b"root", &[inner, inline(&[])]);
    let network = Network::of([&leaf, &root]);
    for cid in [root.cid(), inner] {
        let (_, fetched) = pin(&store, cid, Mode::Recursive, &network);
        assert!(fetched.contains(&leaf.cid()));
        collect(&store);
        assert!(has(&store, &leaf));
        check(&store);
        assert_eq!(begin(&store, cid, Mode::Direct).state, State::Walking);
        pin(&store, cid, Mode::Direct, &network);
        collect(&store);
        assert!(!has(&store, &leaf));
        check(&store);
        wait(store.unpin(&cid)).expect("removed");
        collect(&store);
        assert_empty(&store);
    }
    put(&store, &[&Block::inline(inner).expect("identity")]);
    assert_empty(&store);
}

#[test]
fn names_have_a_bound() {
    let (_folder, store) = fresh();
    let name = "n".repeat(crate::PIN_NAME_BYTES_MAX + 1);
    let error = wait(store.pin_begin(raw("a").cid(), Mode::Direct, &name, now())).expect_err("refused");
    assert!(error.to_string().contains("1025"), "{error}");
    assert_empty(&store);
}
