//! CAR files of version 1 and 2.
//!
//! The bits of the first byte: 1 = digests of sha2-256 are corrected before reading, so that a changed block is a block
//! with another name and not a lie; 2 = a frame of version 2 is put around the file. The second byte says in what
//! pieces it is read; the rest is the file.

use bytes::Bytes;
use cluster_dag::car::{CarError, CarEvent, CarReader, CarWriter, HEADER_BYTES_MAX, SECTION_BYTES_MAX, v2_frame};
use cluster_dag::{BLOCK_BYTES_MAX, Block};
use node_core::Cid;

use crate::input::{Input, pieces};
use crate::memory::measure;
use crate::seeds::sha2_256;

/// Digests are corrected.
pub(crate) const CORRECTED: u8 = 1;
/// A frame is put around.
pub(crate) const FRAMED: u8 = 2;

/// Memory that a reader may take beside what was pushed: a root takes 8 bytes of the file and some 170 in memory, in a
/// list that doubles.
const MEMORY_PER_BYTE: usize = 64;
const SMALL: usize = 16 << 10;

pub(crate) fn target(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (flags, choice) = (input.byte(), input.byte());
    let mut file = input.rest().to_vec();
    if flags & CORRECTED != 0 {
        correct(&mut file);
    }
    if flags & FRAMED != 0 {
        file.splice(..0, v2_frame(file.len() as u64));
    }
    let whole = read(&file, 0);
    let cut = read(&file, choice);
    assert_eq!(whole, cut, "pieces change what a file says");
    let blocks: usize = whole.blocks.iter().map(|block| block.bytes().len()).sum();
    assert!(blocks <= file.len());
    if let (Some((_, roots)), Ok(())) = (&whole.header, &whole.end) {
        again(roots, &whole.blocks);
    }
}

/// All that a file says.
#[derive(Debug, PartialEq)]
struct Said {
    header: Option<(u64, Vec<Cid>)>,
    blocks: Vec<Block>,
    end: Result<(), CarError>,
}

fn read(file: &[u8], choice: u8) -> Said {
    let mut reader = CarReader::new();
    let (mut header, mut blocks) = (None, Vec::new());
    for piece in pieces(file, choice) {
        reader.push(piece);
        loop {
            let (event, held) = measure(|| reader.next());
            // It makes room for the section that has begun.
            assert!(
                held <= MEMORY_PER_BYTE * file.len() + 2 * SECTION_BYTES_MAX + SMALL,
                "{held} bytes"
            );
            match event {
                Ok(None) => break,
                Ok(Some(CarEvent::Header { version, roots })) => {
                    assert!((1..=2).contains(&version) && roots.len() <= HEADER_BYTES_MAX / 8);
                    assert_eq!(header.replace((version, roots)), None, "a second header");
                }
                Ok(Some(CarEvent::Block(block))) => {
                    assert!(header.is_some(), "a block before the header");
                    assert!(block.bytes().len() <= BLOCK_BYTES_MAX);
                    prove(&block);
                    blocks.push(block);
                }
                Err(error) => {
                    assert!(error.at <= file.len() as u64, "{error}");
                    reader.push(b"\x01");
                    assert_eq!(reader.next(), Err(error.clone()), "an error stays one");
                    assert_eq!(reader.finish(), Err(error.clone()));
                    let end = Err(error);
                    return Said { header, blocks, end };
                }
            }
        }
    }
    let end = reader.finish();
    assert!(end.is_err() || header.is_some(), "a file without a header");
    Said { header, blocks, end }
}

/// A block that came out is the one that its CID names, by another implementation where there is one.
fn prove(block: &Block) {
    let cid = block.cid();
    if cid.hash_code() == 0x12 {
        let binary = cid.to_bytes();
        // A digest may be cut, not below 20 bytes.
        let digest = sha2_256(block.bytes());
        assert!((20..=32).any(|length| binary.ends_with(&digest[..length])));
    }
    Block::new(cid, block.bytes().clone()).expect("verified");
}

/// Writes the file anew and reads that.
fn again(roots: &[Cid], blocks: &[Block]) {
    let mut file = Vec::new();
    let mut writer = CarWriter::new(roots, &mut file).expect("as long as the header was, or shorter");
    for block in blocks {
        writer.block(block, &mut file);
    }
    assert_eq!(writer.written(), file.len() as u64);
    let said = read(&file, 0);
    assert_eq!(said.end, Ok(()));
    assert_eq!(said.header, Some((1, roots.to_vec())));
    assert_eq!(said.blocks, blocks);
}

/// Puts the right digests into the sections of a version 1 file, as far as it looks like one.
fn correct(file: &mut [u8]) {
    let mut at = 0;
    let mut is_header = true;
    while let Some((length, prefix)) = varint(&file[at..]) {
        let begin = at + prefix;
        let Some(end) = begin.checked_add(length).filter(|end| *end <= file.len() && length > 0) else {
            return;
        };
        let section = &mut file[begin..end];
        // CIDv0, or a CIDv1 with a codec of one byte.
        let digest_at = match section {
            [0x12, 32, ..] => 2,
            [1, 0..=0x7f, 0x12, 32, ..] => 4,
            _ => section.len(),
        };
        if !is_header && section.len() >= digest_at + 32 {
            let (head, content) = section.split_at_mut(digest_at + 32);
            head[digest_at..].copy_from_slice(&sha2_256(&Bytes::copy_from_slice(content)));
        }
        (at, is_header) = (end, false);
    }
}

/// A number of at most four bytes and the bytes that it takes.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = bytes.iter().take(4).position(|byte| *byte < 0x80)? + 1;
    let value = bytes[..length]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    Some((value, length))
}
