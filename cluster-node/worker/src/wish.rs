//! What a wish does to an entry.

use cluster_storage::ledger::{Change, Entry};
use node_core::reconcile::Wanted;
use node_core::{Status, Timestamp};

/// Brings an entry in line with what is wanted now. Repeating it changes nothing.
pub(crate) fn follow(wanted: Option<&Wanted>, old: Option<&Entry>, now: Timestamp) -> Change {
    match (wanted, old) {
        (None, None) => Change::Keep,
        (None, Some(old)) => let_go(old, now),
        (Some(wanted), None) => Change::Put(Entry {
            hints: has_hints(wanted),
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
        _ => {
            let again = Entry {
                status: Status::Unpinning,
                pinned_at: None,
                hints: false,
                ..old.clone()
            };
            Change::Put(begin(again, now))
        }
    }
}

fn keep_up(wanted: &Wanted, old: &Entry, now: Timestamp) -> Change {
    let next = Entry {
        mode: wanted.mode,
        revision: wanted.revision,
        hints: has_hints(wanted),
        ..old.clone()
    };
    let same_mode = wanted.mode == old.mode;
    // A newer revision means that somebody asked again: what had been given up gets a new chance.
    let asked_again = wanted.revision > old.revision;
    match old.status {
        Status::Pinned if same_mode => put_if_changed(old, next),
        Status::Queued | Status::Retrying | Status::GaveUp if same_mode && !asked_again => put_if_changed(old, next),
        Status::Queued if same_mode => put_if_changed(old, next),
        _ => Change::Put(begin(
            Entry {
                status: Status::Queued,
                ..next
            },
            now,
        )),
    }
}

fn put_if_changed(old: &Entry, next: Entry) -> Change {
    if *old == next { Change::Keep } else { Change::Put(next) }
}

/// Counts from the beginning. What is on the node (`ours`, `found`) stays known.
fn begin(entry: Entry, now: Timestamp) -> Entry {
    Entry {
        attempts: 0,
        first_queued: now,
        next_due: now,
        changed: now,
        error: String::new(),
        class: None,
        ..entry
    }
}

fn has_hints(wanted: &Wanted) -> bool {
    !wanted.origins.is_empty() || wanted.updated_from.is_some()
}

#[cfg(test)]
mod tests {
    use node_core::PinMode;

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
    fn following_twice_changes_nothing_more() {
        let wishes = [
            None,
            Some(wanted(PinMode::Recursive, 4)),
            Some(wanted(PinMode::Recursive, 5)),
            Some(wanted(PinMode::Direct, 5)),
        ];
        let states = [
            Status::Queued,
            Status::Retrying,
            Status::Pinned,
            Status::GaveUp,
            Status::Unpinning,
        ];
        for wish in &wishes {
            for old in states.map(|status| Some(entry(status))).into_iter().chain([None]) {
                let once = match follow(wish.as_ref(), old.as_ref(), NOW) {
                    Change::Keep => old.clone(),
                    Change::Put(entry) => Some(entry),
                    Change::Delete => None,
                };
                assert_eq!(
                    follow(wish.as_ref(), once.as_ref(), NOW),
                    Change::Keep,
                    "{wish:?} {old:?}"
                );
            }
        }
    }

    #[test]
    fn only_what_is_ours_is_let_go_of() {
        let mut old = entry(Status::Pinned);
        let next = after(follow(None, Some(&old), NOW));
        assert_eq!((next.status, next.next_due, next.attempts), (Status::Unpinning, NOW, 0));
        old.ours = false;
        assert_eq!(follow(None, Some(&old), NOW), Change::Delete);
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
            (next.status, next.attempts, next.first_queued),
            (Status::Queued, 0, NOW)
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
            (next.status, next.mode, next.ours),
            (Status::Queued, PinMode::Direct, true)
        );
        let next = after(follow(
            Some(&wanted(PinMode::Recursive, 4)),
            Some(&entry(Status::Unpinning)),
            NOW,
        ));
        assert_eq!((next.status, next.ours), (Status::Queued, true));
    }
}
