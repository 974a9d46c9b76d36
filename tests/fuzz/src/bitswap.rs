//! Bitswap: frames, messages, the naming of blocks.

use bytes::Bytes;
use cluster_bitswap::limits::{BLOCK_BYTES_MAX, BLOCKS_MAX, ENTRIES_MAX, MESSAGE_BYTES_MAX, PRESENCES_MAX};
use cluster_bitswap::{Ask, BuildError, FrameDecoder, FrameError, Message, Sha2Hasher, Version, WantKind, split};

use crate::input::{Input, pieces};
use crate::memory::measure;

/// Memory that a message may take while it is decoded, beside its own bytes: for each byte of it, since two bytes make
/// an entry of some 200, which is held in the form of the wire and in ours; and whatever is small.
const MESSAGE_MEMORY_PER_BYTE: usize = 512;
const SMALL: usize = 16 << 10;

pub(crate) fn target(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mode, choice, split_at) = (input.byte(), input.byte(), input.number16());
    let bytes = input.rest();
    if mode & 1 == 1 {
        message(bytes, split_at.into());
        return;
    }
    let (whole, ended) = read(bytes, 0);
    let (cut, cut_ended) = read(bytes, choice);
    assert_eq!((&whole, &ended), (&cut, &cut_ended), "pieces change what a stream says");
    let announced: usize = whole.iter().map(Bytes::len).sum();
    assert!(announced + whole.len() <= bytes.len());
    for frame in &whole {
        message(frame, split_at.into());
    }
}

/// All messages of a stream that comes in pieces, and how it ends.
fn read(stream: &[u8], choice: u8) -> (Vec<Bytes>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::new();
    let (mut messages, mut arrived) = (Vec::new(), 0);
    for piece in pieces(stream, choice) {
        let mut rest = piece;
        loop {
            let (result, bytes) = measure(|| decoder.decode(&mut rest));
            arrived += piece.len();
            // While the buffer grows, the old one is there beside the new one, which is at most twice as long.
            assert!(bytes <= 3 * arrived + (64 << 10) + 1024, "{bytes} bytes for {arrived}");
            assert!(decoder.buffered() <= MESSAGE_BYTES_MAX);
            match result {
                Ok(Some(message)) => {
                    assert!(message.len() <= MESSAGE_BYTES_MAX);
                    messages.push(message);
                }
                Ok(None) => {
                    assert!(rest.is_empty(), "bytes are left, and no message is whole");
                    break;
                }
                Err(error) => {
                    assert_eq!(
                        decoder.decode(&mut &b"\0"[..]),
                        Err(error.clone()),
                        "an error stays one"
                    );
                    assert_eq!(decoder.finish(), Err(error.clone()));
                    return (messages, Err(error));
                }
            }
        }
    }
    let end = decoder.finish();
    (messages, end)
}

fn message(bytes: &[u8], split_at: usize) {
    let frame = Bytes::copy_from_slice(bytes);
    let (decoded, held) = measure(|| Message::decode(frame.clone()));
    assert!(
        held <= MESSAGE_MEMORY_PER_BYTE * bytes.len() + SMALL,
        "{held} bytes for {}",
        bytes.len()
    );
    let Ok(message) = decoded else { return };
    assert!(message.entries.len() <= ENTRIES_MAX);
    assert!(message.presences.len() <= PRESENCES_MAX);
    assert!(message.blocks.len() <= BLOCKS_MAX);
    assert!(message.blocks.iter().all(|block| block.data.len() <= BLOCK_BYTES_MAX));
    assert!(message.blocks.iter().map(|block| block.data.len()).sum::<usize>() <= bytes.len());
    for version in Version::ALL {
        say_again(&message, version, split_at);
    }
    name_blocks(message);
}

/// Encodes it for a peer of some version and decodes that: nothing is lost but what the version has no word for.
fn say_again(message: &Message, version: Version, split_at: usize) {
    let frames = match split(message, version, split_at) {
        Ok(frames) => frames,
        Err(BuildError::NotInVersion { .. }) => {
            assert!(version < Version::V1_2 && needs_1_2(message));
            return;
        }
        Err(error) => panic!("what was decoded can't be encoded: {error}"),
    };
    let mut joined = Message::default();
    for (number, frame) in frames.iter().enumerate() {
        let (mut parts, end) = read(frame, 0);
        assert_eq!((parts.len(), end), (1, Ok(())));
        let part = parts.remove(0);
        let length = part.len();
        let part = Message::decode(part).expect("what was encoded is decoded");
        let items = part.entries.len() + part.presences.len() + part.blocks.len();
        assert!(
            length <= split_at.max(2) || items <= 1,
            "{length} bytes where {split_at} were wanted"
        );
        assert!(number == 0 || !part.full, "only the first is a full wantlist");
        joined.full |= part.full;
        joined.pending_bytes = joined.pending_bytes.max(part.pending_bytes);
        joined.entries.extend(part.entries);
        joined.presences.extend(part.presences);
        joined.blocks.extend(part.blocks);
    }
    let mut expected = message.clone();
    if frames.is_empty() || version < Version::V1_2 {
        expected.pending_bytes = 0;
    }
    if version < Version::V1_2 {
        for entry in &mut expected.entries {
            if let Ask::Want { send_dont_have, .. } = &mut entry.ask {
                *send_dont_have = false;
            }
        }
    }
    // Bare blocks get the prefix that they have in principle; in 1.0.0 all lose theirs.
    for (block, again) in expected.blocks.iter_mut().zip(&joined.blocks) {
        if block.prefix.is_none() || version == Version::V1_0 {
            assert_eq!(again.prefix.is_none(), version == Version::V1_0);
            block.prefix = again.prefix;
        }
    }
    assert_eq!(joined, expected, "{version:?}");
}

fn needs_1_2(message: &Message) -> bool {
    let want_have = |ask: &Ask| {
        matches!(
            ask,
            Ask::Want {
                kind: WantKind::Have,
                ..
            }
        )
    };
    !message.presences.is_empty() || message.entries.iter().any(|entry| want_have(&entry.ask))
}

/// Names the blocks: each name is proven by another implementation, and no block gets lost that should have one.
fn name_blocks(message: Message) {
    let raw = message.blocks.clone();
    let named = message.identify(&Sha2Hasher);
    let bare = raw.iter().filter(|block| block.prefix.is_none()).count();
    assert!((bare..=raw.len()).contains(&named.blocks().len()));
    let mut candidates = raw.iter();
    for block in named.blocks() {
        let found = candidates.any(|raw| raw.data == *block.data());
        assert!(found, "blocks come in their order");
        let cid = node_core::Cid::from_bytes(&block.cid().to_bytes()).expect("a CID");
        cluster_dag::Block::new(cid, block.data().clone()).expect("the name is that of the bytes");
    }
}
