//! The content that is measured with. It follows from seeds, so that every run has the same.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use node_core::Cid;

use crate::content::{cid_of, seeded_bytes};

const MEBIBYTE: usize = 1 << 20;
const DAG_CBOR: u64 = 0x71;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// MiB of the large file.
    pub file_mebibytes: usize,
    /// Leaves of 4 KiB of the wide DAG.
    pub blocks: usize,
    /// Blocks of the chain.
    pub chain: usize,
    /// Small files of the directory.
    pub files: usize,
    /// Blocks of the store that is filled to be measured.
    pub stored: u64,
}

impl Sizes {
    /// The sizes that the targets are about, or a tenth and less.
    pub fn of(short: bool) -> Self {
        match short {
            false => Self {
                file_mebibytes: 1_024,
                blocks: 100_000,
                chain: 10_000,
                files: 10_000,
                stored: 10_000_000,
            },
            true => Self {
                file_mebibytes: 96,
                blocks: 5_000,
                chain: 1_000,
                files: 1_000,
                stored: 200_000,
            },
        }
    }
}

/// Bytes of a leaf of the wide DAG.
pub const LEAF_BYTES: usize = 4_096;

/// A file of so many bytes.
pub fn file(path: &Path, seed: u32, bytes: usize) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    for (piece, begin) in (0..).zip((0..bytes).step_by(MEBIBYTE)) {
        file.write_all(&seeded_bytes(seed, piece, MEBIBYTE.min(bytes - begin)))?;
    }
    // Its writing back shall not fall into what is measured next.
    Ok(file.sync_data()?)
}

/// A directory of so many files of 1 B to 8 KiB; answers their bytes.
pub fn directory(path: &Path, files: usize) -> anyhow::Result<usize> {
    fs::create_dir_all(path)?;
    let mut all = 0;
    for number in 0..files {
        let bytes = number * 7_919 % 8_192 + 1;
        fs::write(
            path.join(format!("file-{number:06}")),
            seeded_bytes(3, number as u32, bytes),
        )?;
        all += bytes;
    }
    File::open(path)?.sync_all()?;
    Ok(all)
}

/// A chain as a CAR file: each block is a map of dag-cbor with its number and a link to the next. Answers the first.
pub fn chain(path: &Path, blocks: usize) -> anyhow::Result<Cid> {
    let mut made: Vec<(Cid, Vec<u8>)> = Vec::with_capacity(blocks);
    for number in 0..blocks {
        // Keys in the order of dag-cbor: the shorter first.
        let mut block = Vec::new();
        match made.last() {
            None => block.push(0xa1),
            Some((next, _)) => {
                block.push(0xa2);
                text(&mut block, "next");
                link(&mut block, next);
            }
        }
        text(&mut block, "number");
        unsigned(&mut block, number as u32);
        made.push((cid_of(DAG_CBOR, &block), block));
    }
    let first = made.last().map(|(cid, _)| *cid);
    let first = first.ok_or_else(|| anyhow::anyhow!("a chain has at least one block"))?;
    let mut header = vec![0xa2];
    text(&mut header, "roots");
    header.push(0x81);
    link(&mut header, &first);
    text(&mut header, "version");
    header.push(0x01);
    let mut car = BufWriter::new(File::create(path)?);
    section(&mut car, &[&header])?;
    for (cid, block) in made.iter().rev() {
        section(&mut car, &[&cid.to_bytes(), block])?;
    }
    car.flush()?;
    Ok(first)
}

/// A number in CBOR, in as few bytes as it takes: dag-cbor knows no other.
fn unsigned(block: &mut Vec<u8>, number: u32) {
    let bytes = number.to_be_bytes();
    match number {
        0..24 => block.push(bytes[3]),
        24..0x100 => block.extend([0x18, bytes[3]]),
        0x100..0x1_0000 => block.extend([0x19, bytes[2], bytes[3]]),
        _ => block.extend([&[0x1a], &bytes[..]].concat()),
    }
}

/// A text of less than 24 bytes in CBOR.
fn text(block: &mut Vec<u8>, text: &str) {
    block.push(0x60 + text.len() as u8);
    block.extend(text.as_bytes());
}

/// A link in dag-cbor: tag 42, bytes, of which the first is 0.
fn link(block: &mut Vec<u8>, cid: &Cid) {
    let binary = cid.to_bytes();
    block.extend([0xd8, 0x2a, 0x58, binary.len() as u8 + 1, 0x00]);
    block.extend(binary);
}

/// A part of a CAR file: its length as a varint, and its bytes.
fn section(car: &mut impl Write, parts: &[&[u8]]) -> anyhow::Result<()> {
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    while length >= 0x80 {
        car.write_all(&[length as u8 | 0x80])?;
        length >>= 7;
    }
    car.write_all(&[length as u8])?;
    for part in parts {
        car.write_all(part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the specifications of CAR v1 and dag-cbor; Kubo checks the hashes when it imports the chain.
    #[test]
    fn a_chain_is_what_dag_cbor_and_car_are() {
        let folder = tempfile::tempdir().expect("made");
        let path = folder.path().join("chain.car");
        let first = chain(&path, 2).expect("made");
        let car = fs::read(&path).expect("read");
        assert_eq!(car[0] as usize, 59 - 1, "the header's length");
        assert_eq!(&car[1..9], b"\xa2\x65roots\x81");
        assert_eq!(&car[9..14], b"\xd8\x2a\x58\x25\x00");
        assert_eq!(&car[14..50], first.to_bytes().as_slice());
        assert_eq!(&car[50..59], b"\x67version\x01");
        // The last block links to nothing.
        assert!(car.ends_with(b"\xa1\x66number\x00"));
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (number, bytes) in [
            (23, &[23][..]),
            (24, &[0x18, 24]),
            (255, &[0x18, 255]),
            (256, &[0x19, 1, 0]),
            (65_536, &[0x1a, 0, 1, 0, 0]),
        ] {
            let mut made = Vec::new();
            unsigned(&mut made, number);
            assert_eq!(made, bytes);
        }
    }

    #[test]
    fn a_file_has_its_size_and_its_seed() {
        let folder = tempfile::tempdir().expect("made");
        let path = |name: &str| folder.path().join(name);
        file(&path("one"), 1, MEBIBYTE + 5).expect("made");
        file(&path("two"), 2, MEBIBYTE + 5).expect("made");
        let (one, two) = (
            fs::read(path("one")).expect("read"),
            fs::read(path("two")).expect("read"),
        );
        assert_eq!((one.len(), two.len()), (MEBIBYTE + 5, MEBIBYTE + 5));
        assert_ne!(one, two);
    }
}
