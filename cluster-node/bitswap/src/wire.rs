//! The protobuf messages of Bitswap 1.0.0 to 1.2.0, and a look at their outline before anything is allocated for them.
//!
//! Source of the field numbers: specs.ipfs.tech/bitswap-protocol, "Wire Format" of each version. 1.0.0 carries bare
//! blocks in field 2, 1.1.0 blocks with the prefix of their CID in field 3, 1.2.0 adds the type of a want, HAVE and
//! DONT_HAVE, and pending bytes.

use bytes::{Buf, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::limits::{
    BLOCK_BYTES_MAX, BLOCKS_MAX, CID_BYTES_MAX, ENTRIES_MAX, MESSAGE_BYTES_MAX, PREFIX_BYTES_MAX, PRESENCES_MAX,
};
use crate::message::MessageError;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(message, optional, tag = "1")]
    pub(crate) wantlist: Option<Wantlist>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) blocks: Vec<Bytes>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) payload: Vec<Block>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) presences: Vec<Presence>,
    #[prost(int32, tag = "5")]
    pub(crate) pending_bytes: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wantlist {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Entry>,
    #[prost(bool, tag = "2")]
    pub(crate) full: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) cid: Bytes,
    #[prost(int32, tag = "2")]
    pub(crate) priority: i32,
    #[prost(bool, tag = "3")]
    pub(crate) cancel: bool,
    /// [`WANT_BLOCK`] or [`WANT_HAVE`].
    #[prost(int32, tag = "4")]
    pub(crate) want_type: i32,
    #[prost(bool, tag = "5")]
    pub(crate) send_dont_have: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Block {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) prefix: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Presence {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) cid: Bytes,
    /// [`HAVE`] or [`DONT_HAVE`].
    #[prost(int32, tag = "2")]
    pub(crate) kind: i32,
}

pub(crate) const WANT_BLOCK: i32 = 0;
pub(crate) const WANT_HAVE: i32 = 1;
pub(crate) const HAVE: i32 = 0;
pub(crate) const DONT_HAVE: i32 = 1;

/// Walks over a message and counts what is in it, so that decoding allocates within known bounds. Allocates nothing.
pub(crate) fn check_outline(message: &Bytes) -> Result<(), MessageError> {
    check(MESSAGE_BYTES_MAX, "bytes of message", message.len())?;
    let (mut entries, mut blocks, mut presences) = (0, 0, 0);
    fields(message, |number, value| {
        match (number, value) {
            (1, Some(wantlist)) => fields(wantlist, |number, value| {
                if let (1, Some(entry)) = (number, value) {
                    entries += 1;
                    check(ENTRIES_MAX, "wantlist entries", entries)?;
                    bounded(entry, 1, CID_BYTES_LONG, "bytes of CID")?;
                }
                Ok(())
            })?,
            (2, Some(data)) => {
                blocks += 1;
                check(BLOCKS_MAX, "blocks", blocks)?;
                check(BLOCK_BYTES_MAX, "bytes of block", data.len())?;
            }
            (3, Some(block)) => {
                blocks += 1;
                check(BLOCKS_MAX, "blocks", blocks)?;
                bounded(block, 1, PREFIX_BYTES_MAX, "bytes of CID prefix")?;
                bounded(block, 2, BLOCK_BYTES_MAX, "bytes of block")?;
            }
            (4, Some(presence)) => {
                presences += 1;
                check(PRESENCES_MAX, "presences", presences)?;
                bounded(presence, 1, CID_BYTES_MAX, "bytes of CID")?;
            }
            _ => {}
        }
        Ok(())
    })
}

/// Longest CID of a wantlist entry that is looked at: one with an identity digest of 128 bytes, which others may ask for
/// and which is passed over.
const CID_BYTES_LONG: usize = 4 * 10 + 128;

fn check(max: usize, what: &'static str, found: usize) -> Result<(), MessageError> {
    if found > max {
        return Err(MessageError::TooMuch { what, found, max });
    }
    Ok(())
}

/// Holds every occurrence of one bytes field to its longest length.
fn bounded(message: &[u8], field: u32, max: usize, what: &'static str) -> Result<(), MessageError> {
    fields(message, |number, value| match value {
        Some(value) if number == field => check(max, what, value.len()),
        _ => Ok(()),
    })
}

/// Calls `each` with every field of a protobuf message: its number, and its bytes where it is length-delimited.
fn fields(
    mut message: &[u8],
    mut each: impl FnMut(u32, Option<&[u8]>) -> Result<(), MessageError>,
) -> Result<(), MessageError> {
    let malformed = |e: prost::DecodeError| MessageError::Malformed(e.to_string());
    let short = || MessageError::Malformed("a field is longer than the message that it is in".into());
    while message.has_remaining() {
        let (number, wire_type) = decode_key(&mut message).map_err(malformed)?;
        let skipped = match wire_type {
            WireType::Varint => {
                decode_varint(&mut message).map_err(malformed)?;
                0
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => {
                let length = decode_varint(&mut message).map_err(malformed)?;
                let length = usize::try_from(length).map_err(|_| short())?;
                let value = message.get(..length).ok_or_else(short)?;
                each(number, Some(value))?;
                length
            }
            // Groups nest, and no version of Bitswap has one.
            WireType::StartGroup | WireType::EndGroup => {
                return Err(MessageError::Malformed("it has a group".into()));
            }
        };
        message = message.get(skipped..).ok_or_else(short)?;
    }
    Ok(())
}
