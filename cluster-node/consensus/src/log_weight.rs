//! What the log weighs, and where.

use std::collections::VecDeque;

/// Pieces of the log that are weighed as one. Bounds the memory that weighing takes, and how far a cut misses its mark.
const SPANS_MAX: u64 = 256;
/// Smallest piece worth keeping apart.
const SPAN_BYTES_MIN: u64 = 64 << 10;

/// The weight of the log in pieces of equal weight.
pub(crate) struct LogWeight {
    spans: VecDeque<Span>,
    total: u64,
    /// Index of the first entry that is weighed.
    first: u64,
    span_bytes: u64,
}

/// The entries behind the span before, up to `last`.
struct Span {
    last: u64,
    bytes: u64,
}

impl LogWeight {
    /// A log whose entries from `first` to `last` weigh `bytes`; `first` is where the next one comes if there are none.
    /// `kept` is what will be asked of [`LogWeight::beyond`].
    pub fn new(first: u64, last: Option<u64>, bytes: u64, kept: u64) -> Self {
        let mut weight = Self {
            spans: VecDeque::new(),
            total: 0,
            first,
            span_bytes: (kept / SPANS_MAX).max(SPAN_BYTES_MIN),
        };
        let Some(last) = last.filter(|last| *last >= first) else {
            return weight;
        };
        // Nothing is known of single entries, so they are taken to be alike.
        let count = last - first + 1;
        let spans = (bytes / weight.span_bytes).clamp(1, SPANS_MAX.min(count));
        for number in 1..=spans {
            let part = |whole: u64| u64::try_from(u128::from(whole) * u128::from(number) / u128::from(spans));
            weight.spans.push_back(Span {
                last: first + part(count).unwrap_or(count) - 1,
                bytes: part(bytes).unwrap_or(bytes) - weight.total,
            });
            weight.total = part(bytes).unwrap_or(bytes);
        }
        weight
    }

    /// An entry was added. One that is there already is replaced, with all behind it.
    pub fn push(&mut self, index: u64, bytes: u64) {
        self.truncate(index);
        match self.spans.back_mut() {
            Some(span) if span.bytes < self.span_bytes => {
                span.last = index;
                span.bytes += bytes;
            }
            Some(_) => self.spans.push_back(Span { last: index, bytes }),
            None => {
                self.first = index;
                self.spans.push_back(Span { last: index, bytes });
            }
        }
        self.total += bytes;
    }

    /// The entries from `from` on were removed.
    pub fn truncate(&mut self, from: u64) {
        while let Some(span) = self.spans.pop_back() {
            if span.last < from {
                self.spans.push_back(span);
                return;
            }
            let first = self.spans.back().map_or(self.first, |before| before.last + 1);
            self.total -= span.bytes;
            if first < from {
                let bytes = share(span.bytes, from - first, span.last - first + 1);
                self.total += bytes;
                self.spans.push_back(Span { last: from - 1, bytes });
                return;
            }
        }
    }

    /// The entries up to `upto` were removed.
    pub fn purge(&mut self, upto: u64) {
        while let Some(span) = self.spans.pop_front() {
            let first = self.first;
            if span.last > upto {
                if first <= upto {
                    let bytes = share(span.bytes, span.last - upto, span.last - first + 1);
                    self.total -= span.bytes - bytes;
                    self.spans.push_front(Span { last: span.last, bytes });
                    self.first = upto + 1;
                } else {
                    self.spans.push_front(span);
                }
                return;
            }
            self.first = span.last + 1;
            self.total -= span.bytes;
        }
        self.first = self.first.max(upto.saturating_add(1));
    }

    /// Where to cut, so that no more than `kept` bytes are left: the last entry to go.
    pub fn beyond(&self, kept: u64) -> Option<u64> {
        let mut left = self.total;
        let mut cut = None;
        for span in &self.spans {
            if left <= kept {
                break;
            }
            left -= span.bytes;
            cut = Some(span.last);
        }
        cut
    }
}

fn share(bytes: u64, part: u64, of: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(share).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn check(weight: &LogWeight) {
        assert_eq!(weight.total, weight.spans.iter().map(|span| span.bytes).sum::<u64>());
        let lasts: Vec<_> = weight.spans.iter().map(|span| span.last).collect();
        assert!(lasts.is_sorted(), "{lasts:?}");
        assert!(lasts.first().is_none_or(|last| *last >= weight.first));
    }

    #[test]
    fn a_cut_leaves_what_is_kept_and_little_less() {
        let kept = 1024 * KIB;
        let mut weight = LogWeight::new(0, None, 0, kept);
        for index in 0..1000 {
            assert!(weight.beyond(kept).is_none() || index > 128, "{index}");
            weight.push(index, 8 * KIB);
        }
        check(&weight);
        let cut = weight.beyond(kept).expect("too much");
        assert!((871..=890).contains(&cut), "{cut}");
        weight.purge(cut);
        check(&weight);
        assert_eq!(weight.beyond(kept), None);
        assert!(weight.total > kept - 2 * SPAN_BYTES_MIN);
    }

    #[test]
    fn what_goes_at_either_end_weighs_no_more() {
        let mut weight = LogWeight::new(10, None, 0, 64 * KIB);
        for index in 10..60 {
            weight.push(index, 10 * KIB);
        }
        weight.truncate(40);
        check(&weight);
        assert_eq!(weight.total, 300 * KIB);
        weight.purge(24);
        check(&weight);
        assert_eq!(weight.total, 150 * KIB);
        weight.push(35, KIB);
        check(&weight);
        assert_eq!(weight.total, 101 * KIB);
        weight.purge(100);
        check(&weight);
        assert_eq!((weight.total, weight.first), (0, 101));
        weight.push(101, KIB);
        check(&weight);
    }

    #[test]
    fn what_is_known_of_a_log_after_a_restart_is_spread_evenly() {
        let weight = LogWeight::new(100, Some(1099), 1000 * KIB, 500 * KIB);
        check(&weight);
        assert_eq!(weight.total, 1000 * KIB);
        let cut = weight.beyond(500 * KIB).expect("too much");
        assert!((590..=680).contains(&cut), "{cut}");
        let empty = LogWeight::new(7, None, 99, KIB);
        assert_eq!((empty.total, empty.beyond(0)), (0, None));
        let one = LogWeight::new(7, Some(7), u64::MAX, KIB);
        check(&one);
        assert_eq!(one.beyond(KIB), Some(7));
        let many = LogWeight::new(0, Some(u64::MAX - 2), 1 << 40, 1 << 30);
        check(&many);
        assert!(many.spans.len() as u64 <= SPANS_MAX);
    }
}
