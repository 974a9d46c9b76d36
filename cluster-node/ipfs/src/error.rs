//! What a call can fail with.

use std::fmt;

use node_core::ErrorClass;

/// Most bytes of a daemon's words that are kept.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// The calls of [`crate::IpfsNode`], for metrics and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Who are you.
    Id,
    /// What runs there.
    Version,
    /// How full is it.
    RepoStat,
    /// Fetch and hold.
    PinAdd,
    /// Fetch and hold what differs from another pin.
    PinUpdate,
    /// Let go.
    PinRm,
    /// Is it held.
    PinLs,
    /// Connect to a node that has the content.
    SwarmConnect,
    /// Give blocks that it holds.
    Blocks,
    /// Take blocks.
    Intake,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Id,
        Self::Version,
        Self::RepoStat,
        Self::PinAdd,
        Self::PinUpdate,
        Self::PinRm,
        Self::PinLs,
        Self::SwarmConnect,
        Self::Blocks,
        Self::Intake,
    ];

    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Version => "version",
            Self::RepoStat => "repo_stat",
            Self::PinAdd => "pin_add",
            Self::PinUpdate => "pin_update",
            Self::PinRm => "pin_rm",
            Self::PinLs => "pin_ls",
            Self::SwarmConnect => "swarm_connect",
            Self::Blocks => "blocks",
            Self::Intake => "intake",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct Error {
    /// What was asked.
    pub operation: Operation,
    /// What kind of failure it is; decides when it is tried again.
    pub class: ErrorClass,
    /// The daemon's own words where it said any, at most 4 KiB of them.
    pub message: String,
    /// The HTTP status, where an answer came.
    pub status: Option<u16>,
}

impl Error {
    /// The words are cut to [`MESSAGE_BYTES_MAX`] and put on one line.
    pub fn new(operation: Operation, class: ErrorClass, message: impl AsRef<str>, status: Option<u16>) -> Self {
        Self {
            operation,
            class,
            message: cut(message.as_ref(), MESSAGE_BYTES_MAX),
            status,
        }
    }
}

/// The beginning of a text, whole characters only and one line: messages stand in tables and logs.
pub fn cut(text: &str, bytes_max: usize) -> String {
    let text = text.trim();
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end]
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_characters_and_keep_to_one_line() {
        assert_eq!(cut(" a\nb ", 10), "a b");
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("", 3), "");
        let error = Error::new(Operation::Id, ErrorClass::Temporary, "x".repeat(10_000), None);
        assert_eq!(error.message.len(), MESSAGE_BYTES_MAX);
    }
}
