//! Disks that fail.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use super::*;

const CHILD: &str = "PINFLEET_BLOCKS_FULL";

#[test]
fn a_failed_write_ends_the_writer_and_is_told_to_all() {
    let (folder, store) = fresh();
    let (a, b) = (raw("a"), raw("b"));
    let root = cbor(b"root", &[a.cid()]);
    put(&store, &[&a]);
    begin(&store, root.cid(), Mode::Recursive);
    let walk = store.walk(&root.cid()).expect("reads").expect("walking");
    let step = walk.advance(1).expect("advances");
    store.shared().fail_writes.store(true, Ordering::Relaxed);
    let error = wait(store.put(None, vec![b.clone()])).expect_err("fails");
    assert!(
        matches!(&error, Error::Database(reason) if reason.contains("No space")),
        "{error}"
    );
    // Also when the disk would take it again: what is in memory and what is there may differ.
    store.shared().fail_writes.store(false, Ordering::Relaxed);
    for _ in 0..3 {
        let error = wait(store.put(None, vec![b.clone()])).expect_err("fails");
        assert!(
            matches!(&error, Error::Broken { reason } if reason.contains("No space")),
            "{error}"
        );
    }
    assert!(matches!(wait(store.unpin(&root.cid())), Err(Error::Broken { .. })));
    assert!(matches!(walk.advance(1), Err(Error::Broken { .. })));
    assert!(matches!(
        wait(walk.store(Network::of([&root]).fetch(&step.missing))),
        Err(Error::Broken { .. })
    ));
    assert!(matches!(wait(walk.finish(now())), Err(Error::Broken { .. })));
    assert!(store.fault().is_some_and(|fault| fault.contains("No space")));
    // Reads go on.
    assert!(has(&store, &a) && !has(&store, &b));
    check(&store);
    drop(walk);
    drop(store);
    let store = open(&folder);
    assert_eq!(store.fault(), None);
    put(&store, &[&b]);
    check(&store);
}

/// The operating system refuses the write, as a full disk does: files may not grow beyond a limit.
#[test]
fn a_disk_that_is_full_loses_nothing_that_was_acknowledged() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return fill(folder.as_ref());
    }
    let folder = tempfile::tempdir().expect("a folder");
    // Without the trap the signal would kill the process; what is left is an error of the write.
    let script = "trap '' XFSZ; ulimit -f 1500; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().expect("this binary"))
        .args([
            "--exact",
            "tests::faults::a_disk_that_is_full_loses_nothing_that_was_acknowledged",
        ])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, folder.path())
        .stderr(Stdio::inherit())
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("ended=well"), "{text}");
    let acked = text
        .lines()
        .filter_map(|line| line.split("acked=").nth(1)?.trim().parse::<u32>().ok());
    let acked = acked.max().expect("some were stored");
    let store = open(&folder);
    for n in 0..=acked {
        assert!(has(&store, &large(n)), "block {n} of {acked} was acknowledged");
    }
    check(&store);
    put(&store, &[&raw("there is room again")]);
}

fn large(n: u32) -> Block {
    let mut dice = Dice::new(u64::from(n));
    raw((0..8_192)
        .flat_map(|_| dice.below(u64::MAX).to_le_bytes())
        .collect::<Vec<u8>>())
}

fn fill(folder: &std::path::Path) {
    let store = BlockStore::open(folder, &small()).expect("the store opens");
    for n in 0.. {
        match wait(store.put(None, vec![large(n)])) {
            Ok(()) => println!("acked={n}"),
            Err(error) => {
                assert!(matches!(error, Error::Database(_)), "{error}");
                break;
            }
        }
        assert!(n < 10_000, "no limit was met");
    }
    assert!(matches!(
        wait(store.put(None, vec![raw("a")])),
        Err(Error::Broken { .. })
    ));
    assert!(has(&store, &large(0)));
    drop(store);
    println!("ended=well");
}

#[test]
fn a_corrupt_block_is_found_and_fetched_again() {
    let (folder, store) = fresh();
    let (a, b) = (raw(vec![1; 9_000]), raw("b"));
    let mid = cbor(b"mid", &[a.cid(), b.cid()]);
    let root = cbor(b"root", &[mid.cid()]);
    let other = cbor(b"other", &[b.cid()]);
    let half = cbor(b"half", &[a.cid(), raw("not there").cid()]);
    let network = Network::of([&a, &b, &mid, &root, &other, &half]);
    for (cid, mode) in [
        (root.cid(), Mode::Recursive),
        (mid.cid(), Mode::Depth(1)),
        (a.cid(), Mode::Direct),
        (other.cid(), Mode::Recursive),
    ] {
        pin(&store, cid, mode, &network);
    }
    begin(&store, half.cid(), Mode::Recursive);
    let walk = store.walk(&half.cid()).expect("reads").expect("walking");
    let step = walk.advance(1).expect("advances");
    wait(walk.store(network.fetch(&step.missing))).expect("taken");
    walk.advance(1).expect("advances");
    assert_eq!(walk.progress().blocks, 2);
    let scrub = |store: &BlockStore| {
        let (mut after, mut checked, mut corrupt) = (None, 0, Vec::new());
        let budget = Budget {
            keys: 2,
            ..Budget::default()
        };
        loop {
            let step = store.scrub_step(after.as_ref(), budget).expect("scrubs");
            checked += step.checked.blocks;
            corrupt.extend(step.corrupt);
            after = step.next;
            if after.is_none() {
                return (checked, corrupt);
            }
        }
    };
    assert_eq!(scrub(&store), (6, Vec::new()));
    assert_eq!(
        store.remove_corrupt(&a.cid()).expect("looked at"),
        Vec::new(),
        "it is sound"
    );
    assert!(has(&store, &a));
    // A bit flips in a leaf, and another in a block with links.
    for (lost, pins) in [
        (&a, vec![root.cid(), mid.cid(), a.cid()]),
        (&mid, vec![root.cid(), mid.cid()]),
    ] {
        let mut bytes = lost.bytes().to_vec();
        bytes[3] ^= 1;
        let shared = store.shared();
        let key = crate::key::Key::of(&lost.cid());
        shared
            .rocks
            .put_cf(shared.table(crate::options::BLOCKS), key, bytes)
            .expect("written");
        let (checked, corrupt) = scrub(&store);
        assert_eq!((checked, corrupt.len()), (5, 1));
        let mut hit = store.remove_corrupt(&corrupt[0]).expect("removed");
        let mut pins = pins;
        hit.sort();
        pins.sort();
        assert_eq!(hit, pins);
        assert!(!has(&store, lost) && store.get(&lost.cid()).expect("reads").is_none());
        assert_eq!(store.usage().lost, 1);
        assert_eq!(
            store.pin(&other.cid()).expect("reads").expect("pinned").state,
            State::Complete
        );
        check(&store);
        assert_eq!(collect(&store), Progress::default());
        for cid in pins {
            let mode = store.pin(&cid).expect("reads").expect("pinned").mode;
            pin(&store, cid, mode, &network);
        }
        assert_eq!(store.usage().lost, 0);
        assert_eq!(scrub(&store), (6, Vec::new()));
        check(&store);
    }
    // A walk that ran meanwhile, and may have seen the block before it was lost, is not taken at its word.
    assert!(matches!(wait(walk.finish(now())), Err(Error::WalkEnded(_))));
    drop(walk);
    for cid in [root.cid(), mid.cid(), a.cid(), other.cid(), half.cid()] {
        wait(store.unpin(&cid)).expect("removed");
    }
    collect(&store);
    assert_empty(&store);
    drop(store);
    assert_empty(&open(&folder));
}

#[test]
fn pins_of_a_lost_block_are_found_after_a_crash_too() {
    let (folder, store) = fresh();
    let a = raw("a");
    let root = cbor(b"root", &[a.cid()]);
    let network = Network::of([&a, &root]);
    pin(&store, root.cid(), Mode::Recursive, &network);
    let key = crate::key::Key::of(&a.cid());
    store
        .ask_blocking(|reply| crate::writer::Command::Lose { key, reply })
        .expect("lost");
    drop(store);
    let store = open(&folder);
    store.scrub_step(None, Budget::default()).expect("scrubs");
    assert_eq!(
        store.pin(&root.cid()).expect("reads").expect("pinned").state,
        State::Walking
    );
    let (_, fetched) = pin(&store, root.cid(), Mode::Recursive, &network);
    assert_eq!(fetched, [a.cid()]);
    check(&store);
    // What is lost and not referred to any more is forgotten.
    wait(store.unpin(&root.cid())).expect("removed");
    let key = crate::key::Key::of(&a.cid());
    store
        .ask_blocking(|reply| crate::writer::Command::Lose { key, reply })
        .expect("lost");
    assert_eq!(store.usage().lost, 1);
    collect(&store);
    assert_empty(&store);
}

/// All that scrubbing finds in one pass of small steps: what was checked, what is corrupt, what was passed over.
fn scrub_all(store: &BlockStore) -> (u64, Vec<Cid>, Vec<Error>) {
    let (mut after, mut checked, mut corrupt, mut problems) = (None, 0, Vec::new(), Vec::new());
    let budget = Budget {
        keys: 2,
        ..Budget::default()
    };
    loop {
        let step = store.scrub_step(after.as_ref(), budget).expect("scrubs");
        checked += step.checked.blocks;
        corrupt.extend(step.corrupt);
        problems.extend(step.problems);
        after = step.next;
        if after.is_none() {
            return (checked, corrupt, problems);
        }
    }
}

fn flip_a_bit(store: &BlockStore, block: &Block) {
    let mut bytes = block.bytes().to_vec();
    bytes[0] ^= 1;
    let shared = store.shared();
    let key = crate::key::Key::of(&block.cid());
    let written = shared.rocks.put_cf(shared.table(crate::options::BLOCKS), key, bytes);
    written.expect("written");
}

#[test]
fn a_sector_that_can_not_be_read_is_corrupt_and_ends_nothing() {
    use crate::scrub::tests::fail_reads;

    let (_folder, store) = fresh();
    let mut leaves: Vec<Block> = (0..9u8).map(|n| raw(vec![n; 100])).collect();
    leaves.sort_by_key(|leaf| crate::key::Key::of(&leaf.cid()));
    let root = cbor(b"root", &leaves.iter().map(Block::cid).collect::<Vec<_>>());
    let network = Network::of(leaves.iter().chain([&root]));
    pin(&store, root.cid(), Mode::Recursive, &network);
    let raw_of = |block: &Block| crate::key::Key::of(&block.cid()).to_cid().expect("named");
    // One that stays unreadable, one that is read at the second try, one that is not read for want of files, and behind
    // them all one with a bit flipped.
    fail_reads(&leaves[1].cid(), usize::MAX, "Input/output error");
    fail_reads(&leaves[2].cid(), 1, "Input/output error");
    fail_reads(&leaves[4].cid(), usize::MAX, "Too many open files");
    flip_a_bit(&store, &leaves[7]);
    let (checked, corrupt, problems) = scrub_all(&store);
    assert_eq!(corrupt, [raw_of(&leaves[1]), raw_of(&leaves[7])]);
    assert_eq!((checked, problems.len()), (7, 1));
    assert!(problems[0].to_string().contains("Too many open files"), "{problems:?}");
    // Nothing is removed for want of files, and what the disk can't read is, without being read.
    assert!(store.remove_corrupt(&leaves[4].cid()).is_err());
    assert!(has(&store, &leaves[4]));
    for cid in &corrupt {
        assert_eq!(
            store.remove_corrupt(cid).expect("removed").len(),
            usize::from(*cid == corrupt[0])
        );
    }
    assert!(!has(&store, &leaves[1]) && !has(&store, &leaves[7]));
    // Its new bytes lie elsewhere.
    for leaf in &leaves {
        fail_reads(&leaf.cid(), 0, "");
    }
    let (_, fetched) = pin(&store, root.cid(), Mode::Recursive, &network);
    assert_eq!(fetched.len(), 2);
    let (checked, corrupt, problems) = scrub_all(&store);
    assert_eq!((checked, corrupt.len(), problems.len()), (10, 0, 0));
    check(&store);
}

/// Rows in the middle of the table of blocks can't be read, so neither can what lies behind be found by going on.
#[test]
fn rows_that_can_not_be_read_are_passed_over() {
    let (folder, store) = fresh();
    let mut blocks: Vec<Block> = (0..3_000u32).map(|n| raw(n.to_be_bytes())).collect();
    blocks.sort_by_key(|block| crate::key::Key::of(&block.cid()));
    for some in blocks.chunks(500) {
        put(&store, &some.iter().collect::<Vec<_>>());
    }
    let ends = [&blocks[0], &blocks[2_999]];
    for end in ends {
        flip_a_bit(&store, end);
    }
    store.flush().expect("flushed");
    let files = store.shared().rocks.live_files().expect("listed");
    let largest = files
        .iter()
        .filter(|file| file.column_family_name == crate::options::META)
        .max_by_key(|file| file.size)
        .expect("a file of rows");
    assert_eq!(largest.num_entries, 3_000);
    let path = folder.path().join(largest.name.trim_start_matches('/'));
    drop(store);
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 3;
    bytes[middle..middle + 64].fill(0xa5);
    std::fs::write(&path, bytes).expect("written");
    let store = open(&folder);
    let (checked, corrupt, problems) = scrub_all(&store);
    let expected: Vec<Cid> = ends.iter().map(|end| end.cid()).collect();
    assert_eq!(corrupt, expected, "before and behind");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!((2_000..2_998).contains(&checked), "{checked}");
}
