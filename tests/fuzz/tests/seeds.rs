//! The files in `corpus/` are the seeds, so that whoever changes an encoder changes them too.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use cluster_bitswap::{FrameDecoder, Message};
use cluster_dag::car::{CarReader, v2_frame};
use cluster_dag::codec::{DAG_CBOR, DAG_JSON, DAG_PB};
use cluster_dag::{Block, links, unixfs};
use node_core::Cid;

#[test]
fn the_files_are_what_the_encoders_write() {
    let write = std::env::var_os("PINFLEET_WRITE_SEEDS").is_some();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, name, input) in cluster_fuzz::seeds::all() {
        let path = corpus.join(target).join(&name);
        if write {
            fs::create_dir_all(corpus.join(target)).expect("a folder");
            fs::write(&path, &input).expect("written");
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(
            kept == input,
            "{} is not the seed {target}/{name} any more: run this test with PINFLEET_WRITE_SEEDS=1 and commit the file",
            path.display()
        );
    }
}

/// The seeds that are to be refused; all others lead into the depth of a decoder only if they are valid.
const REFUSED: &[&str] = &[
    "stream-bad-length",
    "stream-too-long",
    "version-2-only",
    "version-3",
    "cbor-huge-count",
];

#[test]
fn all_but_a_few_are_valid() {
    for (target, name, input) in cluster_fuzz::seeds::all() {
        let valid = match (target, name.split_once('-').map_or("", |(kind, _)| kind)) {
            ("bitswap", "message") => Message::decode(Bytes::copy_from_slice(&input[4..])).is_ok(),
            ("bitswap", _) => {
                let (mut decoder, mut rest) = (FrameDecoder::new(), &input[4..]);
                let mut messages = 0;
                while let Ok(Some(message)) = decoder.decode(&mut rest) {
                    messages += usize::from(Message::decode(message).is_ok());
                }
                messages > 0 && rest.is_empty() && decoder.finish().is_ok()
            }
            ("car", _) => {
                let framed = input[0] & 2 != 0;
                let file = &input[2..];
                let mut reader = CarReader::new();
                if framed {
                    reader.push(&v2_frame(file.len() as u64));
                }
                reader.push(file);
                while let Ok(Some(_)) = reader.next() {}
                reader.finish().is_ok()
            }
            ("links", kind) => {
                let codec = match kind {
                    "pb" => DAG_PB,
                    "cbor" => DAG_CBOR,
                    _ => DAG_JSON,
                };
                links(&cid(codec), &input[1..]).is_ok()
            }
            ("unixfs", "block") => {
                let block = Block::trusted(cid(DAG_PB), Bytes::copy_from_slice(&input[5..]));
                unixfs::Node::decode(&block).is_ok()
            }
            // What a recipe makes is seen by the target alone.
            _ => continue,
        };
        assert_eq!(valid, !REFUSED.contains(&&*name), "{target}/{name}");
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
