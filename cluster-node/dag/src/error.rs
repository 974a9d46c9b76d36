//! Why content is refused.

use node_core::Cid;

/// Why a block, a DAG or a CAR file is refused.
///
/// All of these are properties of the content: trying again, or elsewhere, ends the same way. The one exception is
/// [`DagError::HashMismatch`], which tells of the sender and not of the block: another sender may have the right bytes.
/// CIDs are boxed, since they are long and every result would be as long as its error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DagError {
    /// The block is longer than Bitswap may carry.
    #[error("a block of {bytes} bytes is longer than the {max} bytes that IPFS nodes exchange{at}; {remedy}", at = at(.cid))]
    BlockTooLarge {
        /// Which block, when it has been named already.
        cid: Option<Box<Cid>>,
        /// Its length.
        bytes: u64,
        /// The longest that is taken.
        max: u64,
        /// What the user can do about it.
        remedy: &'static str,
    },
    /// The bytes are not those that the CID names.
    #[error("the bytes received for {cid} have another hash: the sender is broken or lies")]
    HashMismatch {
        /// What was asked for.
        cid: Box<Cid>,
    },
    /// The CID uses a hash function that is not verified here.
    #[error(
        "{cid} uses hash function 0x{code:x}, which is not supported; supported are sha2-256, sha2-512, sha3, blake2b, \
         blake3 and identity"
    )]
    UnknownHash {
        /// The CID.
        cid: Box<Cid>,
        /// Its multihash code.
        code: u64,
    },
    /// The digest is too short to prove anything, or has a length that its function does not have.
    #[error("{cid} has a digest of {bytes} bytes; its hash function 0x{code:x} takes {min} to {max}")]
    DigestLength {
        /// The CID.
        cid: Box<Cid>,
        /// Its multihash code.
        code: u64,
        /// Length of its digest.
        bytes: usize,
        /// The shortest digest taken.
        min: usize,
        /// The longest digest taken.
        max: usize,
    },
    /// The CID's codec is not one whose links are known.
    #[error(
        "{cid} is of codec {name} (0x{code:x}), whose links are not known; known are raw, dag-pb, dag-cbor and dag-json"
    )]
    UnknownCodec {
        /// The CID.
        cid: Box<Cid>,
        /// Its multicodec code.
        code: u64,
        /// The name of the codec in the multicodec table, or `unknown`.
        name: &'static str,
    },
    /// The block is not what its codec says.
    #[error("{cid} is not valid {codec}: {reason}")]
    Malformed {
        /// The block.
        cid: Box<Cid>,
        /// The codec that it should be in.
        codec: &'static str,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// The block has more links than are followed.
    #[error("{cid} has more than {max} links")]
    TooManyLinks {
        /// The block.
        cid: Box<Cid>,
        /// How many are followed.
        max: usize,
    },
    /// The block is no file where a file was asked for, no directory where a directory was, and the like.
    #[error("{cid} is {found}, and {wanted} was asked for")]
    WrongKind {
        /// The block.
        cid: Box<Cid>,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A directory has no entry of this name.
    #[error("there is no {name:?} in {directory}")]
    NotFound {
        /// The directory.
        directory: Box<Cid>,
        /// The name, with what is not UTF-8 in it replaced.
        name: String,
    },
    /// The path leads through something that is no directory.
    #[error("{name:?} is looked for in {cid}, which is {found} and no directory")]
    NotADirectory {
        /// What was taken for a directory.
        cid: Box<Cid>,
        /// What it is.
        found: &'static str,
        /// The name that was looked for in it.
        name: String,
    },
    /// A DAG is deeper, wider or otherwise larger than any that a known program makes.
    #[error("{cid}: {what} exceed the limit of {max}")]
    TooLarge {
        /// Where it was noticed.
        cid: Box<Cid>,
        /// What there is too much of.
        what: &'static str,
        /// How much of it is taken.
        max: u64,
    },
    /// A name, target or other value given for a new entry can't be stored.
    #[error("{field} {value:?} {reason}")]
    BadEntry {
        /// What is wrong: `name`, `symlink target`, …
        field: &'static str,
        /// The value, shortened, with what is not UTF-8 in it replaced.
        value: String,
        /// Why, and what would be right.
        reason: &'static str,
    },
}

fn at(cid: &Option<Box<Cid>>) -> String {
    cid.as_ref().map(|cid| format!(" ({cid})")).unwrap_or_default()
}

/// Bytes that somebody gave, fit for an error message.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let beginning = &bytes[..bytes.len().min(80)];
    let mut text = String::from_utf8_lossy(beginning).into_owned();
    if beginning.len() < bytes.len() {
        text.push('…');
    }
    text
}
