//! Snapshots: built, sent, refused, installed, interrupted.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_storage::snapshot::{Frame, Incoming, Snapshot, SnapshotFile, SnapshotReceiver, SnapshotStore};
use cluster_storage::state::{ALL_NODES, todo_key, todo_value};
use cluster_storage::{Overlay, StateStore, StoreError};
use node_core::NodeId;
use node_core::pinset::{KvRead, KvWrite, Table};

use crate::{open, rows};

const TABLES: [Table; 3] = [Table::Meta, Table::Pins, Table::ByName];

fn fill(store: &StateStore, index: u64, count: u64) {
    let db = store.current();
    let mut overlay = Overlay::new(&db);
    for number in 0..count {
        let key = format!("{index}-{number:06}").into_bytes();
        overlay.put(Table::Pins, key.clone(), vec![7; 300]);
        overlay.put(Table::ByName, key, Vec::new());
        overlay.put(Table::Todo, todo_key(index, number as u32), todo_value(NodeId(3), None));
    }
    overlay.put(Table::Meta, b"raft/applied".to_vec(), index.to_be_bytes().to_vec());
    store.write(overlay.into_batch()).expect("written");
}

fn build(snapshots: &SnapshotStore, store: &StateStore) -> Arc<Snapshot> {
    let describe = |view: &dyn KvRead| {
        let row = view.get(Table::Meta, b"raft/applied")?.unwrap_or_else(|| vec![0; 8]);
        let index = u64::from_be_bytes(row.clone().try_into().expect("eight bytes"));
        Ok((index, Bytes::from(row)))
    };
    snapshots.build(store, describe).expect("built")
}

fn frames(snapshot: &Arc<Snapshot>) -> Vec<Frame> {
    let mut reader = snapshot.reader();
    std::iter::from_fn(|| reader.next_frame().expect("read")).collect()
}

fn receive(to: &StateStore, files: &[SnapshotFile], frames: Vec<Frame>) -> Result<Incoming, StoreError> {
    let mut receiver = SnapshotReceiver::new(to.incoming_folder(), files.to_vec())?;
    for frame in frames {
        receiver.accept(frame)?;
    }
    receiver.finish()
}

fn fine(_: &dyn KvRead) -> Result<(), StoreError> {
    Ok(())
}

fn folders_with(folder: &Path, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(folder)
        .expect("read")
        .map(|entry| entry.expect("read").file_name());
    let mut names: Vec<_> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|n| n.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Old folders are removed by a thread of their own.
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_snapshot_is_sent_and_becomes_the_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to_folder) = (open(&folder.path().join("from")), folder.path().join("to"));
    fill(&from, 5, 20_000);
    let snapshots = SnapshotStore::open(&from.snapshots_folder()).expect("opened");
    let snapshot = build(&snapshots, &from);
    assert_eq!(snapshot.index(), 5);
    fill(&from, 6, 10);

    let to = open(&to_folder);
    fill(&to, 2, 50);
    let reader = to.current();
    let old_rows = rows(&*reader, &TABLES);
    let incoming = receive(&to, snapshot.files(), frames(&snapshot)).expect("received");
    incoming
        .read(|view| assert_eq!(rows(view, &[Table::ByName]).len(), 20_000))
        .expect("readable");
    to.install(incoming.folder(), 5, fine).expect("installed");
    let expected = |store: &StateStore| {
        let rows = rows(&*store.current(), &TABLES);
        assert_eq!(
            rows.iter().filter(|(table, _, _)| *table == Table::Pins).count(),
            20_000
        );
        assert!(
            rows.iter()
                .all(|(_, key, _)| !key.starts_with(b"6-") && !key.starts_with(b"2-"))
        );
    };
    expected(&to);
    // Whoever was reading goes on with the old generation, whose files go with the last reader.
    assert_eq!(rows(&*reader, &TABLES), old_rows);
    assert_eq!(folders_with(&to_folder, "gen-"), ["gen-1", "gen-2"]);
    drop(reader);
    wait_for("the old generation goes", || {
        folders_with(&to_folder, "gen-") == ["gen-2"]
    });
    drop(incoming);

    let todo = to.todo_batch(10).expect("read");
    assert_eq!(todo.len(), 1, "the sender's to-do is not this peer's");
    assert_eq!((todo[0].node, todo[0].cid), (ALL_NODES, None));
    drop(to);
    let to = open(&to_folder);
    expected(&to);
    assert_eq!(to.todo_batch(10).expect("read"), todo);
    assert_eq!(to.current().generation(), 2);
}

fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("a folder") {
        let file = file.expect("read");
        let copy = to.join(file.file_name());
        if file.file_type().expect("read").is_dir() {
            fs::create_dir(&copy).expect("made");
            copy_files(&file.path(), &copy);
        } else {
            fs::copy(file.path(), copy).expect("copied");
        }
    }
}

/// A peer whose ledger was lost notes its nodes at the start; a crash must not lose that.
#[test]
fn nodes_that_are_noted_are_there_after_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    store.note_nodes([NodeId(4), NodeId(2)]).expect("written");
    // As when the process is killed: nothing that was not flushed lies in the files.
    let copy = tempfile::tempdir().expect("a folder");
    copy_files(folder.path(), copy.path());
    let noted = open(copy.path()).todo_batch(10).expect("read");
    let noted: Vec<_> = noted.into_iter().map(|row| (row.node, row.cid)).collect();
    assert_eq!(noted, [(NodeId(2), None), (NodeId(4), None)]);
    store.note_nodes([]).expect("nothing to write");
    assert_eq!(store.todo_batch(10).expect("read").len(), 2);
}

#[test]
fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to_folder) = (open(&folder.path().join("from")), folder.path().join("to"));
    fill(&from, 5, 1000);
    let snapshots = SnapshotStore::open(&from.snapshots_folder()).expect("opened");
    let snapshot = build(&snapshots, &from);
    let to = open(&to_folder);
    fill(&to, 2, 50);
    let before = rows(&*to.current(), &TABLES);
    let good = frames(&snapshot);
    let files = snapshot.files().to_vec();

    let mut damaged = good.clone();
    for frame in &mut damaged {
        if let Frame::Data(data) = frame
            && data.len() > 1000
        {
            let mut bytes = data.to_vec();
            bytes[500] ^= 1;
            *frame = Frame::Data(bytes.into());
        }
    }
    let mut swapped = files.clone();
    swapped.swap(0, 1);
    let mut outside = files.clone();
    outside[0].name = "../CURRENT".into();
    let mut twice = files.clone();
    twice.push(files[0].clone());
    let mut more = good.clone();
    more.push(Frame::Data(Bytes::from_static(b"more")));
    let early = good[..good.len() - 1].to_vec();
    let cases = [
        ("a flipped bit", files.clone(), damaged),
        ("files in another order", swapped, good.clone()),
        ("a name that leads out of the folder", outside, good.clone()),
        ("a name twice", twice, good.clone()),
        ("more than announced", files.clone(), more),
        ("an early end", files.clone(), early),
    ];
    for (what, files, frames) in cases {
        let error = receive(&to, &files, frames).expect_err(what);
        assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {error}");
    }
    // Whole, but not what it is said to be.
    let incoming = receive(&to, &files, good).expect("received");
    let other = |_: &dyn KvRead| Err(StoreError::Corrupt("at another index".into()));
    assert!(to.install(incoming.folder(), 5, other).is_err());
    drop(incoming);
    assert_eq!(rows(&*to.current(), &TABLES), before);
    wait_for("all leftovers go", || {
        folders_with(&to_folder, "incoming-").is_empty() && folders_with(&to_folder, "gen-") == ["gen-1"]
    });
    // And it still takes a good one, and writes.
    fill(&to, 3, 1);
    let incoming = receive(&to, snapshot.files(), frames(&snapshot)).expect("received");
    to.install(incoming.folder(), 5, fine).expect("installed");
    assert_eq!(rows(&*to.current(), &[Table::Pins]).len(), 1000);
}

#[test]
fn an_install_that_was_interrupted_leaves_the_old_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    fill(&store, 2, 50);
    let before = rows(&*store.current(), &TABLES);
    // As if the power had gone after the rename and before CURRENT was replaced, and during a transfer.
    store.checkpoint(&folder.path().join("gen-2")).expect("made");
    fs::create_dir(folder.path().join("incoming-1-0")).expect("made");
    fs::write(folder.path().join("CURRENT.new"), "gen-2\n").expect("written");
    store.flush().expect("flushed");
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.current().generation(), 1);
    assert_eq!(rows(&*store.current(), &TABLES), before);
    assert_eq!(folders_with(folder.path(), "gen-"), ["gen-1"]);
    assert!(folders_with(folder.path(), "incoming-").is_empty());
}

#[test]
fn a_current_file_that_is_lost_or_damaged_is_not_guessed() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    fs::write(folder.path().join("CURRENT"), "what?\n").expect("written");
    assert!(StateStore::open(folder.path(), Default::default()).is_err());
    fs::remove_file(folder.path().join("CURRENT")).expect("removed");
    fs::rename(folder.path().join("gen-1"), folder.path().join("gen-3")).expect("renamed");
    assert!(StateStore::open(folder.path(), Default::default()).is_err());
    assert!(folder.path().join("gen-3").exists(), "nothing is removed on a guess");
}

#[test]
fn one_snapshot_is_kept_and_those_being_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let place = store.snapshots_folder();
    let snapshots = SnapshotStore::open(&place).expect("opened");
    assert!(snapshots.current().is_none());
    fill(&store, 5, 100);
    let first = build(&snapshots, &store);
    let same = build(&snapshots, &store);
    assert!(Arc::ptr_eq(&first, &same), "nothing was applied in between");
    drop(same);
    let mut sending = first.reader();
    drop(first);
    fill(&store, 9, 100);
    let second = build(&snapshots, &store);
    assert_eq!(second.index(), 9);
    assert_eq!(folders_with(&place, "snap-").len(), 2);
    while sending.next_frame().expect("it can be sent to the end").is_some() {}
    drop(sending);
    wait_for("the old one goes", || folders_with(&place, "snap-").len() == 1);

    // What a crash leaves behind is removed, and the newest is found again.
    fs::create_dir(place.join("tmp-1-1")).expect("made");
    drop((snapshots, second));
    let snapshots = SnapshotStore::open(&place).expect("opened");
    let found = snapshots.current().expect("it is there");
    assert_eq!((found.index(), found.meta().as_ref()), (9, &9_u64.to_be_bytes()[..]));
    assert!(folders_with(&place, "tmp-").is_empty());
}
