//! Messages as the engine sees them: parsed, bounded, and with blocks that are called what they are.

use bytes::Bytes;
use cid::{Cid, CidGeneric};
use prost::Message as _;

use crate::hash::{Block, BlockHasher, IDENTITY, Prefix};
use crate::wire;

/// The version of the protocol that two peers agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Blocks come without a CID, so CIDv0 only in principle.
    V1_0,
    /// Blocks come with the prefix of their CID.
    V1_1,
    /// Want-have, HAVE and DONT_HAVE.
    V1_2,
}

impl Version {
    /// Every version, the best first, as they are to be offered.
    pub const ALL: [Self; 3] = [Self::V1_2, Self::V1_1, Self::V1_0];

    /// The name under which libp2p negotiates it.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::V1_0 => "/ipfs/bitswap/1.0.0",
            Self::V1_1 => "/ipfs/bitswap/1.1.0",
            Self::V1_2 => "/ipfs/bitswap/1.2.0",
        }
    }

    /// The version with this name.
    pub fn of_protocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.protocol() == name)
    }

    /// Whether peers of this version can be asked whether they have a block, and say that they don't.
    pub const fn has_presences(self) -> bool {
        matches!(self, Self::V1_2)
    }
}

/// A message that is refused. The stream that it came in is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is no protobuf message.
    #[error("the message is no protobuf message: {0}")]
    Malformed(String),
    /// It has more of something than is taken.
    #[error("the message has {found} {what}, at most {max} are taken")]
    TooMuch {
        /// What there is too much of, with its unit.
        what: &'static str,
        /// How much was found before the rest was left alone.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// It has a CID that is none.
    #[error("the message has the CID {bytes} in a {place}: {reason}")]
    BadCid {
        /// The first bytes in hexadecimal.
        bytes: String,
        /// Where it stands: `wantlist` or `presence`.
        place: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It has a block whose CID prefix is none.
    #[error("the message has a block with the prefix {bytes}: {reason}")]
    BadPrefix {
        /// The prefix in hexadecimal.
        bytes: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It has an enumeration with a value that no version knows.
    #[error("the message has a {field} of {value}, which no version of Bitswap knows")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// What it has.
        value: i32,
    },
}

/// What is wanted of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WantKind {
    /// To know whether the peer has it.
    Have,
    /// The block itself.
    Block,
}

/// Whether the sender has a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It has it and would send it.
    Have,
    /// It does not have it, or would not send it.
    DontHave,
}

/// A line of a wantlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The block.
    pub cid: Cid,
    /// What about it.
    pub ask: Ask,
}

/// What a line of a wantlist says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The sender wants it.
    Want {
        /// What it wants.
        kind: WantKind,
        /// Higher ones are to be answered first.
        priority: i32,
        /// Whether it wants to be told when the receiver doesn't have it.
        send_dont_have: bool,
    },
    /// The sender does not want it any more.
    Cancel,
}

/// A block as it comes in a message: not yet known to be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBlock {
    /// All of its CID but the digest; none in messages of 1.0.0.
    pub prefix: Option<Prefix>,
    /// Its content.
    pub data: Bytes,
}

/// A message of any version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Whether `entries` are all that the sender wants, and not only what has changed.
    pub full: bool,
    /// The sender's wantlist, or what has changed in it.
    pub entries: Vec<Entry>,
    /// Blocks.
    pub blocks: Vec<RawBlock>,
    /// What the sender has, and what not.
    pub presences: Vec<(Cid, Presence)>,
    /// Bytes of blocks that the sender has queued for the receiver.
    pub pending_bytes: u32,
}

/// A message whose blocks are identified. Only [`Message::identify`] makes one with blocks in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Incoming {
    pub(crate) full: bool,
    pub(crate) entries: Vec<Entry>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) presences: Vec<(Cid, Presence)>,
    /// Blocks with a hash function that is not known here: how many, and their bytes.
    pub(crate) nameless: (usize, usize),
}

impl Message {
    /// Parses the content of one frame.
    ///
    /// Wants for identity CIDs are passed over: such a CID holds its block itself.
    ///
    /// # Errors
    /// When it is no Bitswap message or exceeds a bound in [`crate::limits`]. Decides that before it allocates.
    pub fn decode(frame: Bytes) -> Result<Self, MessageError> {
        wire::check_outline(&frame)?;
        let message = wire::Message::decode(frame).map_err(|e| MessageError::Malformed(e.to_string()))?;
        let wantlist = message.wantlist.unwrap_or_default();
        let mut entries = Vec::with_capacity(wantlist.entries.len());
        for entry in &wantlist.entries {
            entries.extend(read_entry(entry)?);
        }
        let bare = message
            .blocks
            .into_iter()
            .map(|data| Ok(RawBlock { prefix: None, data }));
        let named = message.payload.into_iter().map(|block| {
            let prefix = Prefix::parse(&block.prefix).map_err(|reason| MessageError::BadPrefix {
                bytes: hex(&block.prefix),
                reason,
            })?;
            Ok(RawBlock {
                prefix: Some(prefix),
                data: block.data,
            })
        });
        let blocks = bare.chain(named).collect::<Result<_, _>>()?;
        let presences = message.presences.iter().map(read_presence).collect::<Result<_, _>>()?;
        Ok(Self {
            full: wantlist.full,
            entries,
            blocks,
            presences,
            // Negative ones make no sense, and it is only a hint.
            pending_bytes: u32::try_from(message.pending_bytes).unwrap_or(0),
        })
    }

    /// Computes the CIDs of the blocks. This is what costs time: do it where it holds up nothing else.
    pub fn identify(self, hasher: &dyn BlockHasher) -> Incoming {
        let mut nameless = (0, 0);
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for RawBlock { prefix, data } in self.blocks {
            let size = data.len();
            let block = match prefix {
                Some(prefix) => Block::identify(&prefix, data, hasher),
                None => Block::identify_bare(data, hasher),
            };
            match block {
                Some(block) => blocks.push(block),
                None => nameless = (nameless.0 + 1, nameless.1 + size),
            }
        }
        Incoming {
            full: self.full,
            entries: self.entries,
            blocks,
            presences: self.presences,
            nameless,
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        !self.full && self.entries.is_empty() && self.blocks.is_empty() && self.presences.is_empty()
    }
}

impl Incoming {
    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

fn read_entry(entry: &wire::Entry) -> Result<Option<Entry>, MessageError> {
    let Some(cid) = read_wanted(&entry.cid)? else {
        return Ok(None);
    };
    let kind = match entry.want_type {
        wire::WANT_BLOCK => WantKind::Block,
        wire::WANT_HAVE => WantKind::Have,
        value => {
            let field = "wantType";
            return Err(MessageError::UnknownValue { field, value });
        }
    };
    let ask = if entry.cancel {
        Ask::Cancel
    } else {
        Ask::Want {
            kind,
            priority: entry.priority,
            send_dont_have: entry.send_dont_have,
        }
    };
    Ok(Some(Entry { cid, ask }))
}

fn read_presence(presence: &wire::Presence) -> Result<(Cid, Presence), MessageError> {
    let cid = Cid::try_from(&presence.cid[..]).map_err(|e| bad_cid(&presence.cid, "presence", e))?;
    match presence.kind {
        wire::HAVE => Ok((cid, Presence::Have)),
        wire::DONT_HAVE => Ok((cid, Presence::DontHave)),
        value => Err(MessageError::UnknownValue {
            field: "BlockPresence type",
            value,
        }),
    }
}

/// The CID of a wantlist entry; none when it is an identity CID.
fn read_wanted(bytes: &[u8]) -> Result<Option<Cid>, MessageError> {
    match Cid::try_from(bytes) {
        Ok(cid) if cid.hash().code() == IDENTITY => Ok(None),
        Ok(cid) => Ok(Some(cid)),
        Err(error) => {
            // An identity digest may be longer than any other.
            let long = CidGeneric::<128>::try_from(bytes);
            match long {
                Ok(cid) if cid.hash().code() == IDENTITY => Ok(None),
                _ => Err(bad_cid(bytes, "wantlist", error)),
            }
        }
    }
}

fn bad_cid(bytes: &[u8], place: &'static str, reason: cid::Error) -> MessageError {
    MessageError::BadCid {
        bytes: hex(bytes),
        place,
        reason: reason.to_string(),
    }
}

/// Enough of it to be recognised.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
