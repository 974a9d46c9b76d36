//! What a wish does to an entry, and how entries are armed again.

use crate::{ErrorClass, Status, Timestamp};

use super::{Change, Entry, Wanted};

/// Brings an entry in line with what is wanted now. Repeating it changes nothing.
pub fn follow(wanted: Option<&Wanted>, old: Option<&Entry>, now: Timestamp) -> Change {
    match (wanted, old) {
        (None, None) => Change::Keep,
        (None, Some(old)) => let_go(old, now),
        (Some(wanted), None) => Change::Put(Entry {
            hints: wanted.has_hints(),
            ..Entry::queued(wanted.mode, wanted.revision, now)
        }),
        (Some(wanted), Some(old)) => keep_up(wanted, old, now),
    }
}

fn let_go(old: &Entry, now: Timestamp) -> Change {
    match old.status {
        Status::Unpinning => Change::Keep,
        // Nothing of ours is there, and what was there before us stays.
        _ if !old.ours => Change::Delete,
        status => {
            let again = Entry {
                status: Status::Unpinning,
                pinned_at: None,
                hints: false,
                // A request to pin it was sent and did not end well: one that was cut off may still win at the node
                // after it was told to let go.
                look_again: status != Status::Pinned,
                ..old.clone()
            };
            Change::Put(again.begun(now))
        }
    }
}

fn keep_up(wanted: &Wanted, old: &Entry, now: Timestamp) -> Change {
    let next = Entry {
        mode: wanted.mode,
        revision: wanted.revision,
        hints: wanted.has_hints(),
        ..old.clone()
    };
    let same_mode = wanted.mode == old.mode;
    // A newer revision means that somebody asked again: what had been given up gets a new chance.
    let asked_again = wanted.revision > old.revision;
    match old.status {
        Status::Pinned if same_mode => put_if_changed(old, next),
        Status::Queued | Status::Retrying | Status::GaveUp if same_mode && !asked_again => put_if_changed(old, next),
        Status::Queued if same_mode => put_if_changed(old, next),
        status => Change::Put(
            Entry {
                status: Status::Queued,
                // The request to let go may be under way: what is seen at the node now may be gone in a moment.
                look_again: old.look_again || status == Status::Unpinning,
                ..next
            }
            .begun(now),
        ),
    }
}

fn put_if_changed(old: &Entry, next: Entry) -> Change {
    if *old == next { Change::Keep } else { Change::Put(next) }
}

/// Which entries somebody asks to be tried again at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Only in these states; empty stands for `gave_up` and `retrying`.
    pub statuses: Vec<Status>,
    /// Only those that failed with this class of error.
    pub class: Option<ErrorClass>,
}

impl Asked {
    /// The states asked for.
    pub fn statuses(&self) -> &[Status] {
        if self.statuses.is_empty() {
            &[Status::GaveUp, Status::Retrying]
        } else {
            &self.statuses
        }
    }
}

/// The entry tried again at once, its tries counted anew; none when it is not among those asked for or waits for
/// nothing. The last error stays visible until the next try ends.
pub fn rearmed(old: &Entry, asked: &Asked, now: Timestamp) -> Option<Entry> {
    if !asked.statuses().contains(&old.status) || (asked.class.is_some() && asked.class != old.class) {
        return None;
    }
    let status = match old.status {
        Status::GaveUp | Status::Retrying | Status::Queued => Status::Queued,
        Status::Unpinning => Status::Unpinning,
        // It is where it should be.
        _ => return None,
    };
    Some(Entry {
        status,
        error: old.error.clone(),
        class: old.class,
        ..old.clone().begun(now)
    })
}

/// The entry when nothing that was known of the node counts any more: another daemon answers at its address, or it does
/// not hold what it held. What is wanted is looked for and pinned anew, what is to be let go of is looked for.
pub fn requeued(old: &Entry, now: Timestamp) -> Entry {
    let status = match old.status {
        Status::Unpinning => Status::Unpinning,
        _ => Status::Queued,
    };
    Entry {
        status,
        ours: false,
        found: None,
        look_again: false,
        pinned_at: None,
        ..old.clone().begun(now)
    }
}

#[cfg(test)]
mod tests {
    use crate::PinMode;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(5_000);

    fn wanted(mode: PinMode, revision: u64) -> Wanted {
        Wanted {
            mode,
            revision,
            origins: Vec::new(),
            updated_from: None,
        }
    }

    fn entry(status: Status) -> Entry {
        let mut entry = Entry::queued(PinMode::Recursive, 4, Timestamp::from_millis(1_000));
        entry.status = status;
        entry.ours = true;
        entry.attempts = 3;
        entry.first_failed = Some(Timestamp::from_millis(2_000));
        entry.error = "no".into();
        entry
    }

    fn after(change: Change) -> Entry {
        match change {
            Change::Put(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_ours_is_let_go_of() {
        let mut old = entry(Status::Pinned);
        let next = after(follow(None, Some(&old), NOW));
        assert_eq!((next.status, next.next_due, next.attempts), (Status::Unpinning, NOW, 0));
        assert!(!next.look_again, "nothing is under way");
        old.ours = false;
        assert_eq!(follow(None, Some(&old), NOW), Change::Delete);
        let next = after(follow(None, Some(&entry(Status::Queued)), NOW));
        assert!(next.look_again, "a request to pin it may be under way");
    }

    #[test]
    fn asking_again_re_arms_what_was_given_up() {
        let old = entry(Status::GaveUp);
        assert_eq!(
            follow(Some(&wanted(PinMode::Recursive, 4)), Some(&old), NOW),
            Change::Keep
        );
        let next = after(follow(Some(&wanted(PinMode::Recursive, 5)), Some(&old), NOW));
        assert_eq!(
            (next.status, next.attempts, next.first_queued, next.first_failed),
            (Status::Queued, 0, NOW, None)
        );
        // A pinned CID stays pinned.
        let next = after(follow(
            Some(&wanted(PinMode::Recursive, 5)),
            Some(&entry(Status::Pinned)),
            NOW,
        ));
        assert_eq!((next.status, next.revision), (Status::Pinned, 5));
    }

    #[test]
    fn another_mode_is_work_to_do() {
        let next = after(follow(
            Some(&wanted(PinMode::Direct, 5)),
            Some(&entry(Status::Pinned)),
            NOW,
        ));
        assert_eq!(
            (next.status, next.mode, next.ours, next.look_again),
            (Status::Queued, PinMode::Direct, true, false)
        );
        let next = after(follow(
            Some(&wanted(PinMode::Recursive, 4)),
            Some(&entry(Status::Unpinning)),
            NOW,
        ));
        assert_eq!((next.status, next.ours, next.look_again), (Status::Queued, true, true));
    }

    #[test]
    fn exactly_the_states_asked_for_are_armed_again() {
        let states = Status::ALL.into_iter().filter(|status| Entry::can_store(*status));
        for status in states {
            let old = entry(status);
            let usual = rearmed(&old, &Asked::default(), NOW);
            assert_eq!(
                usual.is_some(),
                matches!(status, Status::GaveUp | Status::Retrying),
                "{status:?}"
            );
            let only = |statuses: &[Status]| Asked {
                statuses: statuses.to_vec(),
                class: None,
            };
            let next = rearmed(&old, &only(&[status]), NOW);
            assert_eq!(next.is_some(), status != Status::Pinned, "{status:?}");
            if let Some(next) = next {
                assert_eq!((next.attempts, next.first_failed, next.next_due), (0, None, NOW));
                assert_eq!(next.error, "no", "shown until the next try ends");
            }
            let others: Vec<_> = Status::ALL.into_iter().filter(|other| *other != status).collect();
            assert_eq!(rearmed(&old, &only(&others), NOW), None);
        }
        let class = Asked {
            class: Some(ErrorClass::Stalled),
            ..Asked::default()
        };
        assert_eq!(rearmed(&entry(Status::GaveUp), &class, NOW), None);
    }
}
