//! DAGs by a recipe. A fuzzer can't find a block that links to another one, since it would have to guess a hash; so it
//! says what is to be built, and the true CIDs are put in.

use bytes::Bytes;
use cluster_dag::codec::{DAG_PB, RAW};
use node_core::Cid;
use prost::Message as _;

use super::Store;
use crate::input::Input;
use crate::protobuf::{self, KIND_DIRECTORY, KIND_FILE, KIND_RAW, KIND_SHARD, KIND_SYMLINK};
use crate::seeds::named;

/// Blocks of a DAG, and links of a block.
const BLOCKS_MAX: usize = 64;
const LINKS_MAX: u8 = 64;

/// A block that was built.
struct Built {
    cid: Cid,
    /// Its length as a file.
    length: u64,
}

/// Builds blocks, each of which links to some before it; the last one is the root. Every block begins with a byte for its
/// kind: 0 a raw chunk, 1 a node of a file, 2 a directory, 3 a shard, 4 a symlink, 5 any dag-pb block, 6 a link to a
/// block that does not exist.
pub(super) fn cook(input: &mut Input<'_>) -> (Store, Cid) {
    let mut store = Store::new();
    let mut built: Vec<Built> = Vec::new();
    while !input.is_empty() && built.len() < BLOCKS_MAX {
        let (codec, bytes, length) = match input.byte() % 7 {
            0 => {
                let bytes = short(input);
                let length = bytes.len() as u64;
                (RAW, bytes, length)
            }
            1 => file(input, &built),
            2 => (DAG_PB, directory(input, &built), 0),
            3 => (DAG_PB, shard(input, &built), 0),
            4 => {
                let data = protobuf::Data {
                    kind: KIND_SYMLINK,
                    data: Some(short(input)),
                    ..Default::default()
                };
                (DAG_PB, node(Vec::new(), &data), 0)
            }
            5 => {
                let length = usize::from(input.number16());
                (DAG_PB, input.take(length).to_vec(), 0)
            }
            _ => {
                let length = u64::from(input.byte());
                let cid = named(RAW, &input.byte().to_le_bytes());
                built.push(Built { cid, length });
                continue;
            }
        };
        let bytes = Bytes::from(bytes);
        let cid = named(codec, &bytes);
        store.insert(cid, bytes);
        built.push(Built { cid, length });
    }
    let root = built.last().map_or_else(|| named(RAW, b""), |built| built.cid);
    (store, root)
}

fn short(input: &mut Input<'_>) -> Vec<u8> {
    let length = usize::from(input.byte());
    input.take(length).to_vec()
}

/// One of the blocks so far, counted from the last.
fn child<'a>(input: &mut Input<'_>, built: &'a [Built]) -> Option<&'a Built> {
    let back = usize::from(input.byte());
    built.iter().rev().nth(back % built.len().max(1))
}

fn node(links: Vec<protobuf::Link>, data: &protobuf::Data) -> Vec<u8> {
    let data = Some(data.encode_to_vec());
    protobuf::Node { data, links }.encode_to_vec()
}

fn file(input: &mut Input<'_>, built: &[Built]) -> (u64, Vec<u8>, u64) {
    let flags = input.byte();
    let inline = if flags & 1 != 0 { Some(short(input)) } else { None };
    let mut length = inline.as_ref().map_or(0, Vec::len) as u64;
    let (mut links, mut block_sizes) = (Vec::new(), Vec::new());
    for _ in 0..input.byte() % LINKS_MAX {
        let Some(child) = child(input, built) else { break };
        links.push(protobuf::Link::to(&child.cid, b"", child.length));
        block_sizes.push(child.length);
        length = length.saturating_add(child.length);
    }
    let mut file_size = (flags & 2 == 0).then_some(length);
    // A lie, about a child or about all.
    if flags & 4 != 0 {
        let lie = u64::from(input.byte()).wrapping_sub(u64::from(input.byte()));
        match block_sizes.last_mut() {
            Some(last) if flags & 8 != 0 => {
                *last = last.wrapping_add(lie);
                file_size = file_size.map(|size| size.wrapping_add(lie));
                length = length.wrapping_add(lie);
            }
            _ => file_size = file_size.map(|size| size.wrapping_add(lie)),
        }
    }
    let data = protobuf::Data {
        kind: if flags & 16 != 0 { KIND_RAW } else { KIND_FILE },
        data: inline,
        file_size,
        block_sizes,
        mode: (flags & 32 != 0).then(|| input.number16().into()),
        ..Default::default()
    };
    (DAG_PB, node(links, &data), length)
}

fn directory(input: &mut Input<'_>, built: &[Built]) -> Vec<u8> {
    let mut links = Vec::new();
    for _ in 0..input.byte() % LINKS_MAX {
        let Some(child) = child(input, built) else { break };
        let name = usize::from(input.byte() & 15);
        let name = input.take(name);
        links.push(protobuf::Link::to(&child.cid, name, input.byte().into()));
    }
    let data = protobuf::Data {
        kind: KIND_DIRECTORY,
        ..Default::default()
    };
    node(links, &data)
}

/// A shard whose bit field and prefixes are right; the names may belong elsewhere.
fn shard(input: &mut Input<'_>, built: &[Built]) -> Vec<u8> {
    let fanout = 4usize << (input.byte() % 10);
    let digits = format!("{:X}", fanout - 1).len();
    let mut field = vec![0u8; fanout.div_ceil(8)];
    let mut links = Vec::new();
    let mut slot = 0;
    for _ in 0..input.byte() % LINKS_MAX {
        slot += usize::from(input.byte() & 31);
        if slot >= fanout {
            break;
        }
        let Some(child) = child(input, built) else { break };
        let name = usize::from(input.byte() & 15);
        let name = [format!("{slot:0digits$X}").as_bytes(), input.take(name)].concat();
        links.push(protobuf::Link::to(&child.cid, &name, 1));
        let place = field.len() - 1 - slot / 8;
        field[place] |= 1 << (slot % 8);
        slot += 1;
    }
    let data = protobuf::Data {
        kind: KIND_SHARD,
        data: Some(field),
        hash_type: Some(0x22),
        fanout: Some(fanout as u64),
        ..Default::default()
    };
    node(links, &data)
}
