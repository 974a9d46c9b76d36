//! Choices drawn from the bytes that the fuzzer gives.

/// An input that is read from front to back. When it is used up, every choice is zero: inputs stay valid when they are
/// cut.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// The low byte first.
    pub(crate) fn number16(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// So many bytes, or as many as there are.
    pub(crate) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// Bytes cut into pieces whose sizes follow from one choice: all at once, one by one, or a few at a time.
pub(crate) fn pieces(bytes: &[u8], choice: u8) -> impl Iterator<Item = &[u8]> {
    let sizes = match choice {
        0 => [usize::MAX; 2],
        _ => [usize::from(choice & 0x0f) + 1, usize::from(choice >> 4) * 37 + 1],
    };
    let (mut rest, mut turn) = (bytes, 0);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, behind) = rest.split_at(sizes[turn % 2].min(rest.len()));
        (rest, turn) = (behind, turn + 1);
        Some(piece)
    })
}
