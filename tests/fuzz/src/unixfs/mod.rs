//! UnixFS: nodes, file and directory readers, paths.

mod directory;
mod file;
mod node;
mod recipe;

use std::collections::HashMap;

use bytes::Bytes;
use cluster_dag::Block;
use cluster_dag::codec::DAG_PB;
use node_core::Cid;

use crate::input::Input;
use crate::seeds::named;

/// Steps of a reader that are taken: a DAG of few blocks may stand for a file of exabytes.
const STEPS_MAX: usize = 3000;

/// What the rest of the DAG is made of.
type Store = HashMap<Cid, Bytes>;

/// How the blocks reach a reader.
#[derive(Debug, Clone, Copy)]
struct Course {
    /// Blocks asked for ahead.
    ahead: usize,
    /// Which of the blocks that are on their way arrives next: the first, the last, or all of them at once.
    order: u8,
}

const ONE_BY_ONE: Course = Course { ahead: 1, order: 0 };

/// Hands over blocks that are on their way, as this course has it. Those that do not exist stay on their way.
fn deliver(outstanding: &mut Vec<Cid>, store: &Store, course: Course, supply: &mut dyn FnMut(Block) -> bool) {
    let mut there = outstanding.iter().filter(|cid| store.contains_key(cid)).copied();
    let arriving: Vec<Cid> = match course.order % 3 {
        0 => there.next().into_iter().collect(),
        1 => there.last().into_iter().collect(),
        _ => there.collect(),
    };
    outstanding.retain(|cid| !arriving.contains(cid));
    for cid in arriving {
        let block = || Block::trusted(cid, store[&cid].clone());
        assert!(supply(block()), "a block that was wanted is not taken");
        assert!(!supply(block()), "a block is taken twice");
    }
}

pub(crate) fn target(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let choices = [input.byte(), input.byte(), input.byte(), input.byte()];
    let (store, root) = if mode & 1 == 1 {
        recipe::cook(&mut input)
    } else {
        let bytes = Bytes::copy_from_slice(input.rest());
        let root = named(DAG_PB, &bytes);
        (Store::from([(root, bytes)]), root)
    };
    let Some(bytes) = store.get(&root) else { return };
    let node = node::check(root, bytes);
    file::check(root, &store, node.as_ref(), choices);
    directory::check(root, &store, node.as_ref(), choices);
}
