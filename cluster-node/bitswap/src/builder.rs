//! Messages on their way out: packed to a target, never beyond what the protocol allows.

use bytes::{Bytes, BytesMut};
use cid::Cid;
use prost::{Message as _, length_delimiter_len};

use crate::hash::Prefix;
use crate::limits::{BLOCK_BYTES_MAX, BLOCKS_MAX, CID_BYTES_MAX, ENTRIES_MAX, MESSAGE_BYTES_MAX, PRESENCES_MAX};
use crate::message::{Ask, Entry, Message, Presence, RawBlock, Version, WantKind};
use crate::wire;

/// What does not fit into any message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A block is larger than the protocol allows.
    #[error("a block of {bytes} bytes can't be sent, Bitswap allows {BLOCK_BYTES_MAX}")]
    BlockTooLarge {
        /// The size of the block.
        bytes: usize,
    },
    /// The version has no word for it.
    #[error("{what} can't be said in {}", .version.protocol())]
    NotInVersion {
        /// What was to be said.
        what: &'static str,
        /// The version of the peer.
        version: Version,
    },
    /// A CID with a digest that no hash function has.
    #[error("the CID {0} is too long to be sent")]
    CidTooLong(Box<Cid>),
}

/// Packs one message. Something is taken when the message stays within its target with it, or is empty before.
///
/// So every message but one of a single block is within the target, and that one is within the protocol's bound.
#[derive(Debug)]
pub struct MessageBuilder {
    version: Version,
    target: usize,
    message: wire::Message,
    wantlist: wire::Wantlist,
    /// Encoded bytes of the wantlist's content, and of all else.
    wantlist_bytes: usize,
    other_bytes: usize,
    items: usize,
}

/// Tag and value of `full`, and of `pendingBytes` at its longest.
const FULL_BYTES: usize = 2;
const PENDING_BYTES: usize = 6;

impl MessageBuilder {
    /// An empty message to a peer of this version, `target` bytes long (at most [`MESSAGE_BYTES_MAX`]).
    pub fn new(version: Version, target: usize) -> Self {
        Self {
            version,
            target: target.min(MESSAGE_BYTES_MAX),
            message: wire::Message::default(),
            wantlist: wire::Wantlist::default(),
            wantlist_bytes: 0,
            other_bytes: 0,
            items: 0,
        }
    }

    /// Says that the wantlist is all that is wanted.
    pub fn full(&mut self) {
        if !self.wantlist.full {
            self.wantlist.full = true;
            self.wantlist_bytes += FULL_BYTES;
        }
    }

    /// Says how many bytes of blocks wait for the peer. Dropped for peers that have no word for it.
    pub fn pending_bytes(&mut self, bytes: u64) {
        if self.version.has_presences() && self.message.pending_bytes == 0 && bytes > 0 {
            self.message.pending_bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
            self.other_bytes += PENDING_BYTES;
        }
    }

    /// Adds a line to the wantlist; `false` when it belongs into the next message.
    ///
    /// # Errors
    /// When it can't be said to this peer at all.
    pub fn entry(&mut self, entry: &Entry) -> Result<bool, BuildError> {
        let mut wire = wire::Entry {
            cid: cid_bytes(&entry.cid)?,
            ..Default::default()
        };
        match entry.ask {
            Ask::Cancel => wire.cancel = true,
            Ask::Want {
                kind,
                priority,
                send_dont_have,
            } => {
                wire.priority = priority;
                wire.want_type = match kind {
                    WantKind::Block => wire::WANT_BLOCK,
                    WantKind::Have => wire::WANT_HAVE,
                };
                wire.send_dont_have = send_dont_have && self.version.has_presences();
                if kind == WantKind::Have && !self.version.has_presences() {
                    return Err(self.not_in_version("want-have"));
                }
            }
        }
        let bytes = element(wire.encoded_len());
        if self.wantlist.entries.len() == ENTRIES_MAX || !self.fits(bytes, 0) {
            return Ok(false);
        }
        self.wantlist.entries.push(wire);
        self.wantlist_bytes += bytes;
        self.items += 1;
        Ok(true)
    }

    /// Adds HAVE or DONT_HAVE; `false` when it belongs into the next message.
    ///
    /// # Errors
    /// When it can't be said to this peer at all.
    pub fn presence(&mut self, cid: &Cid, presence: Presence) -> Result<bool, BuildError> {
        if !self.version.has_presences() {
            return Err(self.not_in_version("HAVE or DONT_HAVE"));
        }
        let wire = wire::Presence {
            cid: cid_bytes(cid)?,
            kind: match presence {
                Presence::Have => wire::HAVE,
                Presence::DontHave => wire::DONT_HAVE,
            },
        };
        let bytes = element(wire.encoded_len());
        if self.message.presences.len() == PRESENCES_MAX || !self.fits(0, bytes) {
            return Ok(false);
        }
        self.message.presences.push(wire);
        self.other_bytes += bytes;
        self.items += 1;
        Ok(true)
    }

    /// Adds a block; `false` when it belongs into the next message.
    ///
    /// # Errors
    /// When it is too large for any.
    pub fn block(&mut self, prefix: &Prefix, data: &Bytes) -> Result<bool, BuildError> {
        let bytes = data.len();
        if bytes > BLOCK_BYTES_MAX {
            return Err(BuildError::BlockTooLarge { bytes });
        }
        if self.message.blocks.len() + self.message.payload.len() == BLOCKS_MAX {
            return Ok(false);
        }
        if self.version == Version::V1_0 {
            let bytes = element(bytes);
            if !self.fits(0, bytes) {
                return Ok(false);
            }
            self.message.blocks.push(data.clone());
            self.other_bytes += bytes;
        } else {
            let wire = wire::Block {
                prefix: prefix.to_bytes(),
                data: data.clone(),
            };
            let bytes = element(wire.encoded_len());
            if !self.fits(0, bytes) {
                return Ok(false);
            }
            self.message.payload.push(wire);
            self.other_bytes += bytes;
        }
        self.items += 1;
        Ok(true)
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.items == 0 && !self.wantlist.full
    }

    /// The message with its length in front, and a new empty one in its place.
    pub fn take_frame(&mut self) -> Bytes {
        let fresh = Self::new(self.version, self.target);
        let Self {
            mut message, wantlist, ..
        } = std::mem::replace(self, fresh);
        if wantlist.full || !wantlist.entries.is_empty() {
            message.wantlist = Some(wantlist);
        }
        let length = message.encoded_len();
        let mut frame = BytesMut::with_capacity(length_delimiter_len(length) + length);
        // The buffer grows as needed, so encoding can't run out of it.
        if message.encode_length_delimited(&mut frame).is_err() {
            frame.clear();
        }
        frame.freeze()
    }

    /// Whether so many bytes more are within the target, or, when nothing is there yet, within what the protocol allows.
    fn fits(&self, wantlist: usize, other: usize) -> bool {
        let wantlist = self.wantlist_bytes + wantlist;
        let wantlist = if wantlist == 0 { 0 } else { element(wantlist) };
        let whole = wantlist + self.other_bytes + other;
        let max = if self.items == 0 {
            MESSAGE_BYTES_MAX
        } else {
            self.target
        };
        whole <= max
    }

    fn not_in_version(&self, what: &'static str) -> BuildError {
        BuildError::NotInVersion {
            what,
            version: self.version,
        }
    }
}

/// Splits a message of any size into frames of about `target` bytes, none of which exceeds what the protocol allows, and
/// which say the same in the same order. Only the first of them is marked as a full wantlist: those behind it add to it.
///
/// # Errors
/// When something in it can't be sent to a peer of this version.
pub fn split(message: &Message, version: Version, target: usize) -> Result<Vec<Bytes>, BuildError> {
    let mut frames = Vec::new();
    let mut builder = MessageBuilder::new(version, target);
    if message.full {
        builder.full();
    }
    builder.pending_bytes(message.pending_bytes.into());
    for entry in &message.entries {
        while !builder.entry(entry)? {
            frames.push(builder.take_frame());
        }
    }
    for (cid, presence) in &message.presences {
        while !builder.presence(cid, *presence)? {
            frames.push(builder.take_frame());
        }
    }
    for RawBlock { prefix, data } in &message.blocks {
        while !builder.block(&prefix.unwrap_or(Prefix::V0), data)? {
            frames.push(builder.take_frame());
        }
    }
    if !builder.is_empty() {
        frames.push(builder.take_frame());
    }
    Ok(frames)
}

/// Encoded bytes of a length-delimited field with a number below 16.
fn element(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

fn cid_bytes(cid: &Cid) -> Result<Bytes, BuildError> {
    let bytes = cid.to_bytes();
    if bytes.len() > CID_BYTES_MAX {
        return Err(BuildError::CidTooLong(Box::new(*cid)));
    }
    Ok(bytes.into())
}
