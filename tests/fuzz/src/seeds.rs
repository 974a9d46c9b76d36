//! The inputs that the fuzzer begins with: what our own encoders write, messages from the specification, and the odd
//! forms that others may send. `corpus/` holds them as files; a test keeps the two the same.

use bytes::Bytes;
use cluster_bitswap::{
    Ask, BlockHasher as _, Entry, Message, Prefix, Presence, RawBlock, Sha2Hasher, Version, WantKind,
};
use cluster_dag::Block;
use cluster_dag::car::{CarWriter, v2_frame};
use cluster_dag::codec::{DAG_CBOR, DAG_PB, RAW};
use cluster_dag::unixfs::{Added, Chunker, DirectoryBuilder, FileBuilder, Layout, Metadata, Mtime, Options, symlink};
use node_core::Cid;
use prost::Message as _;

use crate::{car, links, protobuf};

/// An input: the target, a name, the bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// The sha2-256 digest of some bytes.
pub(crate) fn sha2_256(bytes: &Bytes) -> [u8; 32] {
    let digest = Sha2Hasher.digest(0x12, 32, bytes).expect("sha2-256 has 32 bytes");
    let mut out = [0; 32];
    out.copy_from_slice(digest.digest());
    out
}

/// The CIDv1 of a block under sha2-256.
pub(crate) fn named(codec: u64, bytes: &[u8]) -> Cid {
    let mut binary = vec![1];
    prost::encoding::encode_varint(codec, &mut binary);
    binary.extend([0x12, 32]);
    binary.extend(sha2_256(&Bytes::copy_from_slice(bytes)));
    Cid::from_bytes(&binary).expect("valid")
}

/// All seeds of all targets.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    bitswap(&mut seeds);
    car(&mut seeds);
    links(&mut seeds);
    unixfs(&mut seeds);
    seeds
}

fn add(seeds: &mut Vec<Seed>, target: &'static str, name: impl Into<String>, parts: &[&[u8]]) {
    seeds.push((target, name.into(), parts.concat()));
}

/// Bytes written as hexadecimal digits, with space between them as it reads best.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

/// Sha2-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn bitswap(seeds: &mut Vec<Seed>) {
    // Put together from the tables of the specification, as in the golden tests of the crate.
    let wants = format!(
        "8301 0a8001 0a2a 0a24 01551220 {HELLO} 1001 2801 0a2a 0a24 01551220 {HELLO} 1007 2001 0a24 0a22 1220 {HELLO} 1001"
    );
    let golden = [
        ("wants", wants),
        ("cancel", format!("2c 0a2a 0a28 0a24 01551220 {HELLO} 1801")),
        (
            "answer",
            format!(
                "62 1a0d 0a04 01551220 1205 68656c6c6f 2226 0a24 01551220 {HELLO} 2226 0a22 1220 {HELLO} 1001 28ac02"
            ),
        ),
        ("block-1.1", "0f 1a0d 0a04 00701220 1205 68656c6c6f".to_owned()),
        ("block-1.0", "07 1205 68656c6c6f".to_owned()),
        (
            "unknown-fields",
            format!("33 4807 5203 616263 0a2a 0a28 0a24 01551220 {HELLO} 1801"),
        ),
        ("identity", "0c 0a0a 0a08 0a06 01550002 6869".to_owned()),
    ];
    for (name, digits) in golden {
        let frame = hex(&digits);
        let prefix = frame.iter().position(|byte| *byte < 0x80).map_or(0, |at| at + 1);
        add(
            seeds,
            "bitswap",
            format!("message-{name}"),
            &[&[1, 0, 64, 0], &frame[prefix..]],
        );
        add(seeds, "bitswap", format!("stream-{name}"), &[&[0, 0x23, 64, 0], &frame]);
    }
    let cid = cid::Cid::try_from(hex(&format!("01551220{HELLO}"))).expect("a CID");
    let want = |kind, priority| Ask::Want {
        kind,
        priority,
        send_dont_have: true,
    };
    let message = Message {
        full: true,
        entries: vec![
            Entry {
                cid,
                ask: want(WantKind::Have, -1),
            },
            Entry {
                cid,
                ask: want(WantKind::Block, i32::MAX),
            },
            Entry { cid, ask: Ask::Cancel },
        ],
        blocks: vec![
            RawBlock {
                prefix: Some(Prefix::of(&cid)),
                data: Bytes::from_static(b"hello"),
            },
            RawBlock {
                prefix: None,
                data: Bytes::from_static(&[7; 300]),
            },
        ],
        presences: vec![(cid, Presence::Have), (cid, Presence::DontHave)],
        pending_bytes: 1 << 20,
    };
    for target in [60, 1 << 20] {
        let frames = cluster_bitswap::split(&message, Version::V1_2, target).expect("it can be said");
        add(
            seeds,
            "bitswap",
            format!("stream-split-{target}"),
            &[&[0, 5, 90, 0], &frames.concat()],
        );
    }
    add(seeds, "bitswap", "stream-empty-messages", &[&[0, 1, 0, 0], &[0, 0, 0]]);
    add(
        seeds,
        "bitswap",
        "stream-too-long",
        &[&[0, 1, 0, 0], &hex("8180 8002 00")],
    );
    add(seeds, "bitswap", "stream-bad-length", &[&[0, 1, 0, 0], &hex("8000")]);
}

fn car(seeds: &mut Vec<Seed>) {
    let raw = Block::trusted(named(RAW, b"a raw block"), Bytes::from_static(b"a raw block"));
    let node = protobuf::Node {
        data: None,
        links: vec![protobuf::Link::to(&raw.cid(), b"name", 11)],
    };
    let node = Bytes::from(node.encode_to_vec());
    let node = Block::trusted(named(DAG_PB, &node), node);
    let v0 = [&[0x12, 32][..], &sha2_256(node.bytes())].concat();
    let v0 = Block::trusted(Cid::from_bytes(&v0).expect("valid"), node.bytes().clone());
    let identity = Cid::from_bytes(&hex("01550002 6869")).expect("valid");
    let identity = Block::trusted(identity, Bytes::from_static(b"hi"));
    let large = Bytes::from(vec![3; 20_000]);
    let large = Block::trusted(named(RAW, &large), large);
    let file = |roots: &[&Block], blocks: &[&Block]| {
        let mut out = Vec::new();
        let roots: Vec<Cid> = roots.iter().map(|root| root.cid()).collect();
        let mut writer = CarWriter::new(&roots, &mut out).expect("few roots");
        for block in blocks {
            writer.block(block, &mut out);
        }
        out
    };
    let corrected = car::CORRECTED;
    add(seeds, "car", "empty", &[&[0, 0], &file(&[], &[])]);
    add(
        seeds,
        "car",
        "one-root",
        &[&[corrected, 0x35], &file(&[&node], &[&node, &raw])],
    );
    add(
        seeds,
        "car",
        "identity",
        &[&[0, 0x11], &file(&[&identity, &raw], &[&identity, &raw, &raw])],
    );
    add(seeds, "car", "version-0", &[&[corrected, 0x01], &file(&[&v0], &[&v0])]);
    add(
        seeds,
        "car",
        "framed",
        &[&[corrected | car::FRAMED, 0x0f], &file(&[&node], &[&raw, &node])],
    );
    add(
        seeds,
        "car",
        "large-block",
        &[&[corrected, 0xff], &file(&[&large], &[&large])],
    );
    // Padding before the data, an index behind it.
    let data = file(&[&raw], &[&raw]);
    let mut frame = v2_frame(data.len() as u64).to_vec();
    frame[27..35].copy_from_slice(&(51u64 + 5).to_le_bytes());
    add(
        seeds,
        "car",
        "padded",
        &[&[0, 0x22], &frame, &[0; 5], &data, b"an index"],
    );
    add(seeds, "car", "version-2-only", &[&[0, 0], &v2_frame(1 << 20)]);
    // Keys in the other order, and an unknown version.
    add(
        seeds,
        "car",
        "header-order",
        &[&[0, 0], &hex("11 a2 67 76657273696f6e 01 65 726f6f7473 80")],
    );
    add(
        seeds,
        "car",
        "version-3",
        &[&[0, 0], &hex("11 a2 65 726f6f7473 80 67 76657273696f6e 03")],
    );
}

fn links(seeds: &mut Vec<Seed>) {
    let cids = [named(RAW, b"a"), named(DAG_PB, b"b"), named(DAG_CBOR, b"c")];
    let short = Cid::from_bytes(&[1, 0x55, 0, 0]).expect("valid");
    let node = |data: Option<&[u8]>, cids: &[Cid]| {
        let links = cids.iter().map(|cid| protobuf::Link::to(cid, b"name", 300)).collect();
        let data = data.map(<[u8]>::to_vec);
        protobuf::Node { data, links }.encode_to_vec()
    };
    add(seeds, "links", "pb-links", &[&[0], &node(None, &cids)]);
    add(
        seeds,
        "links",
        "pb-data-first",
        &[&[0], &node(Some(b"data"), &cids[..1])],
    );
    let bare = hex("12 06 0a 04 01550000");
    add(
        seeds,
        "links",
        "pb-links-first",
        &[&[0], &bare, &bare, &hex("0a 02 0801")],
    );
    add(seeds, "links", "pb-short-links", &[&[0], &bare.repeat(40)]);

    add(seeds, "links", "cbor-list", &[&[1], &links::cbor_list(&cids)]);
    let link = hex("d82a 45 00 01550000");
    add(
        seeds,
        "links",
        "cbor-map",
        &[
            &[1],
            &hex("a3 61 61"),
            &link,
            &hex("61 62 82 f6 f5 62 c3a9 a1 60"),
            &link,
        ],
    );
    add(
        seeds,
        "links",
        "cbor-scalars",
        &[
            &[1],
            &hex("88 00 1818 190100 1a00010000 20 43 010203 f93c00 fb3ff0000000000000"),
        ],
    );
    add(seeds, "links", "cbor-deep", &[&[1], &[0x81; 100], &link]);
    add(
        seeds,
        "links",
        "cbor-huge-count",
        &[&[1], &hex("9b ffffffffffffffff 00")],
    );

    add(seeds, "links", "json-list", &[&[2], &links::json_list(&cids)]);
    let text = format!(
        " {{\"a\" : {{\"/\":\"{short}\"}}, \"/\": {{\"bytes\": \"AAEC\"}}, \"b\":[1, -0.5e+7, true, false, null, \
         \"\\u00e9\\n\\\"\", {{}}, []]}}\n"
    );
    add(seeds, "links", "json-all", &[&[2], text.as_bytes()]);
    add(
        seeds,
        "links",
        "json-escaped",
        &[&[2], format!("{{\"\\u002f\":\"{short}\"}}").as_bytes()],
    );
    add(seeds, "links", "json-deep", &[&[2], &[b'['; 100], &[b']'; 100]]);
    add(
        seeds,
        "links",
        "json-no-link",
        &[&[2], format!("{{\"/\":\"{short}\",\"a\":1}}").as_bytes()],
    );
}

fn unixfs(seeds: &mut Vec<Seed>) {
    let choices = [0, 64, 2, 3, 9];
    let mut keep = |name: &str, block: &Block| {
        if block.cid().codec() == DAG_PB {
            add(seeds, "unixfs", format!("block-{name}"), &[&choices, block.bytes()]);
        }
    };
    type Make<'a> = &'a dyn Fn(&mut dyn FnMut(Block)) -> Added;
    // The root is the last block that comes.
    let root = |make: Make<'_>| {
        let mut last = None;
        let added = make(&mut |block| last = Some(block));
        (last.expect("at least one block"), added)
    };
    let mut options = Options::v0_2015();
    let mtime = Some(Mtime {
        seconds: 1_700_000_000,
        nanos: 5,
    });
    let metadata = Metadata {
        mode: Some(0o644),
        mtime,
    };
    let (block, small) = root(&|sink| {
        let mut file = FileBuilder::new(options.clone(), metadata).expect("valid");
        file.write(b"hello\n", sink).expect("small");
        file.finish(sink).expect("small")
    });
    keep("file", &block);
    options.chunker = Chunker::Size(4);
    options.file_links_max = 3;
    for layout in [Layout::Balanced, Layout::Trickle] {
        options.layout = layout;
        let (block, _) = root(&|sink| {
            let mut file = FileBuilder::new(options.clone(), Metadata::default()).expect("valid");
            file.write(b"some bytes in several chunks", sink).expect("small");
            file.finish(sink).expect("small")
        });
        keep(&format!("file-{layout:?}").to_lowercase(), &block);
    }
    let (block, _) = root(&|sink| symlink(&options, b"../target", mtime, sink).expect("short"));
    keep("symlink", &block);
    for (name, above) in [("directory", None), ("shard", Some(0))] {
        options.sharding.above = above;
        options.sharding.fanout = 16;
        let (block, _) = root(&|sink| {
            let mut directory = DirectoryBuilder::new(options.clone(), metadata).expect("valid");
            for n in 0..8 {
                directory.add(format!("name {n}"), &small).expect("a name");
            }
            directory.finish(sink).expect("small")
        });
        keep(name, &block);
    }

    let choices = [1, 64, 2, 3, 9];
    // Raw chunks under a node, which is under another one with content of its own.
    let file = hex("00 03 616263 00 02 6465 01 00 02 01 00 01 01 02 2b2b 03 00 01 02");
    add(seeds, "unixfs", "recipe-file", &[&choices, &file]);
    let shared = [&hex("00 03 616263")[..], &hex("01 00 02 00 00").repeat(12)].concat();
    add(seeds, "unixfs", "recipe-doubling", &[&choices, &shared]);
    add(
        seeds,
        "unixfs",
        "recipe-lie",
        &[&choices, &hex("00 03 616263 01 0c 01 00 01 00 01 00 01 00")],
    );
    let directory = hex("00 01 61 04 03 2e2e2f 02 03 00 01 61 01 00 02 6262 02 01 03 636363 03");
    add(seeds, "unixfs", "recipe-directory", &[&choices, &directory]);
    let shard = hex("00 01 61 03 01 02 01 00 01 61 02 00 01 62 03 01 03 00 00 00 02 01 02 6364 01 00 00");
    add(seeds, "unixfs", "recipe-shard", &[&choices, &shard]);
    add(
        seeds,
        "unixfs",
        "recipe-missing",
        &[&choices, &hex("06 05 00 00 02 6161 01 00 02 00 01")],
    );
}
