//! Properties of the codec: nothing that comes in makes it panic or exceed its bounds, and what goes out comes in again.

use bytes::Bytes;
use cid::Cid;
use cluster_bitswap::limits::{BLOCK_BYTES_MAX, ENTRIES_MAX, MESSAGE_BYTES_MAX, PRESENCES_MAX};
use cluster_bitswap::{
    Ask, Entry, FrameDecoder, FrameError, Message, MessageError, Prefix, Presence, RawBlock, Sha2Hasher, Version,
    WantKind, split,
};
use proptest::prelude::*;

fn cid() -> impl Strategy<Value = Cid> {
    let digest = prop::collection::vec(any::<u8>(), 32);
    (any::<bool>(), prop::sample::select(vec![0x55u64, 0x70, 0x71]), digest).prop_map(|(v0, codec, digest)| {
        let hash = cid::multihash::Multihash::wrap(0x12, &digest).expect("fits");
        if v0 {
            Cid::new_v0(hash).expect("sha2-256")
        } else {
            Cid::new_v1(codec, hash)
        }
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop::sample::select(vec![WantKind::Block, WantKind::Have]);
    let want = (kind, any::<i32>(), any::<bool>()).prop_map(|(kind, priority, send_dont_have)| Ask::Want {
        kind,
        priority,
        send_dont_have,
    });
    let ask = prop_oneof![want, Just(Ask::Cancel)];
    (cid(), ask).prop_map(|(cid, ask)| Entry { cid, ask })
}

fn block() -> impl Strategy<Value = RawBlock> {
    let size = prop_oneof![0..300usize, 0..70_000usize, Just(BLOCK_BYTES_MAX)];
    (cid(), size, any::<u8>()).prop_map(|(cid, size, fill)| RawBlock {
        prefix: Some(Prefix::of(&cid)),
        data: vec![fill; size].into(),
    })
}

fn presence() -> impl Strategy<Value = (Cid, Presence)> {
    (cid(), prop::sample::select(vec![Presence::Have, Presence::DontHave]))
}

fn message() -> impl Strategy<Value = Message> {
    let some = |n| 0..n;
    (
        any::<bool>(),
        prop::collection::vec(entry(), some(40)),
        prop::collection::vec(block(), some(6)),
        prop::collection::vec(presence(), some(40)),
        0..=i32::MAX as u32,
    )
        .prop_map(|(full, entries, blocks, presences, pending_bytes)| Message {
            full,
            entries,
            blocks,
            presences,
            pending_bytes,
        })
}

/// All messages of a stream that arrives in pieces of these sizes.
fn read(stream: &[u8], pieces: &[usize]) -> Result<Vec<Bytes>, FrameError> {
    let mut decoder = FrameDecoder::new();
    let (mut messages, mut at, mut piece) = (Vec::new(), 0, 0);
    while at < stream.len() {
        let size = pieces.get(piece % pieces.len().max(1)).copied().unwrap_or(7).max(1);
        let end = (at + size).min(stream.len());
        let mut input = &stream[at..end];
        while let Some(message) = decoder.decode(&mut input)? {
            messages.push(message);
        }
        assert!(decoder.buffered() <= MESSAGE_BYTES_MAX);
        (at, piece) = (end, piece + 1);
    }
    decoder.finish()?;
    Ok(messages)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_bytes_are_no_danger(bytes in prop::collection::vec(any::<u8>(), 0..4_000), pieces in prop::collection::vec(1..600usize, 1..5)) {
        // As a stream and as one message; either may be refused, and whatever is taken can be named and said again.
        let _ = read(&bytes, &pieces);
        if let Ok(message) = Message::decode(bytes.into()) {
            prop_assert!(message.entries.len() <= 4_000);
            let frames = split(&message, Version::V1_2, 1 << 20).expect("what can be read can be sent");
            prop_assert!(frames.len() <= 1);
            let _ = message.identify(&Sha2Hasher);
        }
    }

    #[test]
    fn a_message_with_a_flaw_is_no_danger(message in message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        for frame in split(&message, Version::V1_2, 64 << 10).expect("can be sent") {
            let mut bytes = frame.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(messages) = read(&bytes, &[100_000]) {
                for message in messages {
                    let _ = Message::decode(message).map(|message| message.identify(&Sha2Hasher));
                }
            }
        }
    }

    #[test]
    fn splitting_loses_nothing_and_stays_within_bounds(
        message in message(), target in 1..2_000_000usize, pieces in prop::collection::vec(1..500_000usize, 1..5)
    ) {
        let frames = split(&message, Version::V1_2, target).expect("can be sent");
        let stream = frames.concat();
        let read = read(&stream, &pieces).expect("own messages");
        prop_assert_eq!(read.len(), frames.len());
        let mut joined = Message { pending_bytes: message.pending_bytes, ..Message::default() };
        for (number, bytes) in read.into_iter().enumerate() {
            prop_assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            let length = bytes.len();
            let part = Message::decode(bytes).expect("own message");
            let items = part.entries.len() + part.blocks.len() + part.presences.len();
            prop_assert!(length <= target || items <= 1, "{} bytes, {} items, target {}", length, items, target);
            prop_assert_eq!(part.full, message.full && number == 0);
            joined.full |= part.full;
            joined.entries.extend(part.entries);
            joined.blocks.extend(part.blocks);
            joined.presences.extend(part.presences);
        }
        prop_assert_eq!(joined, message);
    }

    #[test]
    fn one_message_round_trips(message in message()) {
        let frames = split(&message, Version::V1_2, usize::MAX).expect("can be sent");
        prop_assume!(frames.len() == 1);
        let bytes = read(&frames[0], &[usize::MAX]).expect("own message").remove(0);
        prop_assert_eq!(Message::decode(bytes).expect("own message"), message);
    }
}

#[test]
fn a_length_beyond_the_bound_is_refused_before_anything_is_kept() {
    // 4 MiB + 1 and 2^35 - 1.
    for prefix in [&[0x81, 0x80, 0x80, 0x02][..], &[0xff, 0xff, 0xff, 0xff, 0x7f]] {
        let mut decoder = FrameDecoder::new();
        let error = decoder.decode(&mut &prefix[..]).expect_err("too long");
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        assert_eq!(decoder.buffered(), 0);
        // And it stays refused.
        assert_eq!(decoder.decode(&mut &[1, 0][..]), Err(error));
    }
    let mut whole = vec![0x80, 0x80, 0x80, 0x02];
    whole.resize(4 + MESSAGE_BYTES_MAX, 0);
    assert_eq!(read(&whole, &[1 << 16]).expect("as long as allowed").len(), 1);
}

#[test]
fn a_length_in_more_bytes_than_it_needs_is_refused() {
    for prefix in [&[0x80, 0x00][..], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]] {
        let error = FrameDecoder::new().decode(&mut &prefix[..]).expect_err("too long");
        assert!(matches!(error, FrameError::BadLength(_)), "{error}");
    }
}

#[test]
fn a_stream_that_ends_too_early_says_so() {
    for (stream, missing) in [(&[5, 1, 2][..], 3), (&[0x80], 1)] {
        assert_eq!(read(stream, &[1]), Err(FrameError::Truncated { missing }));
    }
    // Empty messages are messages.
    assert_eq!(read(&[0, 0], &[1]).expect("whole").len(), 2);
}

/// A message of `count` copies of a field.
fn flood(field: &[u8], count: usize) -> Bytes {
    field.repeat(count).into()
}

#[test]
fn a_message_with_too_many_parts_is_refused_before_they_are_made() {
    let refused = |message: Bytes, says: &str| {
        let error = Message::decode(message).expect_err(says);
        assert!(matches!(error, MessageError::TooMuch { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    };
    refused(flood(&[0x22, 0x00], PRESENCES_MAX + 1), "presences");
    refused(flood(&[0x12, 0x00], 1 << 20), "blocks");
    // Entries count over all wantlists of the message: protobuf merges them.
    refused(flood(&[0x0a, 0x02, 0x0a, 0x00], ENTRIES_MAX + 1), "wantlist entries");
    let long = BLOCK_BYTES_MAX + 1;
    let mut block = vec![0x12];
    prost_varint(long, &mut block);
    block.resize(block.len() + long, 0);
    refused(block.into(), "bytes of block");
    let mut message = vec![0x12];
    prost_varint(MESSAGE_BYTES_MAX, &mut message);
    message.resize(message.len() + MESSAGE_BYTES_MAX, 0);
    refused(message.into(), "bytes of message");
}

fn prost_varint(mut value: usize, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[test]
fn a_block_beyond_the_bound_is_not_sent() {
    let message = Message {
        blocks: vec![RawBlock {
            prefix: None,
            data: vec![0; BLOCK_BYTES_MAX + 1].into(),
        }],
        ..Message::default()
    };
    assert!(split(&message, Version::V1_2, 1 << 20).is_err());
}
