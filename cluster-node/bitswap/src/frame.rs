//! Messages in a stream: a varint with the length, then the message.

use bytes::Bytes;

use crate::limits::MESSAGE_BYTES_MAX;

/// How much a length prefix alone makes the decoder reserve, in bytes. What is beyond is reserved as it arrives, so that
/// a thousand streams which announce 4 MiB and send nothing cost 64 KiB each and not 4 MiB.
const RESERVE_MAX: usize = 64 << 10;

/// A stream that is no series of messages. It can't be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length exceeds what the protocol allows.
    #[error("a message of {announced} bytes was announced, the protocol allows {max}")]
    TooLong {
        /// The length that the prefix gave.
        announced: u64,
        /// [`MESSAGE_BYTES_MAX`].
        max: usize,
    },
    /// The length is no varint in its shortest form.
    #[error("the length prefix {0:02x?} is no varint in its shortest form")]
    BadLength(Vec<u8>),
    /// The stream ended inside a message.
    #[error("the stream ended {missing} bytes before the end of a message")]
    Truncated {
        /// At least so many bytes would have had to follow.
        missing: usize,
    },
}

/// Takes the bytes of one stream as they come and gives back whole messages.
///
/// Holds at most one message, so at most [`MESSAGE_BYTES_MAX`] bytes, and never more than twice what has arrived plus
/// 64 KiB.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    prefix: Vec<u8>,
    /// The length of the message that is being read.
    length: Option<usize>,
    buffer: Vec<u8>,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off `input` until a message is whole or nothing is left. Call it again until it returns `None`.
    ///
    /// # Errors
    /// When the stream is no series of messages; then again at every further call.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let length = match self.length {
            Some(length) => length,
            None => match self.read_length(input) {
                Ok(Some(length)) => {
                    self.length = Some(length);
                    self.buffer.reserve_exact(length.min(RESERVE_MAX));
                    length
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            },
        };
        let taken = (length - self.buffer.len()).min(input.len());
        let (head, tail) = input.split_at(taken);
        *input = tail;
        if self.buffer.capacity() - self.buffer.len() < taken {
            // Doubles, but never beyond the message.
            let wanted = (self.buffer.len() + taken).max((2 * self.buffer.len()).min(length));
            self.buffer.reserve_exact(wanted - self.buffer.len());
        }
        self.buffer.extend_from_slice(head);
        if self.buffer.len() < length {
            return Ok(None);
        }
        self.length = None;
        Ok(Some(std::mem::take(&mut self.buffer).into()))
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// When it is inside a message, or has failed before.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.length {
            Some(length) => Err(FrameError::Truncated {
                missing: length - self.buffer.len(),
            }),
            None if self.prefix.is_empty() => Ok(()),
            None => Err(FrameError::Truncated { missing: 1 }),
        }
    }

    /// Bytes that are held for a message which is not whole yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn read_length(&mut self, input: &mut &[u8]) -> Result<Option<usize>, FrameError> {
        // 4 MiB takes four groups of seven bits; five let the error name what was announced.
        const GROUPS_MAX: usize = 5;
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            self.prefix.push(byte);
            if byte & 0x80 != 0 {
                if self.prefix.len() == GROUPS_MAX {
                    return Err(FrameError::BadLength(std::mem::take(&mut self.prefix)));
                }
                continue;
            }
            let prefix = std::mem::take(&mut self.prefix);
            if byte == 0 && prefix.len() > 1 {
                return Err(FrameError::BadLength(prefix));
            }
            let announced = prefix
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
            return match usize::try_from(announced) {
                Ok(length) if length <= MESSAGE_BYTES_MAX => Ok(Some(length)),
                _ => Err(FrameError::TooLong {
                    announced,
                    max: MESSAGE_BYTES_MAX,
                }),
            };
        }
        Ok(None)
    }
}
