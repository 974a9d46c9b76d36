//! CAR files: blocks in a row, behind a header that names the roots.
//!
//! <https://ipld.io/specs/transport/car/carv1/> and `carv2/`. A file of version 2 is one of version 1 in a frame:
//!
//! ```text
//! pragma (11) │ header (40): characteristics, data offset, data size, index offset │ padding │ CARv1 │ padding │ index
//! CARv1:  length, {roots, version: 1} in dag-cbor │ length, CID, block │ length, CID, block │ …
//! ```
//!
//! The index is never read: what a file says of itself is no proof, and blocks are verified as they pass.

mod read;
mod write;

pub use read::{CarEvent, CarReader};
pub use write::{CarWriter, v2_frame};

use node_core::{CID_BYTES_MAX, Cid};

use crate::BLOCK_BYTES_MAX;
use crate::codec::Fault;
use crate::codec::cbor::Input;

/// Longest header taken, in bytes: room for some 25 thousand roots, and for what a hostile file can make a reader hold
/// before it has shown a single block.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// Longest section taken, in bytes: a CID and a block.
pub const SECTION_BYTES_MAX: usize = CID_BYTES_MAX + BLOCK_BYTES_MAX;

/// Padding in front of the data of a version 2 file, in bytes, that is skipped. Writers align to pages or disk blocks;
/// without a bound a file of sixteen exabytes of nothing would be a valid one.
pub const PADDING_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The first bytes of a version 2 file: a header of length 10 that says `{version: 2}`.
const PRAGMA: [u8; 11] = [0x0a, 0xa1, 0x67, b'v', b'e', b'r', b's', b'i', b'o', b'n', 0x02];

/// Bytes of the header behind the pragma.
const V2_HEADER_BYTES: usize = 40;

/// Why a CAR file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the CAR file is broken at byte {at}: {reason}")]
pub struct CarError {
    /// Where, in bytes from the beginning of the file.
    pub at: u64,
    /// What is wrong.
    pub reason: CarFault,
}

/// What is wrong with a CAR file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CarFault {
    /// It ends in the middle of something.
    #[error("it ends in the middle of {0}; it was probably not transferred as a whole")]
    Cut(&'static str),
    /// It is of a version that is not known, or no CAR file.
    #[error("it is of version {0}, and only 1 and 2 are known")]
    Version(u64),
    /// The header can't be read.
    #[error("its header is no CAR header: {0}")]
    Header(String),
    /// A length is zero or does not fit into 64 bits.
    #[error("a section has no valid length")]
    Length,
    /// Something is longer than it may be.
    #[error("{what} of {bytes} bytes is longer than the {max} that are taken")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        max: u64,
    },
    /// A section does not begin with a CID.
    #[error("a section does not begin with a CID: {0}")]
    Cid(String),
    /// A block is not the one that its CID names, or can't be verified.
    #[error(transparent)]
    Block(crate::DagError),
}

/// What the header of the data says.
struct Header {
    version: u64,
    roots: Vec<Cid>,
}

/// Reads a header behind its length: a map with `version` and, for version 1, `roots`.
fn decode_header(bytes: &[u8]) -> Result<Header, CarFault> {
    let fault = |fault: Fault| match fault {
        Fault::Malformed(reason) => CarFault::Header(reason),
        Fault::TooManyLinks => CarFault::Header("it has too many roots".into()),
    };
    let mut input = Input::new(bytes);
    let map = input.head().map_err(fault)?;
    if map.major != 5 {
        return Err(CarFault::Header("it is no map".into()));
    }
    let (mut version, mut roots) = (None, None);
    for _ in 0..map.value {
        let key = input.head().map_err(fault)?;
        if key.major != 3 {
            return Err(fault(input.fault("a key is no text")));
        }
        match input.take(key.value).map_err(fault)? {
            b"version" if version.is_none() => {
                let value = input.head().map_err(fault)?;
                if value.major != 0 {
                    return Err(fault(input.fault("the version is no number")));
                }
                version = Some(value.value);
            }
            b"roots" if roots.is_none() => {
                let list = input.head().map_err(fault)?;
                if list.major != 4 {
                    return Err(fault(input.fault("the roots are no list")));
                }
                let mut found = Vec::new();
                for _ in 0..list.value {
                    let item = input.head().map_err(fault)?;
                    if item.major != 6 {
                        return Err(fault(input.fault("a root is no link")));
                    }
                    found.push(input.link(item.value).map_err(fault)?);
                }
                roots = Some(found);
            }
            key => {
                let key = crate::error::shown(key);
                return Err(fault(input.fault(&format!("{key:?} is unknown or repeated"))));
            }
        }
    }
    if !input.is_empty() {
        return Err(fault(input.fault("bytes are left over behind it")));
    }
    let version = version.ok_or_else(|| CarFault::Header("it has no version".into()))?;
    if version == 1 && roots.is_none() {
        return Err(CarFault::Header("it has no roots".into()));
    }
    Ok(Header {
        version,
        roots: roots.unwrap_or_default(),
    })
}
