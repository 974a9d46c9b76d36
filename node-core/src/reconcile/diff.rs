//! Comparing all that is wanted of a node with all that is known of it, both in CID order.

use std::cmp::Ordering;

use crate::{Cid, Timestamp};

use super::{Change, Entry, Wanted, follow};

/// The CIDs whose entry does not follow its wish, with the wish, in order. Both sides are in CID order, each CID at most
/// once; one pass, and no more memory than what differs.
pub fn diff(
    wanted: impl IntoIterator<Item = (Cid, Wanted)>,
    known: impl IntoIterator<Item = (Cid, Entry)>,
    now: Timestamp,
) -> Vec<(Cid, Option<Wanted>)> {
    let (mut wanted, mut known) = (wanted.into_iter().peekable(), known.into_iter().peekable());
    let mut out = Vec::new();
    loop {
        let order = match (wanted.peek(), known.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((wanted, _)), Some((known, _))) => wanted.cmp(known),
        };
        let wish = if order.is_le() { wanted.next() } else { None };
        let entry = if order.is_ge() { known.next() } else { None };
        let differs = follow(
            wish.as_ref().map(|(_, wish)| wish),
            entry.as_ref().map(|(_, entry)| entry),
            now,
        ) != Change::Keep;
        if differs {
            let cid = wish.as_ref().map(|(cid, _)| *cid).or(entry.map(|(cid, _)| cid));
            out.extend(cid.map(|cid| (cid, wish.map(|(_, wish)| wish))));
        }
    }
}

/// Up to where two pages of at most `limit` items can be compared, given their lengths and last CIDs: behind the end of
/// a full page its side is not known. None: up to the end.
pub fn stretch_end(limit: usize, pages: [(usize, Option<Cid>); 2]) -> Option<Cid> {
    let full = pages.into_iter().filter(|(len, _)| *len >= limit);
    full.filter_map(|(_, last)| last).min()
}
