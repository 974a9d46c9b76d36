//! The state with pending writes against an ordered map.

use std::collections::BTreeMap;

use cluster_storage::Overlay;
use cluster_storage::state::{todo_key, todo_value};
use node_core::NodeId;
use node_core::pinset::{KvRead, KvWrite, Table};
use proptest::prelude::*;

use crate::open;

const TABLES: [Table; 3] = [Table::Pins, Table::ByNode, Table::Changes];

#[derive(Debug, Clone)]
enum Step {
    Put(usize, Vec<u8>, Vec<u8>),
    Delete(usize, Vec<u8>),
    Get(usize, Vec<u8>),
    Scan(usize, Vec<u8>, Option<Vec<u8>>, usize),
    Write,
    Flush,
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few letters, so that keys meet; short, so that some are prefixes of others.
    prop::collection::vec(prop::sample::select(vec![0, 1, b'a', b'b', 0xff]), 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let table = 0..TABLES.len();
    prop_oneof![
        8 => (table.clone(), key(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(t, k, v)| Step::Put(t, k, v)),
        4 => (table.clone(), key()).prop_map(|(t, k)| Step::Delete(t, k)),
        4 => (table.clone(), key()).prop_map(|(t, k)| Step::Get(t, k)),
        6 => (table, key(), prop::option::of(key()), 1_usize..20).prop_map(|(t, k, e, n)| Step::Scan(t, k, e, n)),
        2 => Just(Step::Write),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

fn scan(kv: &dyn KvRead, table: usize, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    kv.scan(TABLES[table], start, end, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        rows.len() < limit
    })
    .expect("scanned");
    rows
}

fn model_scan(model: &Model, table: usize, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = model
        .iter()
        .filter(|((of, key), _)| *of == table && key.as_slice() >= start && end.is_none_or(|end| key.as_slice() < end));
    rows.take(limit)
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_reads_as_if_it_were_written(steps in prop::collection::vec(step(), 1..80)) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = open(folder.path());
        let mut model = Model::new();
        let mut db = store.current();
        let mut pending: Vec<Step> = Vec::new();
        for step in steps {
            // Made anew from what is pending, because it borrows the database that some steps replace.
            let mut overlay = Overlay::new(&db);
            for step in &pending {
                match step {
                    Step::Put(t, k, v) => overlay.put(TABLES[*t], k.clone(), v.clone()),
                    Step::Delete(t, k) => overlay.delete(TABLES[*t], k.clone()),
                    _ => {}
                }
            }
            match &step {
                Step::Put(t, k, v) => {
                    model.insert((*t, k.clone()), v.clone());
                    pending.push(step);
                }
                Step::Delete(t, k) => {
                    model.remove(&(*t, k.clone()));
                    pending.push(step);
                }
                Step::Get(t, k) => {
                    prop_assert_eq!(overlay.get(TABLES[*t], k).expect("read"), model.get(&(*t, k.clone())).cloned());
                }
                Step::Scan(t, start, end, limit) => {
                    let expected = model_scan(&model, *t, start, end.as_deref(), *limit);
                    prop_assert_eq!(scan(&overlay, *t, start, end.as_deref(), *limit), expected);
                }
                Step::Write | Step::Flush | Step::Reopen => {
                    store.write(overlay.into_batch()).expect("written");
                    pending.clear();
                    if !matches!(step, Step::Write) {
                        store.flush().expect("flushed");
                    }
                    if matches!(step, Step::Reopen) {
                        drop(db);
                        drop(store);
                        store = open(folder.path());
                        db = store.current();
                    }
                    for table in 0..TABLES.len() {
                        let expected = model_scan(&model, table, &[], None, usize::MAX);
                        prop_assert_eq!(scan(&*db, table, &[], None, usize::MAX), expected.clone());
                        let seen = db.read_view(|view| scan(view, table, &[], None, usize::MAX));
                        prop_assert_eq!(seen, expected);
                    }
                }
            }
        }
    }
}

#[test]
fn a_view_does_not_see_later_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let db = store.current();
    let put = |value: &[u8]| {
        let mut overlay = Overlay::new(&db);
        overlay.put(Table::Pins, b"k".to_vec(), value.to_vec());
        overlay.put(Table::ByName, b"k".to_vec(), value.to_vec());
        store.write(overlay.into_batch()).expect("written");
    };
    put(b"old");
    db.read_view(|view| {
        put(b"new");
        assert_eq!(view.get(Table::Pins, b"k").expect("read").as_deref(), Some(&b"old"[..]));
        assert_eq!(
            view.get(Table::ByName, b"k").expect("read").as_deref(),
            Some(&b"old"[..])
        );
    });
    assert_eq!(db.get(Table::Pins, b"k").expect("read").as_deref(), Some(&b"new"[..]));
}

#[test]
fn to_do_rows_come_in_order_and_go_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let db = store.current();
    let mut overlay = Overlay::new(&db);
    for index in 1..=3_u64 {
        for number in 0..2 {
            overlay.put(Table::Todo, todo_key(index, number), todo_value(NodeId(7), None));
        }
    }
    store.write(overlay.into_batch()).expect("written");
    let first = store.todo_batch(3).expect("read");
    assert_eq!(first.len(), 3);
    assert_eq!(first[0].key, todo_key(1, 0));
    // The second stays: it is done later than the third.
    store
        .delete_todo(&[first[0].key.clone(), first[2].key.clone()])
        .expect("deleted");
    let keys = |rows: Vec<cluster_storage::TodoRow>| rows.into_iter().map(|row| row.key).collect::<Vec<_>>();
    let left = [todo_key(1, 1), todo_key(2, 1), todo_key(3, 0), todo_key(3, 1)];
    assert_eq!(keys(store.todo_batch(10).expect("read")), left);
    store.delete_todo(&left).expect("deleted");
    assert_eq!(store.todo_batch(10).expect("read"), []);
}

#[test]
fn a_damaged_to_do_row_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let db = store.current();
    let mut overlay = Overlay::new(&db);
    overlay.put(Table::Todo, todo_key(1, 0), vec![1, 2, 3]);
    store.write(overlay.into_batch()).expect("written");
    assert!(store.todo_batch(10).is_err());
}
