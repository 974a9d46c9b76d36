//! Links of dag-pb, dag-cbor and dag-json.

use cluster_dag::codec::{DAG_CBOR, DAG_JSON, DAG_PB, DEPTH_MAX, LINKS_MAX};
use cluster_dag::{DagError, links};
use node_core::Cid;
use prost::Message as _;
use serde::de::IgnoredAny;

use crate::input::Input;
use crate::memory::measure;
use crate::protobuf;

/// Bytes of the shortest link in any of the codecs: an identity CID of an empty block, and what stands around it.
const LINK_BYTES_MIN: usize = 8;
/// Memory beside the links: open lists and maps, texts that may be CIDs, the error.
const SMALL: usize = 64 << 10;
/// Links that are encoded again; many would only make the fuzzer slow.
const AGAIN_MAX: usize = 200;

pub(crate) fn target(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let codec = [DAG_PB, DAG_CBOR, DAG_JSON][usize::from(input.byte() % 3)];
    check(codec, input.rest());
}

/// Finds the links of a block, and holds them against all that is known of them.
pub(crate) fn check(codec: u64, bytes: &[u8]) {
    let cid = cid(codec);
    let (found, held) = measure(|| links(&cid, bytes));
    let most = (bytes.len() / LINK_BYTES_MIN).min(LINKS_MAX);
    // A list that grows is there twice, the new one twice as long.
    assert!(
        held <= 3 * size_of::<Cid>() * most + SMALL,
        "{held} bytes for {}",
        bytes.len()
    );
    if let Ok(found) = &found {
        assert!(found.len() <= most, "{} links in {} bytes", found.len(), bytes.len());
        again(&found[..found.len().min(AGAIN_MAX)]);
    }
    match codec {
        DAG_PB => protobuf(&cid, bytes, &found),
        DAG_JSON => json(bytes, &found),
        _ => {}
    }
}

/// Links are the same in whatever codec they are written.
fn again(found: &[Cid]) {
    let node = protobuf::Node {
        data: None,
        links: found.iter().map(|cid| protobuf::Link::to(cid, b"", 0)).collect(),
    };
    assert_eq!(links(&cid(DAG_PB), &node.encode_to_vec()).as_deref(), Ok(found));
    assert_eq!(links(&cid(DAG_CBOR), &cbor_list(found)).as_deref(), Ok(found));
    assert_eq!(links(&cid(DAG_JSON), &json_list(found)).as_deref(), Ok(found));
}

/// prost is more lenient: what we read, it reads too, and finds the same.
fn protobuf(cid: &Cid, bytes: &[u8], found: &Result<Vec<Cid>, DagError>) {
    let Ok(found) = found else { return };
    let node = protobuf::Node::decode(bytes).expect("what we read is protobuf");
    let theirs: Vec<Cid> = node.links.iter().filter_map(protobuf::Link::cid).collect();
    assert_eq!(&theirs, found);
    assert_eq!(&links(cid, &node.encode_to_vec()), &Ok(theirs));
}

/// serde_json takes what we take; and what it takes in UTF-8 we refuse only for what JSON does not know of.
fn json(bytes: &[u8], found: &Result<Vec<Cid>, DagError>) {
    let theirs = serde_json::from_slice::<IgnoredAny>(bytes);
    match found {
        Ok(_) => {
            assert!(theirs.is_ok(), "serde_json: {theirs:?}");
            assert!(std::str::from_utf8(bytes).is_ok());
        }
        Err(DagError::TooManyLinks { .. }) => {}
        Err(DagError::Malformed { reason, .. }) => {
            let ours_alone =
                reason.contains("a link is broken") || reason.contains(&format!("more than {DEPTH_MAX} deep"));
            assert!(
                ours_alone || theirs.is_err() || std::str::from_utf8(bytes).is_err(),
                "serde_json takes it: {reason}"
            );
        }
        Err(error) => panic!("an error of something else: {error}"),
    }
}

/// A CID of this codec, whose digest names nothing.
fn cid(codec: u64) -> Cid {
    let mut binary = vec![1];
    prost::encoding::encode_varint(codec, &mut binary);
    binary.extend([0x12, 32]);
    binary.extend([9; 32]);
    Cid::from_bytes(&binary).expect("valid")
}

/// A dag-cbor list of links.
pub(crate) fn cbor_list(links: &[Cid]) -> Vec<u8> {
    let mut out = vec![0x9a];
    out.extend((links.len() as u32).to_be_bytes());
    for link in links {
        let binary = link.to_bytes();
        out.extend([0xd8, 0x2a, 0x58, binary.len() as u8 + 1, 0]);
        out.extend(binary);
    }
    out
}

/// A dag-json list of links.
pub(crate) fn json_list(links: &[Cid]) -> Vec<u8> {
    let items: Vec<String> = links.iter().map(|link| format!("{{\"/\":\"{link}\"}}")).collect();
    format!("[{}]", items.join(",")).into_bytes()
}
