//! Reading a CAR file piece by piece.

use bytes::{Buf as _, Bytes, BytesMut};
use node_core::Cid;

use super::{
    CarError, CarFault, HEADER_BYTES_MAX, PADDING_BYTES_MAX, PRAGMA, SECTION_BYTES_MAX, V2_HEADER_BYTES, decode_header,
};
use crate::Block;
use crate::varint::{self, Varint};

/// Blocks of fewer bytes are copied out of the buffer: whoever keeps one should not keep megabytes of neighbours with it.
const SHARED_BYTES_MIN: usize = 16 * 1024;

/// What comes out of a CAR file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CarEvent {
    /// The header: first, and once.
    Header {
        /// 1 or 2.
        version: u64,
        /// The roots. Their blocks may be anywhere in the file, or missing.
        roots: Vec<Cid>,
    },
    /// A block, verified.
    Block(Block),
}

/// Reads a CAR file of version 1 or 2 whose bytes come in pieces of any size.
///
/// Give pieces with [`push`](Self::push), take events with [`next`](Self::next) until it has none, and say with
/// [`finish`](Self::finish) that there are no more bytes. It holds what was pushed and not taken yet: at most a section
/// of [`SECTION_BYTES_MAX`] bytes, or a header of [`HEADER_BYTES_MAX`], and the last piece. A file may hold a block
/// twice, or blocks that no root leads to; both come out.
///
/// After an error it gives that error for ever.
#[derive(Debug, Default)]
pub struct CarReader {
    buffer: BytesMut,
    state: State,
    /// Bytes taken out of the buffer.
    at: u64,
    failed: Option<CarError>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// In front of a pragma or a version 1 header.
    #[default]
    Start,
    /// Behind the pragma of version 2.
    Frame,
    /// In the padding behind the frame; so many bytes of it are left, then so many of data.
    Padding { left: u64, data: u64 },
    /// In front of the version 1 header inside a frame, with this end.
    Inner { end: u64 },
    /// In front of a section, or the end. The end is known in a frame only.
    Sections { end: Option<u64> },
    /// Behind the data: the index, which nobody reads.
    Rest,
}

impl CarReader {
    /// A reader in front of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() && !matches!(self.state, State::Rest) {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next event; none when more bytes are needed or there is nothing more.
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: it goes on after a None, when bytes were pushed"
    )]
    pub fn next(&mut self) -> Result<Option<CarEvent>, CarError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.step();
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        }
        result
    }

    /// Whether the file may end here. Call it when there are no more bytes and [`next`](Self::next) gave none.
    pub fn finish(&self) -> Result<(), CarError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let inside = match self.state {
            State::Rest => return Ok(()),
            State::Sections { end } if self.buffer.is_empty() && end.is_none_or(|end| end == self.at) => return Ok(()),
            State::Start | State::Inner { .. } => "its header",
            State::Frame => "the header of version 2",
            State::Padding { .. } => "its padding",
            State::Sections { .. } if self.buffer.is_empty() => "its data",
            State::Sections { .. } => "a block",
        };
        Err(CarError {
            at: self.at + self.buffer.len() as u64,
            reason: CarFault::Cut(inside),
        })
    }

    fn fail(&self, reason: CarFault) -> CarError {
        CarError { at: self.at, reason }
    }

    fn step(&mut self) -> Result<Option<CarEvent>, CarError> {
        loop {
            match self.state {
                State::Start => {
                    // Only as many bytes are compared as there are: a shorter header can't be a pragma.
                    if self.buffer.starts_with(&PRAGMA) {
                        self.skip(PRAGMA.len());
                        self.state = State::Frame;
                        continue;
                    }
                    return self.header(1, None);
                }
                State::Frame => {
                    if self.buffer.len() < V2_HEADER_BYTES {
                        return Ok(None);
                    }
                    self.state = self.frame()?;
                    self.skip(V2_HEADER_BYTES);
                }
                State::Padding { left: 0, data } => {
                    let end = self.at.checked_add(data).ok_or_else(|| self.fail(CarFault::Length))?;
                    self.state = State::Inner { end };
                }
                State::Padding { left, data } => {
                    if self.buffer.is_empty() {
                        return Ok(None);
                    }
                    let skipped = left.min(self.buffer.len() as u64);
                    self.skip(skipped as usize);
                    self.state = State::Padding {
                        left: left - skipped,
                        data,
                    };
                }
                State::Inner { end } => return self.header(2, Some(end)),
                State::Sections { end: Some(end) } if end == self.at => {
                    self.state = State::Rest;
                    self.buffer = BytesMut::new();
                }
                State::Sections { end } => return self.section(end),
                State::Rest => return Ok(None),
            }
        }
    }

    /// The frame of version 2, of which only the place of the data matters.
    fn frame(&self) -> Result<State, CarError> {
        let number = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.buffer[from..from + 8]);
            u64::from_le_bytes(bytes)
        };
        let (offset, data) = (number(16), number(24));
        let first = (PRAGMA.len() + V2_HEADER_BYTES) as u64;
        let Some(left) = offset.checked_sub(first) else {
            return Err(self.fail(CarFault::Header(format!(
                "the data begins at byte {offset}, which is inside the header of version 2"
            ))));
        };
        if left > PADDING_BYTES_MAX {
            return Err(self.fail(CarFault::TooLong {
                what: "a padding",
                bytes: left,
                max: PADDING_BYTES_MAX,
            }));
        }
        if data == 0 {
            return Err(self.fail(CarFault::Header(
                "it has no data; whoever wrote it did not finish".into(),
            )));
        }
        Ok(State::Padding { left, data })
    }

    /// A header of version 1, in a file of this version.
    fn header(&mut self, version: u64, end: Option<u64>) -> Result<Option<CarEvent>, CarError> {
        let Some((prefix, length)) = self.length("a header", HEADER_BYTES_MAX as u64, end)? else {
            return Ok(None);
        };
        if self.buffer.len() < prefix + length {
            return Ok(None);
        }
        let header = decode_header(&self.buffer[prefix..prefix + length]).map_err(|reason| self.fail(reason))?;
        if header.version != 1 {
            return Err(self.fail(CarFault::Version(header.version)));
        }
        self.skip(prefix + length);
        self.state = State::Sections { end };
        let roots = header.roots;
        Ok(Some(CarEvent::Header { version, roots }))
    }

    fn section(&mut self, end: Option<u64>) -> Result<Option<CarEvent>, CarError> {
        let Some((prefix, length)) = self.length("a section", SECTION_BYTES_MAX as u64, end)? else {
            return Ok(None);
        };
        let whole = prefix + length;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let (cid, rest) =
            Cid::read(&self.buffer[prefix..whole]).map_err(|error| self.fail(CarFault::Cid(error.to_string())))?;
        let skipped = whole - rest.len();
        let bytes = if rest.len() < SHARED_BYTES_MIN {
            Bytes::copy_from_slice(rest)
        } else {
            self.buffer.split_to(whole).freeze().slice(skipped..)
        };
        let copied = bytes.len() < SHARED_BYTES_MIN;
        let block = Block::new(cid, bytes).map_err(|error| self.fail(CarFault::Block(error)))?;
        if copied {
            self.buffer.advance(whole);
        }
        self.at += whole as u64;
        Ok(Some(CarEvent::Block(block)))
    }

    /// The length in front of a header or a section: how many bytes it takes and what it says.
    fn length(&self, what: &'static str, max: u64, end: Option<u64>) -> Result<Option<(usize, usize)>, CarError> {
        let (length, prefix) = match varint::read(&self.buffer) {
            Varint::Whole(0, _) | Varint::TooLong => return Err(self.fail(CarFault::Length)),
            Varint::Whole(length, prefix) => (length, prefix),
            Varint::Cut => return Ok(None),
        };
        if length > max {
            return Err(self.fail(CarFault::TooLong {
                what,
                bytes: length,
                max,
            }));
        }
        // `at` is far from the end of 64 bits unless `end` is, and `length` was just bounded.
        if end.is_some_and(|end| end - self.at < prefix as u64 + length) {
            return Err(self.fail(CarFault::Cut("a section that goes on behind the data")));
        }
        Ok(Some((prefix, length as usize)))
    }

    fn skip(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.at += bytes as u64;
    }
}
