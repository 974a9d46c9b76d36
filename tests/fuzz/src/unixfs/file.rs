//! Reading a file.

use cluster_dag::unixfs::{BLOCKS_AHEAD, Chunker, FileBuilder, FileReader, Layout, Metadata, Node, Options, ReadStep};
use cluster_dag::{Block, DagError};
use node_core::Cid;

use super::{Course, ONE_BY_ONE, STEPS_MAX, Store, deliver};

/// Levels that a file may have; the reader holds a block of each beside those that it asked for ahead.
const LEVELS_MAX: usize = 129;

/// How reading ended.
#[derive(Debug, PartialEq)]
enum End {
    Complete,
    /// A block is not in the store.
    Missing(Cid),
    Refused(DagError),
    /// Nobody has time for more.
    Stopped,
}

struct Read {
    content: Vec<u8>,
    bytes: Option<u64>,
    end: End,
}

fn read(root: Cid, store: &Store, range: (u64, Option<u64>), course: Course) -> Read {
    let mut reader = FileReader::new(root).range(range.0, range.1).ahead(course.ahead);
    let (mut content, mut outstanding) = (Vec::new(), Vec::new());
    let mut steps = 0;
    let end = loop {
        steps += 1;
        let step = reader.step();
        match step {
            Err(error) => {
                assert_eq!(reader.step(), Ok(ReadStep::End), "after an error there is no more");
                break End::Refused(error);
            }
            Ok(ReadStep::End) => break End::Complete,
            Ok(ReadStep::Data(data)) => {
                assert!(!data.is_empty());
                content.extend_from_slice(&data);
            }
            Ok(ReadStep::Need(cid)) => {
                let wanted = reader.wanted();
                assert!(wanted.len() <= course.ahead.clamp(1, BLOCKS_AHEAD));
                assert!(
                    !wanted.iter().any(|cid| outstanding.contains(cid)),
                    "a block is wanted twice"
                );
                outstanding.extend(wanted);
                assert!(outstanding.len() <= BLOCKS_AHEAD + LEVELS_MAX);
                assert!(outstanding.contains(&cid), "a block is needed and not wanted");
                if !store.contains_key(&cid) {
                    break End::Missing(cid);
                }
                deliver(&mut outstanding, store, course, &mut |block| reader.supply(block));
            }
        }
        if steps == STEPS_MAX {
            break End::Stopped;
        }
    };
    let bytes = reader.bytes();
    Read { content, bytes, end }
}

pub(super) fn check(root: Cid, store: &Store, node: Option<&Node>, choices: [u8; 4]) {
    let course = Course {
        ahead: usize::from(choices[0]),
        order: choices[1],
    };
    let whole = read(root, store, (0, None), ONE_BY_ONE);
    let other = read(root, store, (0, None), course);
    if whole.end == End::Stopped || other.end == End::Stopped {
        // They stopped at different places.
        let common = whole.content.len().min(other.content.len());
        assert_eq!(whole.content[..common], other.content[..common]);
        return;
    }
    assert_eq!(
        whole.content, other.content,
        "the order of the blocks changes the content"
    );
    assert_eq!(whole.end, other.end);
    let length = whole.content.len() as u64;
    assert!(whole.bytes.unwrap_or(0) >= length, "longer than the root says");
    match (&whole.end, node) {
        (End::Complete, Some(Node::File { bytes, .. })) => {
            assert_eq!((whole.bytes, length), (Some(*bytes), *bytes));
        }
        (End::Complete, _) => panic!("what is no file was read"),
        (_, Some(Node::File { .. })) => return,
        _ => {
            assert!(matches!(whole.end, End::Refused(_)));
            return;
        }
    }
    // A range, which may begin and end behind the end.
    let (start, end) = (
        u64::from(choices[2]) * 3,
        u64::from(choices[2]) * 3 + u64::from(choices[3]) * 7,
    );
    let part = read(root, store, (start, Some(end)), course);
    if part.end != End::Stopped {
        assert_eq!(part.end, End::Complete);
        let (start, end) = (start.min(length) as usize, end.min(length) as usize);
        assert_eq!(part.content, whole.content[start..end]);
    }
    again(&whole.content, choices);
}

/// Makes a file of the content and reads that.
fn again(content: &[u8], choices: [u8; 4]) {
    let smallest = content.len() as u32 / 64 + 1;
    let mut options = if choices[3] & 1 == 0 {
        Options::v0_2015()
    } else {
        Options::v1_2025()
    };
    options.chunker = match choices[3] & 6 {
        2 => Chunker::Rabin {
            min: smallest + 16,
            avg: smallest * 2 + 17,
            max: smallest * 4 + 20,
        },
        _ => Chunker::Size(smallest + u32::from(choices[2])),
    };
    options.layout = if choices[3] & 8 == 0 {
        Layout::Balanced
    } else {
        Layout::Trickle
    };
    options.raw_leaves ^= choices[3] & 16 != 0;
    options.file_links_max = 2 + usize::from(choices[2] & 7);
    let mut store = Store::new();
    let mut keep = |block: Block| {
        Block::new(block.cid(), block.bytes().clone()).expect("a new block has the name of its bytes");
        store.insert(block.cid(), block.bytes().clone());
    };
    let mut builder = FileBuilder::new(options, Metadata::default()).expect("valid options");
    builder.write(content, &mut keep).expect("small chunks");
    let added = builder.finish(&mut keep).expect("few links");
    assert_eq!(added.content_bytes, content.len() as u64);
    let course = Course {
        ahead: BLOCKS_AHEAD,
        order: choices[1],
    };
    let read = read(added.cid, &store, (0, None), course);
    assert_eq!(read.end, End::Complete);
    assert_eq!(read.content, content);
}
