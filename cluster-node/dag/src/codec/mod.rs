//! Codecs: how the bytes of a block are read, as far as its links go.

pub(crate) mod cbor;
mod json;
pub(crate) mod pb;

use node_core::Cid;

use crate::DagError;

/// Multicodec code of raw bytes.
pub const RAW: u64 = 0x55;
/// Multicodec code of dag-pb: UnixFS files and directories.
pub const DAG_PB: u64 = 0x70;
/// Multicodec code of dag-cbor.
pub const DAG_CBOR: u64 = 0x71;
/// Multicodec code of dag-json.
pub const DAG_JSON: u64 = 0x0129;

/// Links followed of one block. The largest plain directory that fits into a block has about 50 thousand; a block with
/// more is built to make readers allocate.
pub const LINKS_MAX: usize = 65_536;

/// How deep maps and lists of a dag-cbor or dag-json block may lie in each other: what go-ipld-prime, and so Kubo, takes.
pub const DEPTH_MAX: usize = 1024;

/// Why a block can't be read, without its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not what the codec says.
    Malformed(String),
    /// It has more links than [`LINKS_MAX`].
    TooManyLinks,
}

impl Fault {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }

    /// The error that names the block.
    pub(crate) fn of(self, cid: &Cid, codec: &'static str) -> DagError {
        match self {
            Self::Malformed(reason) => DagError::Malformed {
                cid: Box::new(*cid),
                codec,
                reason,
            },
            Self::TooManyLinks => DagError::TooManyLinks {
                cid: Box::new(*cid),
                max: LINKS_MAX,
            },
        }
    }
}

/// Collects links up to [`LINKS_MAX`].
#[derive(Default)]
pub(crate) struct Links(Vec<Cid>);

impl Links {
    pub(crate) fn push(&mut self, cid: Cid) -> Result<(), Fault> {
        if self.0.len() == LINKS_MAX {
            return Err(Fault::TooManyLinks);
        }
        self.0.push(cid);
        Ok(())
    }
}

/// The links of a block, in the order in which they stand in it, repeated ones as often as they do.
///
/// Raw blocks have none. Links in other codecs are found by reading the block as strictly as Kubo does: what Kubo would
/// not read is an error here. The bytes are not hashed; see [`crate::Block::new`]. At most [`LINKS_MAX`] links are
/// returned, more of them are an error; memory beside them is a byte per open list or map, of at most [`DEPTH_MAX`].
pub fn links(cid: &Cid, bytes: &[u8]) -> Result<Vec<Cid>, DagError> {
    let mut links = Links::default();
    match cid.codec() {
        RAW => Ok(()),
        DAG_PB => pb::scan(bytes, |link| links.push(link.cid))
            .map(drop)
            .map_err(|fault| fault.of(cid, "dag-pb")),
        DAG_CBOR => cbor::links(bytes, &mut links).map_err(|fault| fault.of(cid, "dag-cbor")),
        DAG_JSON => json::links(bytes, &mut links).map_err(|fault| fault.of(cid, "dag-json")),
        code => Err(DagError::UnknownCodec {
            cid: Box::new(*cid),
            code,
            name: name(code),
        }),
    }?;
    Ok(links.0)
}

/// Names of the multicodec table that somebody may meet in a CID.
fn name(code: u64) -> &'static str {
    match code {
        0x50 => "protobuf",
        0x51 => "cbor",
        0x63 => "bencode",
        0x72 => "libp2p-key",
        0x78 => "git-raw",
        0x7b => "torrent-info",
        0x7c => "torrent-file",
        0x85 => "dag-jose",
        0x86 => "dag-cose",
        0x90..=0x9b => "an Ethereum codec",
        0xb0 => "bitcoin-block",
        0xb1 => "bitcoin-tx",
        0xc0 => "zcash-block",
        0xc1 => "zcash-tx",
        0xf101 => "fil-commitment-unsealed",
        0xf102 => "fil-commitment-sealed",
        0x0200 => "json",
        0x0202 => "car",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::varint;

    /// A CID of this codec; its digest names no block.
    fn cid(codec: u64) -> Cid {
        let mut binary = vec![1];
        varint::write(&mut binary, codec);
        binary.extend([0x12, 32]);
        binary.extend([9; 32]);
        Cid::from_bytes(&binary).expect("valid")
    }

    #[test]
    fn raw_blocks_have_no_links() {
        assert_eq!(links(&cid(RAW), b"anything"), Ok(Vec::new()));
    }

    #[test]
    fn an_unknown_codec_is_named() {
        let error = links(&cid(0x78), b"").expect_err("unknown").to_string();
        assert!(error.contains("git-raw") && error.contains("0x78"), "{error}");
        let error = links(&cid(0x0300), b"").expect_err("unknown").to_string();
        assert!(error.contains("unknown (0x300)"), "{error}");
    }

    #[test]
    fn a_block_of_nothing_but_links_is_bounded() {
        // The shortest link there is: an identity CID of an empty raw block.
        let mut link = [0x12, 6, 0x0a, 4, 1, 0x55, 0, 0].repeat(LINKS_MAX);
        assert_eq!(links(&cid(DAG_PB), &link).expect("just fits").len(), LINKS_MAX);
        link.extend([0x12, 6, 0x0a, 4, 1, 0x55, 0, 0]);
        assert!(matches!(links(&cid(DAG_PB), &link), Err(DagError::TooManyLinks { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn arbitrary_bytes_are_an_error_or_links(bytes: Vec<u8>) {
            for codec in [DAG_PB, DAG_CBOR, DAG_JSON] {
                if let Ok(links) = links(&cid(codec), &bytes) {
                    // A link takes at least a byte for the CID's version, codec, hash and length each.
                    prop_assert!(4 * links.len() <= bytes.len());
                }
            }
        }

        /// Bytes that look like the codec get further into the decoder than noise does.
        #[test]
        fn almost_valid_bytes_are_an_error_or_links(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just(vec![0x12, 6, 0x0a, 4, 1, 0x55, 0, 0]),
                    Just(vec![0x0a, 1, 7]),
                    Just(vec![0xd8, 0x2a, 0x45, 0, 1, 0x55, 0, 0]),
                    Just(vec![0x82]),
                    Just(vec![0xa1, 0x61]),
                    Just(b"{\"/\":\"bafkqaaa\"}".to_vec()),
                    Just(b"[".to_vec()),
                    Just(b"]".to_vec()),
                    Just(b"{\"a\":".to_vec()),
                    Just(b"}".to_vec()),
                    Just(b",".to_vec()),
                    Just(b"\"\\u00".to_vec()),
                    Just(b"-1.5e3".to_vec()),
                    proptest::collection::vec(any::<u8>(), 1..4),
                ],
                0..20,
            )
        ) {
            let bytes = parts.concat();
            for codec in [DAG_PB, DAG_CBOR, DAG_JSON] {
                if let Ok(links) = links(&cid(codec), &bytes) {
                    prop_assert!(4 * links.len() <= bytes.len());
                }
            }
        }
    }
}
