//! Content identifiers, parsed once at the edge.

use std::fmt;
use std::str::FromStr;

/// Longest multihash digest taken, in bytes. Kubo accepts identity digests of at most 128 bytes and no longer ones of
/// any other function, so nothing that a node could hold is refused here.
pub const DIGEST_BYTES_MAX: usize = 128;

/// Longest binary CID: version, codec, hash code and digest length as varints of at most ten bytes each, and the digest.
pub const CID_BYTES_MAX: usize = 4 * 10 + DIGEST_BYTES_MAX;

/// A CID of version 0 or 1, of any codec and any multihash.
///
/// CIDv0 and CIDv1 of one block are different values, as they are to Kubo's pinner. The order is that of the binary
/// form, so lists in CID order and RocksDB's key order are the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cid(cid::CidGeneric<DIGEST_BYTES_MAX>);

/// Why a text or some bytes are no CID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a CID: {reason}")]
pub struct CidError {
    given: String,
    reason: String,
}

impl Cid {
    /// Parses the binary form; trailing bytes are an error.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let (cid, rest) = Self::read(bytes)?;
        if rest.is_empty() {
            Ok(cid)
        } else {
            Err(CidError::of_bytes(bytes, "bytes are left over behind it"))
        }
    }

    /// Parses a CID at the beginning of `bytes` and returns what follows it. Binary CIDs carry their own length, so a
    /// CID followed by anything is an unambiguous key.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), CidError> {
        let mut rest = bytes;
        let cid = cid::CidGeneric::read_bytes(&mut rest).map_err(|e| CidError::of_bytes(bytes, e))?;
        Ok((Self(cid), rest))
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// Writes the binary form into `buffer` and returns the part that it takes.
    fn write<'a>(&self, buffer: &'a mut [u8; CID_BYTES_MAX]) -> &'a [u8] {
        // The buffer is as long as the longest CID, so writing can't fail.
        let written = self.0.write_bytes(&mut buffer[..]).unwrap_or_default();
        &buffer[..written]
    }

    /// 0 or 1.
    pub fn version(&self) -> u64 {
        self.0.version() as u64
    }

    /// The multicodec of the block, for example 0x55 (raw) or 0x70 (dag-pb).
    pub fn codec(&self) -> u64 {
        self.0.codec()
    }

    /// The multihash code, for example 0x12 (sha2-256).
    pub fn hash_code(&self) -> u64 {
        self.0.hash().code()
    }
}

impl CidError {
    fn of_bytes(bytes: &[u8], reason: impl fmt::Display) -> Self {
        let given = bytes.iter().take(16).map(|b| format!("{b:02x}")).collect();
        Self {
            given,
            reason: reason.to_string(),
        }
    }
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        let error = |reason: String| {
            // Whatever was typed is echoed, but a megabyte of it helps nobody.
            let given = text.chars().take(80).collect();
            CidError { given, reason }
        };
        if text.is_empty() {
            return Err(error("it is empty".into()));
        }
        // Base32 takes 8 characters for 5 bytes, base2 takes 8 for one: longer cannot be a CID in any base.
        if text.len() > 8 * CID_BYTES_MAX + 8 {
            return Err(error(format!("it is {} characters long", text.len())));
        }
        // The cid crate also takes a path and looks for a CID in it; a CID here is a CID.
        if text.contains('/') {
            return Err(error(
                "paths are resolved by an IPFS node, give the CID that the path leads to".into(),
            ));
        }
        let cid = text.parse().map_err(|e: cid::Error| error(e.to_string()))?;
        Ok(Self(cid))
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialOrd for Cid {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cid {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // On the stack: sorting and merging lists of CIDs compares millions of them.
        let (mut a, mut b) = ([0; CID_BYTES_MAX], [0; CID_BYTES_MAX]);
        self.write(&mut a).cmp(other.write(&mut b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V0: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";
    const V1: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    #[test]
    fn text_and_bytes_round_trip() {
        for text in [V0, V1] {
            let cid: Cid = text.parse().expect("valid");
            assert_eq!(cid.to_string(), text);
            assert_eq!(Cid::from_bytes(&cid.to_bytes()).expect("valid"), cid);
        }
    }

    #[test]
    fn a_cid_ends_where_it_says() {
        let cid: Cid = V1.parse().expect("valid");
        let mut bytes = cid.to_bytes();
        bytes.extend_from_slice(b"tail");
        assert_eq!(Cid::read(&bytes).expect("valid"), (cid, &b"tail"[..]));
        assert!(Cid::from_bytes(&bytes).is_err());
    }

    #[test]
    fn nonsense_is_refused_with_its_text() {
        for bad in [
            "",
            "Qm",
            "hello",
            "/ipfs/QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn",
            "bafkreifzjut3t",
        ] {
            let error = bad.parse::<Cid>().expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        let long = "b".repeat(1 << 20);
        assert!(long.parse::<Cid>().expect_err("too long").to_string().len() < 300);
    }
}
