//! One node's view of one CID, and the fold of many views into one.

/// What kind of failure an attempt ended with. The kind decides when it is tried again, and whether at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// Likely to go well later, for a reason not named below.
    Temporary,
    /// Will never go well: the daemon says so of the content itself.
    Permanent,
    /// No progress for the stall timeout.
    Stalled,
    /// No provider of the content was found.
    NotFound,
    /// The node's disk or its configured storage is full.
    DiskFull,
    /// The node asks for less.
    Overloaded,
    /// The daemon does not answer.
    Unreachable,
    /// The daemon refuses our credentials.
    Unauthorized,
}

impl ErrorClass {
    /// All classes, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::Temporary,
        Self::Permanent,
        Self::Stalled,
        Self::NotFound,
        Self::DiskFull,
        Self::Overloaded,
        Self::Unreachable,
        Self::Unauthorized,
    ];

    /// The word used in APIs, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::Permanent => "permanent",
            Self::Stalled => "stalled",
            Self::NotFound => "not_found",
            Self::DiskFull => "disk_full",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// The class of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }

    /// Whether the fault lies with the node and not with the content: such failures open the node's circuit breaker
    /// and do not count against the pin.
    pub fn is_node_fault(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Unauthorized | Self::Overloaded | Self::DiskFull
        )
    }
}

/// Where one (node, CID) stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Waiting for a first try.
    Queued,
    /// The node is fetching it now.
    Pinning,
    /// The node holds it.
    Pinned,
    /// Tried and failed, will be tried again.
    Retrying,
    /// Not tried any more.
    GaveUp,
    /// Being let go of, or waiting for that.
    Unpinning,
    /// The peer that drives the node does not answer.
    Unreachable,
    /// No node could take it yet.
    Unplaced,
}

impl Status {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Pinning,
        Self::Pinned,
        Self::Retrying,
        Self::GaveUp,
        Self::Unpinning,
        Self::Unreachable,
        Self::Unplaced,
    ];

    /// The word used in APIs, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Pinning => "pinning",
            Self::Pinned => "pinned",
            Self::Retrying => "retrying",
            Self::GaveUp => "gave_up",
            Self::Unpinning => "unpinning",
            Self::Unreachable => "unreachable",
            Self::Unplaced => "unplaced",
        }
    }

    /// The state of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// Folds the states of a CID's nodes into one: pinned as soon as `min` nodes hold it, otherwise the most advanced state
/// that still leads there, otherwise the reason why none does. `min` below 0 asks for all.
pub fn fold(nodes: impl IntoIterator<Item = Status>, min: i32) -> Status {
    let mut counts = [0usize; Status::ALL.len()];
    let mut total = 0;
    for status in nodes {
        counts[status as usize] += 1;
        total += 1;
    }
    let has = |status: Status| counts[status as usize] > 0;
    if total == 0 {
        return Status::Unplaced;
    }
    let needed = usize::try_from(min).map_or(total, |min| min.clamp(1, total));
    if counts[Status::Pinned as usize] >= needed {
        return Status::Pinned;
    }
    [
        Status::Pinning,
        Status::Queued,
        Status::Retrying,
        Status::GaveUp,
        Status::Unreachable,
        Status::Unpinning,
    ]
    .into_iter()
    .find(|status| has(*status))
    .unwrap_or(Status::Pinned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
            assert_eq!(Status::ALL[status as usize], status);
        }
        for class in ErrorClass::ALL {
            assert_eq!(ErrorClass::parse(class.as_str()), Some(class));
        }
    }

    #[test]
    fn enough_pinned_is_pinned_whatever_the_others_say() {
        assert_eq!(fold([Status::Pinned, Status::GaveUp], 1), Status::Pinned);
        assert_eq!(fold([Status::Pinned, Status::Pinning], 2), Status::Pinning);
        assert_eq!(fold([Status::Pinned, Status::GaveUp], 2), Status::GaveUp);
        assert_eq!(fold([Status::Pinned, Status::Unreachable], -1), Status::Unreachable);
        assert_eq!(fold([], 1), Status::Unplaced);
    }
}
