//! Messages put together byte by byte from the tables in specs.ipfs.tech/bitswap-protocol, not by this crate.

use bytes::Bytes;
use cluster_bitswap::{
    Ask, Entry, FrameDecoder, Message, Prefix, Presence, RawBlock, Sha2Hasher, Version, WantKind, split,
};

/// Sha2-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks(2).map(byte).collect()
}

/// The CIDv1 of `hello` as a raw block.
fn hello() -> cid::Cid {
    cid::Cid::try_from(bytes(&format!("01551220{HELLO}"))).expect("a CID")
}

fn hello_v0() -> cid::Cid {
    cid::Cid::try_from(bytes(&format!("1220{HELLO}"))).expect("a CID")
}

/// What the frame says, and that this crate says the same in the same bytes.
fn both_ways(frame: &str, message: &Message, version: Version) {
    let frame = bytes(frame);
    let mut input = &frame[..];
    let content = FrameDecoder::new().decode(&mut input).expect("a frame").expect("whole");
    assert!(input.is_empty());
    assert_eq!(&Message::decode(content).expect("a message"), message);
    let encoded = split(message, version, usize::MAX).expect("can be said");
    assert_eq!(encoded, [Bytes::from(frame)], "{version:?}");
}

fn want(kind: WantKind, priority: i32, send_dont_have: bool) -> Ask {
    Ask::Want {
        kind,
        priority,
        send_dont_have,
    }
}

#[test]
fn a_full_wantlist_of_1_2() {
    // 8c: 140 bytes follow (8c 01). Wantlist (field 1), three entries (field 1) and full (field 2).
    let frame = format!(
        "8401 0a8101
           0a2a 0a24 01551220 {HELLO} 1001 2801
           0a2a 0a24 01551220 {HELLO} 1007 2001
           0a24 0a22 1220 {HELLO}
           1001"
    );
    // The lengths above count like this: an entry is 2 + 36 of CID, 2 of priority, 2 of a flag = 42 = 2a; the third 36.
    // Wantlist: 3 * 2 + 42 + 42 + 36 + 2 = 128 = 80 01; message: 1 + 2 + 128 = 131 = 83 01.
    let frame = frame.replace("8401", "8301").replace("0a8101", "0a8001");
    let entries = vec![
        Entry {
            cid: hello(),
            ask: want(WantKind::Block, 1, true),
        },
        Entry {
            cid: hello(),
            ask: want(WantKind::Have, 7, false),
        },
        Entry {
            cid: hello_v0(),
            ask: want(WantKind::Block, 0, false),
        },
    ];
    let message = Message {
        full: true,
        entries,
        ..Message::default()
    };
    both_ways(&frame, &message, Version::V1_2);
}

#[test]
fn a_cancel_is_the_same_in_every_version() {
    let frame = format!("2c 0a2a 0a28 0a24 01551220 {HELLO} 1801");
    let message = Message {
        entries: vec![Entry {
            cid: hello(),
            ask: Ask::Cancel,
        }],
        ..Message::default()
    };
    for version in Version::ALL {
        both_ways(&frame, &message, version);
    }
}

#[test]
fn an_answer_of_1_2() {
    // payload (field 3): prefix and data; blockPresences (field 4): HAVE is 0 and left out, DONT_HAVE is 1;
    // pendingBytes (field 5) = 300.
    let frame = format!(
        "64 1a0d 0a04 01551220 1205 68656c6c6f
            2226 0a24 01551220 {HELLO}
            2226 0a22 1220 {HELLO} 1001
            28ac02"
    );
    // 15 + 40 + 40 + 3 = 98 = 62.
    let frame = frame.replacen("64", "62", 1);
    let message = Message {
        blocks: vec![RawBlock {
            prefix: Some(Prefix::of(&hello())),
            data: Bytes::from_static(b"hello"),
        }],
        presences: vec![(hello(), Presence::Have), (hello_v0(), Presence::DontHave)],
        pending_bytes: 300,
        ..Message::default()
    };
    both_ways(&frame, &message, Version::V1_2);
    let named = message.identify(&Sha2Hasher);
    assert_eq!(named.blocks()[0].cid(), &hello());
}

#[test]
fn a_block_of_1_1_has_the_prefix_of_its_cid() {
    // A CIDv0 has the prefix 0, dag-pb, sha2-256, 32.
    let message = Message {
        blocks: vec![RawBlock {
            prefix: Some(Prefix::of(&hello_v0())),
            data: Bytes::from_static(b"hello"),
        }],
        ..Message::default()
    };
    both_ways("0f 1a0d 0a04 00701220 1205 68656c6c6f", &message, Version::V1_1);
    assert_eq!(message.identify(&Sha2Hasher).blocks()[0].cid(), &hello_v0());
}

#[test]
fn a_block_of_1_0_is_bare() {
    let message = Message {
        blocks: vec![RawBlock {
            prefix: None,
            data: Bytes::from_static(b"hello"),
        }],
        ..Message::default()
    };
    both_ways("07 1205 68656c6c6f", &message, Version::V1_0);
    assert_eq!(message.identify(&Sha2Hasher).blocks()[0].cid(), &hello_v0());
}

#[test]
fn what_a_version_has_no_word_for_is_refused_when_it_is_sent() {
    let have = Message {
        entries: vec![Entry {
            cid: hello(),
            ask: want(WantKind::Have, 1, true),
        }],
        ..Message::default()
    };
    let presence = Message {
        presences: vec![(hello(), Presence::Have)],
        ..Message::default()
    };
    for message in [have, presence] {
        let error = split(&message, Version::V1_1, 1 << 20).expect_err("has no word for it");
        assert!(error.to_string().contains("/ipfs/bitswap/1.1.0"), "{error}");
    }
}

#[test]
fn fields_that_nobody_knows_yet_are_passed_over() {
    // Field 9 with a varint, field 10 with bytes, then a cancel.
    let frame = bytes(&format!("4807 5203 616263 0a2a 0a28 0a24 01551220 {HELLO} 1801"));
    let message = Message::decode(frame.into()).expect("a message");
    assert_eq!(message.entries.len(), 1);
}

#[test]
fn wants_for_identity_cids_are_passed_over() {
    for digest in [5usize, 100] {
        let cid = [&[0x01, 0x55, 0x00, digest as u8][..], &vec![7; digest]].concat();
        let entry = [&[0x0a, cid.len() as u8][..], &cid].concat();
        let wantlist = [&[0x0a, entry.len() as u8][..], &entry].concat();
        let message = [&[0x0a, wantlist.len() as u8][..], &wantlist].concat();
        let message = Message::decode(message.into()).expect("a message");
        assert!(message.is_empty());
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let refused = |hex: &str, says: &str| {
        let error = Message::decode(bytes(hex).into()).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    };
    refused("ff", "no protobuf");
    refused("0aff01", "longer than the message");
    refused("0b", "group");
    refused("0a05 0a03 0a01 01", "CID 01 in a wantlist");
    refused("2203 0a01 02", "CID 02 in a presence");
    refused(&format!("2228 0a24 01551220 {HELLO} 1002"), "BlockPresence type of 2");
    refused(&format!("0a2a 0a28 0a24 01551220 {HELLO} 2002"), "wantType of 2");
    refused("1a06 0a04 02551220", "no CID version 2");
    refused("1a06 0a04 00551220", "dag-pb");
    refused("1a06 0a04 01551241", "at most 64");
    refused("1a05 0a03 015512", "digest length is missing");
}
