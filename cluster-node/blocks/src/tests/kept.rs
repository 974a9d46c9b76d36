//! Roots that are kept for a pin that is to come.

use std::time::Duration;

use super::*;

/// Stores a root over some leaves in an add that ends, and keeps it for an hour.
fn kept() -> (TempDir, BlockStore, Cid) {
    let (folder, store) = fresh();
    let leaves: Vec<Block> = (0..10u8).map(|number| raw([number; 100])).collect();
    let links: Vec<Cid> = leaves.iter().map(Block::cid).collect();
    let top = cbor(b"top", &links);
    let root = top.cid();
    let add = store.begin_add();
    wait(store.put(Some(&add), leaves)).expect("stored");
    wait(store.put(Some(&add), vec![top])).expect("stored");
    let until = now().plus(Duration::from_secs(3_600));
    wait(store.keep(vec![root], until)).expect("kept");
    // A second time, for not as long: it changes nothing.
    wait(store.keep(vec![root], now())).expect("kept");
    drop(add);
    (folder, store, root)
}

#[test]
fn what_is_kept_outlives_a_restart_and_goes_when_its_time_is_over() {
    let (folder, store, root) = kept();
    store.close().expect("closed");
    drop(store);
    let store = open(&folder);
    store
        .expire_kept(now().plus(Duration::from_secs(3_599)))
        .expect("looked at");
    assert_eq!(collect(&store).blocks, 0);
    assert_eq!(store.kept(None, 9).expect("read").len(), 1);
    check(&store);
    store
        .expire_kept(now().plus(Duration::from_secs(3_600)))
        .expect("looked at");
    assert_eq!(store.kept(None, 9).expect("read"), []);
    check(&store);
    assert_eq!(collect(&store).blocks, 11);
    assert!(!store.has(&root).expect("read"));
}

#[test]
fn a_complete_pin_takes_its_place() {
    let (_folder, store, root) = kept();
    pin(&store, root, Mode::Recursive, &Network::of([]));
    assert_eq!(store.kept(None, 9).expect("read"), []);
    check(&store);
    assert!(wait(store.unpin(&root)).expect("removed"));
    assert_eq!(collect(&store).blocks, 11);
}
