//! Hash functions: which are known, and what the digest of some bytes is.

use std::fmt;
use std::str::FromStr;

use multihash::Multihash;
use multihash_codetable::{Code, MultihashDigest as _};
use node_core::DIGEST_BYTES_MAX;

/// Shortest digest taken as proof, in bytes: 160 bits, which is what Kubo asks for too (boxo, package `verifcid`).
pub const DIGEST_BYTES_MIN: usize = 20;

/// Codes of the multicodec table.
const IDENTITY: u64 = 0x00;
const SHA2_256: u64 = 0x12;
const SHA2_512: u64 = 0x13;
/// From the longest digest to the shortest.
const SHA3_512: u64 = 0x14;
const SHA3_384: u64 = 0x15;
const SHA3_256: u64 = 0x16;
const SHA3_224: u64 = 0x17;
const BLAKE3: u64 = 0x1e;
/// `blake2b-8`; the codes of the longer ones follow, a byte each.
const BLAKE2B_8: u64 = 0xb201;

/// A hash function that new blocks can be named with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HashFunction {
    /// What IPFS uses unless told otherwise, and the only one that CIDv0 knows.
    #[default]
    Sha2_256,
    /// 512 bits.
    Sha2_512,
    /// SHA-3 of this digest length in bytes: 28, 32, 48 or 64.
    Sha3(u8),
    /// BLAKE2b of this digest length in bytes, from [`DIGEST_BYTES_MIN`] to 64.
    Blake2b(u8),
    /// 256 bits.
    Blake3,
}

/// A name that is no hash function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no hash function for new content; take sha2-256, sha2-512, sha3-224 to sha3-512, blake2b-160 to \
         blake2b-512 or blake3"
)]
pub struct UnknownHashFunction(String);

impl HashFunction {
    /// The multihash code.
    pub fn code(self) -> u64 {
        match self {
            Self::Sha2_256 => SHA2_256,
            Self::Sha2_512 => SHA2_512,
            Self::Sha3(28) => SHA3_224,
            Self::Sha3(32) => SHA3_256,
            Self::Sha3(48) => SHA3_384,
            Self::Sha3(_) => SHA3_512,
            Self::Blake2b(bytes) => BLAKE2B_8 + u64::from(bytes) - 1,
            Self::Blake3 => BLAKE3,
        }
    }

    /// Bytes of a digest.
    pub(crate) fn digest_bytes(self) -> usize {
        match self {
            Self::Sha2_256 | Self::Blake3 => 32,
            Self::Sha2_512 => 64,
            Self::Blake2b(bytes) | Self::Sha3(bytes) => usize::from(bytes),
        }
    }

    /// Whether its parameter is one that exists.
    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Sha3(bytes) => [28, 32, 48, 64].contains(&bytes),
            Self::Blake2b(bytes) => (DIGEST_BYTES_MIN..=64).contains(&usize::from(bytes)),
            _ => true,
        }
    }
}

impl fmt::Display for HashFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha2_256 => f.write_str("sha2-256"),
            Self::Sha2_512 => f.write_str("sha2-512"),
            Self::Sha3(bytes) => write!(f, "sha3-{}", 8 * u32::from(*bytes)),
            Self::Blake2b(bytes) => write!(f, "blake2b-{}", 8 * u32::from(*bytes)),
            Self::Blake3 => f.write_str("blake3"),
        }
    }
}

impl FromStr for HashFunction {
    type Err = UnknownHashFunction;

    /// The names of the multicodec table, as `ipfs add --hash` takes them.
    fn from_str(text: &str) -> Result<Self, UnknownHashFunction> {
        let unknown = || UnknownHashFunction(text.chars().take(40).collect());
        let function = match text {
            "sha2-256" => Self::Sha2_256,
            "sha2-512" => Self::Sha2_512,
            "blake3" => Self::Blake3,
            _ => {
                let (family, bits) = text.rsplit_once('-').ok_or_else(unknown)?;
                let bits: u32 = bits.parse().map_err(|_| unknown())?;
                if !bits.is_multiple_of(8) {
                    return Err(unknown());
                }
                let bytes = u8::try_from(bits / 8).map_err(|_| unknown())?;
                match family {
                    "blake2b" => Self::Blake2b(bytes),
                    "sha3" => Self::Sha3(bytes),
                    _ => return Err(unknown()),
                }
            }
        };
        if function.is_valid() {
            Ok(function)
        } else {
            Err(unknown())
        }
    }
}

/// Why no digest can be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoDigest {
    /// The function is not known.
    UnknownFunction,
    /// It is, but has no digest of that length that would prove anything.
    Length {
        /// Shortest length taken.
        min: usize,
        /// Longest length taken.
        max: usize,
    },
}

/// The digest lengths that are taken of a function.
pub(crate) fn digest_lengths(code: u64) -> Option<(usize, usize)> {
    Some(match code {
        // An identity digest is the block itself. Kubo takes up to 128 bytes; more would make CIDs a way to carry data.
        IDENTITY => (0, DIGEST_BYTES_MAX),
        SHA2_256 => (DIGEST_BYTES_MIN, 32),
        SHA2_512 | SHA3_512 => (DIGEST_BYTES_MIN, 64),
        SHA3_384 => (DIGEST_BYTES_MIN, 48),
        SHA3_256 => (DIGEST_BYTES_MIN, 32),
        SHA3_224 => (DIGEST_BYTES_MIN, 28),
        // An extendable function.
        BLAKE3 => (DIGEST_BYTES_MIN, DIGEST_BYTES_MAX),
        _ => {
            let bytes = usize::try_from(code.checked_sub(BLAKE2B_8)? + 1).ok()?;
            if bytes > 64 {
                return None;
            }
            (DIGEST_BYTES_MIN, bytes)
        }
    })
}

/// Whether a code is that of the identity function, whose digests are the blocks themselves.
pub(crate) fn is_identity(code: u64) -> bool {
    code == IDENTITY
}

/// The digest of some bytes under a multihash code, cut to `length` bytes: that is how truncated digests are made.
///
/// For identity the bytes must not be longer than [`DIGEST_BYTES_MAX`]; they are the digest.
pub(crate) fn digest(code: u64, length: usize, bytes: &[u8]) -> Result<[u8; DIGEST_BYTES_MAX], NoDigest> {
    let (min, max) = digest_lengths(code).ok_or(NoDigest::UnknownFunction)?;
    if length < min || length > max {
        return Err(NoDigest::Length { min, max });
    }
    let mut out = [0; DIGEST_BYTES_MAX];
    match code {
        IDENTITY => {
            if bytes.len() > DIGEST_BYTES_MAX {
                return Err(NoDigest::Length { min, max });
            }
            out[..bytes.len()].copy_from_slice(bytes);
        }
        SHA2_256 | SHA2_512 | SHA3_224 | SHA3_256 | SHA3_384 | SHA3_512 => {
            let function = match code {
                SHA2_256 => Code::Sha2_256,
                SHA2_512 => Code::Sha2_512,
                SHA3_224 => Code::Sha3_224,
                SHA3_256 => Code::Sha3_256,
                SHA3_384 => Code::Sha3_384,
                _ => Code::Sha3_512,
            };
            let hash: Multihash<64> = function.digest(bytes);
            out[..hash.digest().len()].copy_from_slice(hash.digest());
        }
        BLAKE3 => {
            let mut hasher = blake3::Hasher::new();
            hasher.update(bytes);
            hasher.finalize_xof().fill(&mut out[..length]);
        }
        _ => {
            // The length is a parameter of BLAKE2b: a shorter digest is not the beginning of a longer one.
            let mut params = blake2b_simd::Params::new();
            params.hash_length(max);
            let hash = params.hash(bytes);
            out[..max].copy_from_slice(hash.as_bytes());
        }
    }
    out[length..].fill(0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn digests_are_those_of_the_published_vectors() {
        let of = |function: HashFunction| {
            let digest = digest(function.code(), function.digest_bytes(), b"abc").expect("known");
            hex(&digest[..function.digest_bytes()])
        };
        assert_eq!(
            of(HashFunction::Sha2_256),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(of(HashFunction::Sha2_512).starts_with("ddaf35a193617abacc417349ae204131"));
        assert!(of(HashFunction::Sha3(28)).starts_with("e642824c3f8cf24ad09234ee7d3c766f"));
        assert_eq!(
            of(HashFunction::Sha3(32)),
            "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"
        );
        assert!(of(HashFunction::Sha3(48)).starts_with("ec01498288516fc926459f58e2c6ad8d"));
        assert!(of(HashFunction::Sha3(64)).starts_with("b751850b1a57168a5693cd924b6b096e"));
        assert!(of(HashFunction::Blake2b(64)).starts_with("ba80a53f981c4d0d6a2797b69f12f6e9"));
        assert_eq!(
            of(HashFunction::Blake2b(32)),
            "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
        );
        assert_eq!(
            of(HashFunction::Blake3),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        );
    }

    #[test]
    fn names_are_read_back() {
        for name in [
            "sha2-256",
            "sha2-512",
            "sha3-224",
            "sha3-256",
            "sha3-384",
            "sha3-512",
            "blake2b-160",
            "blake2b-256",
            "blake2b-512",
            "blake3",
        ] {
            let function: HashFunction = name.parse().expect(name);
            assert_eq!(function.to_string(), name);
        }
        for name in [
            "",
            "md5",
            "blake2b",
            "blake2b-8",
            "blake2b-257",
            "blake2b-520",
            "sha3-160",
            "sha3",
            "SHA2-256",
        ] {
            let error = name.parse::<HashFunction>().expect_err(name).to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn short_and_unknown_digests_are_refused() {
        assert_eq!(digest(0x11, 20, b""), Err(NoDigest::UnknownFunction));
        assert_eq!(digest(0xb241, 64, b""), Err(NoDigest::UnknownFunction));
        assert_eq!(digest(SHA2_256, 19, b""), Err(NoDigest::Length { min: 20, max: 32 }));
        assert_eq!(digest(SHA2_256, 33, b""), Err(NoDigest::Length { min: 20, max: 32 }));
        assert_eq!(digest(0xb210, 16, b""), Err(NoDigest::Length { min: 20, max: 16 }));
        let whole = digest(SHA2_256, 32, b"abc").expect("whole");
        let cut = digest(SHA2_256, 20, b"abc").expect("cut");
        assert_eq!(whole[..20], cut[..20]);
        assert_eq!(cut[20..], [0; DIGEST_BYTES_MAX - 20]);
    }
}
