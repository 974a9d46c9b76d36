//! What a look at a node means for an entry, and what becomes of the entry when a try has ended.

use std::time::Duration;

use crate::retry::{RetryPolicy, Verdict};
use crate::{ErrorClass, PinMode, Status, Timestamp};

use super::{Change, Entry, Kind};

/// A pin that a node has, itself and not as a part of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How it is pinned.
    pub mode: PinMode,
    /// Whose it is.
    pub named: Named,
}

/// What the name of a pin tells of who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// It bears our name, so a Pinfleet made it: this peer, perhaps before it lost its disk, or one that drove the node
    /// before.
    Ours,
    /// It bears another name or none, so somebody else made it, or took it over from us.
    Another,
    /// The daemon knows no names, so there is only what the entry says.
    Untold,
}

/// What a look at the node means for a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Whether what is there, or will be, is ours.
    pub ours: bool,
    /// What was made by hand.
    pub found: Option<PinMode>,
    /// What is to be done.
    pub step: Step,
    /// Whether what is pinned now gets our name. What only restores a pin made by hand is not ours to take away.
    pub under_our_name: bool,
}

/// What is to be done at the node to hold a CID as it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is enough.
    Nothing,
    /// Pin it, after the entry was marked.
    Pin,
    /// Let go of the recursive pin, which is ours, and pin it directly: a daemon does not shrink a pin.
    Shrink,
}

/// Decides by what the node holds. What does not bear our name was made by hand, at any time: before our first request, or
/// later by somebody who helps where we did not get on. Where there are no names, so was what is there before our first
/// request.
pub fn look(entry: &Entry, seen: Option<Seen>) -> Looked {
    let named = seen.map(|seen| seen.named);
    let ours = entry.ours || named == Some(Named::Ours);
    let held = seen.map(|seen| seen.mode);
    let found = match named {
        Some(Named::Another) => held,
        Some(Named::Untold) if !entry.ours => held,
        _ if entry.ours => entry.found,
        _ => None,
    };
    let step = match (held, entry.mode) {
        (Some(PinMode::Recursive), PinMode::Recursive) | (Some(PinMode::Direct), PinMode::Direct) => Step::Nothing,
        // More than is wanted: shrunk when it is ours, left alone when it was made by hand.
        (Some(PinMode::Recursive), PinMode::Direct) if found == Some(PinMode::Recursive) || !ours => Step::Nothing,
        (Some(PinMode::Recursive), PinMode::Direct) => Step::Shrink,
        _ => Step::Pin,
    };
    Looked {
        ours,
        found,
        step,
        under_our_name: found != Some(entry.mode),
    }
}

/// The entry with the mark that what the node will hold is ours. To be durable before the request is sent: only what is
/// so marked is ever unpinned.
pub fn marked(old: &Entry, found: Option<PinMode>) -> Change {
    if !old.wants(Kind::Pin) {
        return Change::Keep;
    }
    Change::Put(Entry {
        ours: true,
        found,
        ..old.clone()
    })
}

/// A try to pin that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// What was wanted when it began.
    pub mode: PinMode,
    /// What was made by hand.
    pub found: Option<PinMode>,
    /// Whether what is there is ours.
    pub ours: bool,
    /// Blocks walked.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The entry after the node was seen to hold the CID, or said that it does. `look_after` is when to look once more
/// where a request to let go may be under way.
pub fn pinned(old: &Entry, pinned: Pinned, now: Timestamp, look_after: Duration) -> Change {
    if !old.wants(Kind::Pin) {
        // Not wanted any more: an unpin is queued and will find what was done.
        return Change::Keep;
    }
    let mut next = Entry {
        ours: pinned.ours,
        found: pinned.found,
        ..old.clone()
    };
    if old.mode != pinned.mode {
        // Another mode is wanted by now than when the try began.
        next.next_due = now;
    } else if old.look_again {
        next.look_again = false;
        next.next_due = now.plus(look_after);
    } else {
        next.status = Status::Pinned;
        next.attempts = next.attempts.saturating_add(1);
        next.first_failed = None;
        next.pinned_at = Some(now);
        next.changed = now;
        next.error.clear();
        next.class = None;
        (next.blocks, next.bytes) = (pinned.blocks, pinned.bytes);
    }
    Change::Put(next)
}

/// How a node lets go of a CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpin {
    /// Not at all: what is there, if anything, is not ours.
    Nothing,
    /// The pin goes, or what there is of it.
    Remove,
    /// We made more of a direct pin made by hand: the recursive pin, if it is there, goes, and the direct one comes back.
    BackToDirect {
        /// It is there.
        remove: bool,
    },
}

/// What letting go of the CID means at the node, by what it holds now.
pub fn unpin(entry: &Entry, seen: Option<Seen>) -> Unpin {
    let named = seen.map(|seen| seen.named);
    match (entry.ours, entry.found) {
        // Nothing is known of the node but names.
        (false, _) if named == Some(Named::Ours) => Unpin::Remove,
        (false, _) => Unpin::Nothing,
        // It was there before us and was enough: what is there now is not ours, unless that went and we pinned it anew.
        (true, Some(PinMode::Recursive)) if named != Some(Named::Ours) => Unpin::Nothing,
        // Somebody has pinned it since, by hand.
        (true, _) if named == Some(Named::Another) => Unpin::Nothing,
        // Also where no pin is seen: what a node began to fetch and has not completed is none yet, and must not stay.
        (true, None | Some(PinMode::Recursive)) => Unpin::Remove,
        (true, Some(PinMode::Direct)) => match seen {
            Some(Seen {
                mode: PinMode::Direct,
                named: Named::Untold,
            }) => Unpin::Nothing,
            seen => Unpin::BackToDirect { remove: seen.is_some() },
        },
    }
}

/// The entry after the node let go of the CID. `look_after` is when to look once more where a request to pin may be
/// under way.
pub fn unpinned(old: &Entry, now: Timestamp, look_after: Duration) -> Change {
    if old.wants(Kind::Unpin) {
        if !old.look_again {
            return Change::Delete;
        }
        return Change::Put(Entry {
            look_again: false,
            next_due: now.plus(look_after),
            ..old.clone()
        });
    }
    // Wanted again meanwhile. The request has ended, so the next try sees what is left.
    if old.look_again && old.wants(Kind::Pin) {
        return Change::Put(Entry {
            look_again: false,
            ..old.clone()
        });
    }
    Change::Keep
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub kind: Kind,
    /// What kind of failure it is.
    pub class: ErrorClass,
    /// The daemon's words.
    pub message: String,
    /// Blocks that it walked.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The entry after a try that failed. `seed` differs from try to try.
pub fn failed(old: &Entry, failure: &Failure, policy: &RetryPolicy, now: Timestamp, seed: u64) -> Change {
    let (kind, class) = (failure.kind, failure.class);
    if !old.wants(kind) {
        return Change::Keep;
    }
    let mut next = Entry {
        error: failure.message.clone(),
        class: Some(class),
        ..old.clone()
    };
    // A fault of the node is not one of the content: it moves the next try, and nothing else.
    if !class.is_node_fault() {
        next.attempts = next.attempts.saturating_add(1);
        next.first_failed = next.first_failed.or(Some(now));
    }
    if kind == Kind::Pin {
        (next.blocks, next.bytes) = (failure.blocks, failure.bytes);
    }
    let failing = next.first_failed.map_or(Duration::ZERO, |first| now.since(first));
    match policy.judge(class, next.attempts, failing, seed) {
        Verdict::Retry(after) => {
            next.next_due = now.plus(after);
            if kind == Kind::Pin && !class.is_node_fault() {
                next.status = Status::Retrying;
            }
        }
        Verdict::GiveUp(reason) if kind == Kind::Pin => {
            next.status = Status::GaveUp;
            next.error = format!("{reason}: {}", next.error);
        }
        // What is not let go of would stay on the disk for ever.
        Verdict::GiveUp(_) => next.next_due = now.plus(policy.max),
    }
    if next.status != old.status {
        next.changed = now;
    }
    Change::Put(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    fn failure(class: ErrorClass) -> Failure {
        Failure {
            kind: Kind::Pin,
            class,
            message: "no".into(),
            blocks: 0,
            bytes: 0,
        }
    }

    fn put(change: Change) -> Entry {
        match change {
            Change::Put(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn neither_waiting_nor_a_node_that_is_away_ages_a_pin() {
        let policy = RetryPolicy {
            attempts_max: 0,
            age_max: WEEK,
            ..RetryPolicy::default()
        };
        // A month in the queue, most of it with the node down.
        let mut entry = Entry::queued(PinMode::Recursive, 1, NOW);
        let mut now = NOW.plus(4 * WEEK);
        entry = put(failed(&entry, &failure(ErrorClass::Unreachable), &policy, now, 1));
        assert_eq!((entry.status, entry.first_failed), (Status::Queued, None));
        now = now.plus(2 * WEEK);
        entry = put(failed(&entry, &failure(ErrorClass::Stalled), &policy, now, 1));
        assert_eq!((entry.status, entry.first_failed), (Status::Retrying, Some(now)));
        let almost = now.plus(WEEK - Duration::from_secs(1));
        entry = put(failed(&entry, &failure(ErrorClass::Stalled), &policy, almost, 1));
        assert_eq!(entry.status, Status::Retrying);
        entry = put(failed(
            &entry,
            &failure(ErrorClass::Stalled),
            &policy,
            now.plus(WEEK),
            1,
        ));
        assert_eq!(entry.status, Status::GaveUp);
        assert_eq!(entry.error, "it could not be pinned for 7days: no");
    }

    #[test]
    fn a_pin_under_our_name_is_ours_though_the_ledger_knows_nothing() {
        let entry = Entry::queued(PinMode::Recursive, 1, NOW);
        let seen = |named| {
            Some(Seen {
                mode: PinMode::Recursive,
                named,
            })
        };
        let looked = look(&entry, seen(Named::Ours));
        assert_eq!((looked.ours, looked.found, looked.step), (true, None, Step::Nothing));
        for named in [Named::Another, Named::Untold] {
            let looked = look(&entry, seen(named));
            assert_eq!(
                (looked.ours, looked.found, looked.step),
                (false, Some(PinMode::Recursive), Step::Nothing)
            );
        }
    }

    /// An operator helps where we did not get on: our request was sent and failed, then it was pinned by hand.
    #[test]
    fn a_pin_made_by_hand_after_our_request_is_not_ours() {
        let mut entry = Entry::queued(PinMode::Recursive, 1, NOW);
        entry.ours = true;
        let seen = |named| {
            Some(Seen {
                mode: PinMode::Recursive,
                named,
            })
        };
        let looked = look(&entry, seen(Named::Another));
        assert_eq!((looked.found, looked.step), (Some(PinMode::Recursive), Step::Nothing));
        // Nobody looked again before it was let go of.
        assert_eq!(unpin(&entry, seen(Named::Another)), Unpin::Nothing);
        // A daemon without names can't tell us, and then what we asked for is ours.
        assert_eq!(look(&entry, seen(Named::Untold)).found, None);
        assert_eq!(unpin(&entry, seen(Named::Untold)), Unpin::Remove);
        assert_eq!(unpin(&entry, seen(Named::Ours)), Unpin::Remove);
        assert_eq!(unpin(&entry, None), Unpin::Remove);
    }

    #[test]
    fn what_may_be_undone_at_the_node_is_looked_at_once_more() {
        let later = Duration::from_secs(10);
        let mut entry = Entry::queued(PinMode::Recursive, 1, NOW);
        entry.look_again = true;
        let well = Pinned {
            mode: PinMode::Recursive,
            found: None,
            ours: true,
            blocks: 1,
            bytes: 1,
        };
        let once = put(pinned(&entry, well, NOW, later));
        assert_eq!((once.status, once.next_due), (Status::Queued, NOW.plus(later)));
        let twice = put(pinned(&once, well, NOW.plus(later), later));
        assert_eq!(twice.status, Status::Pinned);

        let mut going = Entry {
            status: Status::Unpinning,
            ..entry.clone()
        };
        going = put(unpinned(&going, NOW, later));
        assert_eq!((going.status, going.next_due), (Status::Unpinning, NOW.plus(later)));
        assert_eq!(unpinned(&going, NOW.plus(later), later), Change::Delete);
        // Wanted again while the unpin ran: its end is known, so one look is enough.
        assert!(!put(unpinned(&entry, NOW, later)).look_again);
    }
}
