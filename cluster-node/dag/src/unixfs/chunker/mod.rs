//! Cutting files into chunks, piece by piece.

mod buzhash;
mod rabin;

use bytes::{Bytes, BytesMut};

use self::buzhash::Buzhash;
use self::rabin::Rabin;
use super::Chunker;

/// Cuts a stream of bytes. It holds the chunk that is not complete yet: at most the longest that its [`Chunker`] makes.
#[derive(Debug)]
pub(crate) struct Splitter {
    cutter: Cutter,
    buffer: BytesMut,
}

#[derive(Debug)]
enum Cutter {
    /// After so many bytes.
    Size(usize),
    Rabin(Box<Rabin>),
    Buzhash(Buzhash),
}

impl Splitter {
    pub(crate) fn new(chunker: Chunker) -> Self {
        let cutter = match chunker {
            Chunker::Size(size) => Cutter::Size(size as usize),
            Chunker::Rabin { min, avg, max } => Cutter::Rabin(Box::new(Rabin::new(min, avg, max))),
            Chunker::Buzhash => Cutter::Buzhash(Buzhash::new()),
        };
        Self {
            cutter,
            buffer: BytesMut::new(),
        }
    }

    /// Takes bytes off the front of `bytes` until a chunk is complete, which is returned, or all are taken.
    pub(crate) fn take(&mut self, bytes: &mut &[u8]) -> Option<Bytes> {
        let cut = match &mut self.cutter {
            Cutter::Size(size) => {
                let missing = *size - self.buffer.len();
                (bytes.len() >= missing).then_some(missing)
            }
            Cutter::Rabin(rabin) => rabin.cut(bytes),
            Cutter::Buzhash(buzhash) => buzhash.cut(bytes),
        };
        let (taken, rest) = bytes.split_at(cut.unwrap_or(bytes.len()));
        self.buffer.extend_from_slice(taken);
        *bytes = rest;
        cut.map(|_| self.buffer.split().freeze())
    }

    /// What is left at the end, which is never an empty chunk.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes in which content-defined chunkers find places to cut.
    pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            // xorshift64*: any generator does.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        out.truncate(length);
        out
    }

    fn chunks(chunker: Chunker, bytes: &[u8], pieces: &[usize]) -> Vec<Bytes> {
        let mut splitter = Splitter::new(chunker);
        let (mut out, mut rest) = (Vec::new(), bytes);
        let mut sizes = pieces.iter().cycle();
        while !rest.is_empty() {
            let size = (*sizes.next().expect("endless")).clamp(1, rest.len());
            let (mut piece, behind) = rest.split_at(size);
            rest = behind;
            while !piece.is_empty() {
                out.extend(splitter.take(&mut piece));
            }
        }
        out.extend(splitter.rest());
        out
    }

    fn chunker() -> impl Strategy<Value = (Chunker, usize, usize)> {
        prop_oneof![
            (1u32..3000).prop_map(|size| (Chunker::Size(size), size as usize, size as usize)),
            (16u32..300, 1u32..300, 1u32..300).prop_map(|(min, more, most)| {
                let (avg, max) = (min + more, min + more + most);
                (Chunker::Rabin { min, avg, max }, min as usize, max as usize)
            }),
            Just((Chunker::Buzhash, 128 << 10, 512 << 10)),
        ]
    }

    proptest! {
        #[test]
        fn chunks_are_the_bytes_whatever_the_pieces(
            (chunker, min, max) in chunker(),
            length in 0usize..20_000,
            seed: u64,
            pieces in proptest::collection::vec(1usize..5000, 1..5),
        ) {
            let bytes = noise(length, seed);
            let whole = chunks(chunker, &bytes, &[usize::MAX]);
            prop_assert_eq!(&chunks(chunker, &bytes, &pieces), &whole);
            prop_assert_eq!(whole.concat(), bytes);
            for (place, chunk) in whole.iter().enumerate() {
                prop_assert!(!chunk.is_empty() && chunk.len() <= max);
                prop_assert!(chunk.len() >= min || place == whole.len() - 1);
            }
        }
    }

    #[test]
    fn buzhash_cuts_by_content() {
        let bytes = noise(8 << 20, 7);
        let whole = chunks(Chunker::Buzhash, &bytes, &[usize::MAX]);
        assert_eq!(chunks(Chunker::Buzhash, &bytes, &[1 << 20, 4097]), whole);
        // Bytes put in front move the first cuts only.
        let moved = chunks(Chunker::Buzhash, &[&[1, 2, 3][..], &bytes].concat(), &[usize::MAX]);
        assert_eq!(whole.last(), moved.last());
        assert!(whole.iter().any(|chunk| (128 << 10..512 << 10).contains(&chunk.len())));
    }
}
