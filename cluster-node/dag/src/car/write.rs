//! Writing a CAR file.

use node_core::Cid;

use super::{CarFault, HEADER_BYTES_MAX, PRAGMA, V2_HEADER_BYTES};
use crate::{Block, varint};

/// Writes a CAR file of version 1 into memory that the caller empties as it likes: the header, then block after block.
///
/// For version 2 put [`v2_frame`] in front.
#[derive(Debug)]
pub struct CarWriter {
    written: u64,
}

impl CarWriter {
    /// Appends the header to `out`. The one error is [`CarFault::TooLong`], for more roots than fit into
    /// [`HEADER_BYTES_MAX`] bytes.
    pub fn new(roots: &[Cid], out: &mut Vec<u8>) -> Result<Self, CarFault> {
        let mut header = vec![0xa2, 0x65];
        header.extend_from_slice(b"roots");
        cbor_head(&mut header, 4, roots.len() as u64);
        for root in roots {
            let binary = root.to_bytes();
            header.extend_from_slice(&[0xd8, 0x2a]);
            cbor_head(&mut header, 2, binary.len() as u64 + 1);
            header.push(0);
            header.extend_from_slice(&binary);
        }
        header.push(0x67);
        header.extend_from_slice(b"version");
        header.push(1);
        if header.len() > HEADER_BYTES_MAX {
            return Err(CarFault::TooLong {
                what: "a header",
                bytes: header.len() as u64,
                max: HEADER_BYTES_MAX as u64,
            });
        }
        let before = out.len();
        varint::write(out, header.len() as u64);
        out.extend_from_slice(&header);
        Ok(Self {
            written: (out.len() - before) as u64,
        })
    }

    /// Appends a block to `out`.
    pub fn block(&mut self, block: &Block, out: &mut Vec<u8>) {
        let before = out.len();
        let binary = block.cid().to_bytes();
        varint::write(out, (binary.len() + block.bytes().len()) as u64);
        out.extend_from_slice(&binary);
        out.extend_from_slice(block.bytes());
        self.written += (out.len() - before) as u64;
    }

    /// Bytes written so far, header included: the data size of [`v2_frame`].
    pub fn written(&self) -> u64 {
        self.written
    }
}

/// What makes a version 2 file of a version 1 file of this many bytes when put in front of it: no padding, no index.
pub fn v2_frame(data_bytes: u64) -> [u8; PRAGMA.len() + V2_HEADER_BYTES] {
    let mut frame = [0; PRAGMA.len() + V2_HEADER_BYTES];
    let (pragma, header) = frame.split_at_mut(PRAGMA.len());
    pragma.copy_from_slice(&PRAGMA);
    header[16..24].copy_from_slice(&((PRAGMA.len() + V2_HEADER_BYTES) as u64).to_le_bytes());
    header[24..32].copy_from_slice(&data_bytes.to_le_bytes());
    frame
}

/// The head of a CBOR item in its shortest form.
fn cbor_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..=23 => out.push(major | value as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::car::{CarError, CarEvent, CarReader, PADDING_BYTES_MAX, SECTION_BYTES_MAX};
    use crate::codec::RAW;
    use crate::{BLOCK_BYTES_MAX, DagError, HashFunction};

    fn block(bytes: &[u8]) -> Block {
        Block::seal(1, RAW, HashFunction::Sha2_256, Bytes::copy_from_slice(bytes)).expect("small")
    }

    fn v1(roots: &[Cid], blocks: &[Block]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = CarWriter::new(roots, &mut out).expect("few roots");
        for block in blocks {
            writer.block(block, &mut out);
        }
        assert_eq!(writer.written(), out.len() as u64);
        out
    }

    /// Reads a file in pieces of these sizes, over and over.
    fn read(file: &[u8], pieces: &[usize]) -> Result<(u64, Vec<Cid>, Vec<Block>), CarError> {
        let mut reader = CarReader::new();
        let (mut rest, mut header, mut blocks) = (file, None, Vec::new());
        let mut sizes = pieces.iter().cycle();
        while !rest.is_empty() {
            let size = (*sizes.next().expect("endless")).clamp(1, rest.len());
            reader.push(&rest[..size]);
            rest = &rest[size..];
            while let Some(event) = reader.next()? {
                match event {
                    CarEvent::Header { version, roots } => assert_eq!(header.replace((version, roots)), None),
                    CarEvent::Block(block) => blocks.push(block),
                }
            }
        }
        reader.finish()?;
        let (version, roots) = header.expect("a whole file has a header");
        Ok((version, roots, blocks))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_any_pieces(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            roots in 0usize..40,
            pieces in proptest::collection::vec(1usize..200, 1..5),
            padding in 0usize..100,
            index: Vec<u8>,
        ) {
            let blocks: Vec<Block> = contents.iter().map(|bytes| block(bytes)).collect();
            let roots: Vec<Cid> = (0..roots).map(|n| block(&n.to_le_bytes()).cid()).collect();
            let file = v1(&roots, &blocks);
            prop_assert_eq!(read(&file, &pieces), Ok((1, roots.clone(), blocks.clone())));

            let mut framed = v2_frame(file.len() as u64).to_vec();
            framed.extend_from_slice(&file);
            prop_assert_eq!(read(&framed, &pieces), Ok((2, roots.clone(), blocks.clone())));

            let mut padded = v2_frame(file.len() as u64).to_vec();
            padded[27..35].copy_from_slice(&(51 + padding as u64).to_le_bytes());
            padded.resize(51 + padding, 0);
            padded.extend_from_slice(&file);
            padded.extend_from_slice(&index);
            prop_assert_eq!(read(&padded, &pieces), Ok((2, roots, blocks)));
        }

        #[test]
        fn a_cut_file_is_noticed(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..4),
            framed: bool,
            at in any::<proptest::sample::Index>(),
        ) {
            let blocks: Vec<Block> = contents.iter().map(|bytes| block(bytes)).collect();
            let data = v1(&[], &blocks);
            // Between two sections a file of version 1 may end: it does not say how many there are.
            let ends: Vec<usize> = (0..=blocks.len()).map(|n| v1(&[], &blocks[..n]).len()).collect();
            let mut file = if framed { v2_frame(data.len() as u64).to_vec() } else { Vec::new() };
            file.extend_from_slice(&data);
            let at = at.index(file.len());
            let result = read(&file[..at], &[7]);
            if at > 0 && (framed || !ends.contains(&at)) {
                prop_assert!(result.is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_errors_stay(bytes: Vec<u8>, framed: bool, headed: bool) {
            let mut file = if framed { v2_frame(1 << 40).to_vec() } else { Vec::new() };
            if headed {
                file.extend_from_slice(&v1(&[], &[]));
            }
            file.extend_from_slice(&bytes);
            let mut reader = CarReader::new();
            for byte in &file {
                reader.push(&[*byte]);
                while let Ok(Some(_)) = reader.next() {}
            }
            // Never a panic; an error stays one.
            if let Err(error) = reader.next() {
                reader.push(&file);
                prop_assert_eq!(reader.next(), Err(error.clone()));
                prop_assert_eq!(reader.finish(), Err(error));
            }
        }
    }

    #[test]
    fn a_lying_block_is_named() {
        let (honest, other) = (block(b"honest"), block(b"other!"));
        let lie = Block::trusted(honest.cid(), other.bytes().clone());
        let error = read(&v1(&[], &[other, lie]), &[1000]).expect_err("a lie");
        assert_eq!(
            error.reason,
            CarFault::Block(DagError::HashMismatch {
                cid: Box::new(honest.cid())
            })
        );
        assert!(error.to_string().contains("byte 61"), "{error}");
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_held() {
        let fault = |file: &[u8]| read(file, &[1000]).expect_err("refused").reason;
        let mut long = v1(&[], &[]);
        varint::write(&mut long, SECTION_BYTES_MAX as u64 + 1);
        assert!(matches!(fault(&long), CarFault::TooLong { what: "a section", .. }));
        let mut long = Vec::new();
        varint::write(&mut long, u64::MAX);
        assert!(matches!(fault(&long), CarFault::TooLong { what: "a header", .. }));
        let mut zero = v1(&[], &[]);
        zero.push(0);
        assert_eq!(fault(&zero), CarFault::Length);
        let mut padded = v2_frame(100).to_vec();
        padded[27..35].copy_from_slice(&(52 + PADDING_BYTES_MAX).to_le_bytes());
        assert!(matches!(fault(&padded), CarFault::TooLong { what: "a padding", .. }));
        let roots = vec![block(b"").cid(); 30_000];
        assert!(matches!(
            CarWriter::new(&roots, &mut Vec::new()),
            Err(CarFault::TooLong { .. })
        ));
        // The longest section that is taken.
        let whole = block(&vec![3; BLOCK_BYTES_MAX]);
        let file = v1(&[], std::slice::from_ref(&whole));
        assert_eq!(read(&file, &[1 << 16]), Ok((1, Vec::new(), vec![whole])));
    }

    #[test]
    fn other_files_are_refused() {
        let fault = |file: &[u8]| read(file, &[1000]).expect_err("refused").reason;
        assert!(matches!(
            fault(b"Hello, this is a text and no CAR file"),
            CarFault::Cut("its header")
        ));
        assert!(matches!(fault(&[2, 0xa0, 0]), CarFault::Header(_)));
        assert!(matches!(fault(&[1, 0x80]), CarFault::Header(reason) if reason.contains("no map")));
        let mut third = v1(&[], &[]);
        *third.last_mut().expect("a version") = 3;
        assert_eq!(fault(&third), CarFault::Version(3));
        let only_version = [&[10][..], &PRAGMA[1..10], &[1]].concat();
        assert!(matches!(fault(&only_version), CarFault::Header(reason) if reason.contains("no roots")));
        let mut inside = v2_frame(100).to_vec();
        inside[27..35].copy_from_slice(&50u64.to_le_bytes());
        assert!(matches!(fault(&inside), CarFault::Header(reason) if reason.contains("inside the header")));
        assert!(matches!(fault(&v2_frame(0)), CarFault::Header(reason) if reason.contains("did not finish")));
        // A frame around a frame.
        let mut twice = v2_frame(1000).to_vec();
        twice.extend_from_slice(&v2_frame(900));
        assert_eq!(fault(&twice), CarFault::Version(2));
        // Data that ends in the middle of a section.
        let data = v1(&[], &[block(b"long enough")]);
        let mut short = v2_frame(data.len() as u64 - 1).to_vec();
        short.extend_from_slice(&data);
        assert!(matches!(fault(&short), CarFault::Cut(_)));
        assert!(matches!(
            CarReader::new().finish(),
            Err(CarError {
                at: 0,
                reason: CarFault::Cut("its header")
            })
        ));
    }
}
