//! Properties of what follows from wishes, looks and outcomes, whatever their order.

use std::collections::BTreeMap;
use std::time::Duration;

use node_core::reconcile::{
    Asked, Change, Entry, Failure, Kind, Named, Pinned, Seen, Step, Unpin, Wanted, diff, failed, follow, look, marked,
    pinned, rearmed, requeued, stretch_end, unpin, unpinned,
};
use node_core::retry::RetryPolicy;
use node_core::{Cid, ErrorClass, PinMode, Status, Timestamp};
use proptest::prelude::*;

const LOOK_AFTER: Duration = Duration::from_secs(10);

fn cid(n: u16) -> Cid {
    // An identity multihash of four bytes: its order is that of the number.
    let [high, low] = n.to_be_bytes();
    Cid::from_bytes(&[1, 0x55, 0, 4, 0, 0, high, low]).expect("a CID")
}

fn mode() -> impl Strategy<Value = PinMode> {
    prop_oneof![3 => Just(PinMode::Recursive), 1 => Just(PinMode::Direct)]
}

fn wanted(mode: PinMode, revision: u64) -> Wanted {
    Wanted {
        mode,
        revision,
        origins: Vec::new(),
        updated_from: None,
    }
}

fn class() -> impl Strategy<Value = ErrorClass> {
    (0..ErrorClass::ALL.len()).prop_map(|place| ErrorClass::ALL[place])
}

/// Any entry that could have been stored, sensible or not.
fn entry() -> impl Strategy<Value = Entry> {
    let states: Vec<Status> = Status::ALL
        .into_iter()
        .filter(|status| Entry::can_store(*status))
        .collect();
    let facts = (any::<bool>(), prop::option::of(mode()), any::<bool>(), any::<bool>());
    let counts = (
        0..5u32,
        0..4u64,
        prop::option::of(0..9_000u64),
        prop::option::of(class()),
    );
    (prop::sample::select(states), mode(), facts, counts).prop_map(
        |(status, mode, (ours, found, look_again, hints), (attempts, revision, first_failed, class))| Entry {
            status,
            ours,
            found,
            look_again,
            hints,
            attempts,
            first_failed: first_failed.map(Timestamp::from_millis),
            class,
            ..Entry::queued(mode, revision, Timestamp::from_millis(1_000))
        },
    )
}

fn wish() -> impl Strategy<Value = Option<Wanted>> {
    prop::option::of(
        (mode(), 0..4u64, any::<bool>()).prop_map(|(mode, revision, hints)| Wanted {
            origins: if hints {
                vec!["/ip4/192.0.2.1".into()]
            } else {
                Vec::new()
            },
            ..wanted(mode, revision)
        }),
    )
}

fn apply(change: Change, old: Option<Entry>) -> Option<Entry> {
    match change {
        Change::Keep => old,
        Change::Put(entry) => Some(entry),
        Change::Delete => None,
    }
}

/// One pin of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    mode: PinMode,
    /// Under our name; without it it was made by hand.
    named: bool,
}

/// A daemon, as far as one CID goes. It knows of pins that it must keep.
#[derive(Debug, Clone, Default)]
struct Daemon {
    held: Option<Held>,
    /// What a person pinned and nobody took away.
    by_hand: Option<PinMode>,
}

impl Daemon {
    fn add(&mut self, mode: PinMode, named: bool) -> PinMode {
        match self.held {
            // Kubo refuses that, which is as good.
            Some(Held {
                mode: PinMode::Recursive,
                ..
            }) if mode == PinMode::Direct => PinMode::Recursive,
            _ => {
                self.held = Some(Held { mode, named });
                mode
            }
        }
    }

    fn seen(&self) -> Option<Seen> {
        self.held.map(|Held { mode, named }| Seen {
            mode,
            named: if named { Named::Ours } else { Named::Another },
        })
    }
}

/// What is done to the machine.
#[derive(Debug, Clone)]
enum Event {
    Follow(Option<PinMode>),
    /// A try that ends well, having looked and acted, unless it is cut off after so many steps.
    Try {
        cut_after: Option<u8>,
    },
    Fail(ErrorClass),
    /// A try at an entry of before: the wish changes between look and outcome.
    Overtaken(Option<PinMode>),
    Rearm(Vec<Status>),
    /// Another daemon, empty, or one with a pin made by hand.
    Replaced(Option<PinMode>),
    /// A person pins it, whatever we are doing to it.
    PinnedByHand(PinMode),
    /// A person unpins whatever is there.
    Emptied,
    /// An audit that finds the node empty-handed, or not.
    Audit,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let states: Vec<Status> = Status::ALL.to_vec();
    prop_oneof![
        4 => prop::option::of(mode()).prop_map(Event::Follow),
        6 => prop::option::of(0..4u8).prop_map(|cut_after| Event::Try { cut_after }),
        2 => class().prop_map(Event::Fail),
        3 => prop::option::of(mode()).prop_map(Event::Overtaken),
        1 => prop::sample::subsequence(states, 0..4).prop_map(Event::Rearm),
        1 => prop::option::of(mode()).prop_map(Event::Replaced),
        2 => mode().prop_map(Event::PinnedByHand),
        1 => Just(Event::Emptied),
        1 => Just(Event::Audit),
        3 => (0..20_000u64).prop_map(Event::Wait),
    ]
}

#[derive(Debug, Default)]
struct Machine {
    now: u64,
    revision: u64,
    wanted: Option<Wanted>,
    entry: Option<Entry>,
    daemon: Daemon,
    /// The node was seen to hold it, or said so, since the entry was last reset.
    attested: bool,
}

impl Machine {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn follow(&mut self, mode: Option<PinMode>) {
        self.revision += 1;
        self.wanted = mode.map(|mode| wanted(mode, self.revision));
        let before = self.entry.take();
        let change = follow(self.wanted.as_ref(), before.as_ref(), self.now());
        self.entry = apply(change, before);
        self.reset_unless_pinned();
    }

    fn reset_unless_pinned(&mut self) {
        if self.entry.as_ref().is_none_or(|entry| entry.status != Status::Pinned) {
            self.attested = false;
        }
    }

    /// What the worker does, with the wish changing to `overtaken` before the outcome is written.
    fn attempt(&mut self, cut_after: Option<u8>, overtaken: Option<Option<PinMode>>) {
        let Some(entry) = self.entry.clone().filter(|entry| entry.lane().is_some()) else {
            return;
        };
        if entry.next_due > self.now() {
            return;
        }
        let is_cut = |step: u8| cut_after.is_some_and(|after| step > after);
        if entry.wants(Kind::Unpin) {
            match unpin(&entry, self.daemon.seen()) {
                Unpin::Nothing => {}
                Unpin::Remove => self.daemon.held = None,
                Unpin::BackToDirect { remove } => {
                    if remove {
                        self.daemon.held = None;
                    }
                    self.daemon.add(PinMode::Direct, false);
                }
            }
            if is_cut(0) {
                return;
            }
            if let Some(mode) = overtaken {
                self.follow(mode);
            }
            let before = self.entry.take();
            let change = before
                .as_ref()
                .map_or(Change::Keep, |old| unpinned(old, self.now(), LOOK_AFTER));
            self.entry = apply(change, before);
            return self.reset_unless_pinned();
        }
        let looked = look(&entry, self.daemon.seen());
        if is_cut(0) {
            return;
        }
        let mut found = looked.found;
        let mut ours = looked.ours;
        if looked.step != Step::Nothing {
            if !entry.ours || entry.found != found {
                self.entry = self.entry.take().and_then(|old| apply(marked(&old, found), Some(old)));
            }
            if is_cut(1) {
                return;
            }
            if looked.step == Step::Shrink {
                self.daemon.held = None;
            }
            if is_cut(2) {
                return;
            }
            let held = self.daemon.add(entry.mode, looked.under_our_name);
            let by_hand = !looked.ours && entry.mode == PinMode::Direct && held == PinMode::Recursive;
            if by_hand {
                found = Some(PinMode::Recursive);
            }
            ours = !by_hand;
            if is_cut(3) {
                return;
            }
        }
        if let Some(mode) = overtaken {
            self.follow(mode);
        }
        let outcome = Pinned {
            mode: entry.mode,
            found,
            ours,
            blocks: 1,
            bytes: 1,
        };
        let before = self.entry.take();
        let change = before
            .as_ref()
            .map_or(Change::Keep, |old| pinned(old, outcome, self.now(), LOOK_AFTER));
        self.entry = apply(change, before);
        self.attested |= self.entry.as_ref().is_some_and(|entry| entry.status == Status::Pinned);
    }

    fn fail(&mut self, class: ErrorClass) {
        let Some(entry) = self.entry.take() else { return };
        let kind = if entry.wants(Kind::Unpin) {
            Kind::Unpin
        } else {
            Kind::Pin
        };
        let failure = Failure {
            kind,
            class,
            message: "no".into(),
            blocks: 0,
            bytes: 0,
        };
        let change = failed(&entry, &failure, &RetryPolicy::default(), self.now(), self.now);
        self.entry = apply(change, Some(entry));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Follow(mode) => self.follow(mode),
            Event::Try { cut_after } => self.attempt(cut_after, None),
            Event::Overtaken(mode) => self.attempt(None, Some(mode)),
            Event::Fail(class) => self.fail(class),
            Event::Rearm(statuses) => {
                let asked = Asked { statuses, class: None };
                let next = self.entry.as_ref().and_then(|old| rearmed(old, &asked, self.now()));
                self.entry = next.or(self.entry.take());
            }
            Event::Replaced(by_hand) => {
                self.daemon = Daemon {
                    held: by_hand.map(|mode| Held { mode, named: false }),
                    by_hand,
                };
                self.entry = self.entry.take().map(|old| requeued(&old, self.now()));
                self.attested = false;
            }
            Event::PinnedByHand(mode) => {
                // A name of before is taken off, and a recursive pin is not made a direct one.
                if self.daemon.add(mode, false) == mode {
                    self.daemon.by_hand = Some(mode);
                }
            }
            Event::Emptied => self.daemon = Daemon::default(),
            Event::Audit => {
                let pinned = self.entry.as_ref().filter(|entry| entry.status == Status::Pinned);
                if let Some(entry) = pinned
                    && self.daemon.held.is_none_or(|held| held.mode > entry.mode)
                {
                    self.entry = Some(requeued(entry, self.now()));
                    self.attested = false;
                }
            }
            Event::Wait(millis) => self.now += millis,
        }
    }

    fn check(&self) {
        let status = self.entry.as_ref().map(|entry| entry.status);
        if status == Some(Status::Pinned) {
            assert!(self.attested, "claims pinned without a try that went well: {self:?}");
        }
        match &self.wanted {
            Some(wanted) => {
                let entry = self.entry.as_ref().expect("what is wanted is known");
                assert_eq!((entry.mode, entry.revision), (wanted.mode, wanted.revision));
                let is_due = matches!(entry.status, Status::Queued | Status::Retrying);
                assert!(
                    is_due || matches!(entry.status, Status::Pinned | Status::GaveUp),
                    "{self:?}"
                );
            }
            None => assert!(matches!(status, None | Some(Status::Unpinning)), "{self:?}"),
        }
        // What a person pinned is there, at least as much of it.
        if let Some(by_hand) = self.daemon.by_hand
            && self.daemon.held.is_none_or(|held| held.mode > by_hand)
        {
            // Made more of by us and shrunk again, and cut off in between: remembered, and brought back by the next try.
            let entry = self.entry.as_ref().expect("a pin made by hand is never removed");
            assert!(entry.ours && entry.found == Some(by_hand), "{self:?}");
            assert!(entry.status != Status::Pinned, "{self:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn following_twice_is_following_once(wish in wish(), old in prop::option::of(entry())) {
        let now = Timestamp::from_millis(50_000);
        let once = apply(follow(wish.as_ref(), old.as_ref(), now), old);
        let later = now.plus(Duration::from_secs(9));
        prop_assert_eq!(follow(wish.as_ref(), once.as_ref(), later), Change::Keep);
    }

    #[test]
    fn an_entry_that_is_not_ours_leads_to_nothing_but_our_own_name(old in entry()) {
        let old = Entry { ours: false, ..old };
        for mode in [PinMode::Recursive, PinMode::Direct] {
            for (named, what) in [
                (Named::Ours, Unpin::Remove), (Named::Another, Unpin::Nothing), (Named::Untold, Unpin::Nothing),
            ] {
                prop_assert_eq!(unpin(&old, Some(Seen { mode, named })), what);
            }
        }
        if old.status != Status::Unpinning {
            prop_assert_eq!(follow(None, Some(&old), Timestamp::ZERO), Change::Delete);
        }
    }

    #[test]
    fn whatever_happens_in_whatever_order(
        by_hand in prop::option::of(mode()), events in prop::collection::vec(event(), 1..60)
    ) {
        let mut machine = Machine {
            daemon: Daemon { held: by_hand.map(|mode| Held { mode, named: false }), by_hand },
            ..Machine::default()
        };
        for event in events {
            machine.happens(event);
            machine.check();
        }
        // Left alone, it comes to rest with what is wanted, and nothing of ours is left of what is not.
        for _ in 0..8 {
            machine.now += 60 * 60 * 24 * 1_000;
            let statuses = Status::ALL.to_vec();
            machine.happens(Event::Rearm(statuses));
            machine.happens(Event::Audit);
            machine.attempt(None, None);
            machine.check();
        }
        match &machine.wanted {
            Some(wanted) => {
                prop_assert_eq!(machine.entry.as_ref().map(|entry| entry.status), Some(Status::Pinned));
                prop_assert!(machine.daemon.held.is_some_and(|held| held.mode <= wanted.mode));
            }
            None => {
                prop_assert!(machine.entry.is_none());
                prop_assert!(machine.daemon.held.is_none_or(|held| !held.named), "{machine:?}");
            }
        }
        if let Some(by_hand) = machine.daemon.by_hand {
            prop_assert!(machine.daemon.held.is_some_and(|held| held.mode <= by_hand), "{machine:?}");
        }
    }

    #[test]
    fn comparing_two_sides_finds_what_differs(
        wishes in prop::collection::btree_map(0..60u16, (mode(), 0..3u64), 0..40),
        known in prop::collection::btree_map(0..60u16, entry(), 0..40),
    ) {
        let now = Timestamp::from_millis(50_000);
        let wishes: BTreeMap<Cid, Wanted> =
            wishes.into_iter().map(|(n, (mode, revision))| (cid(n), wanted(mode, revision))).collect();
        let known: BTreeMap<Cid, Entry> = known.into_iter().map(|(n, entry)| (cid(n), entry)).collect();
        let mut naive = Vec::new();
        for n in 0..60 {
            let cid = cid(n);
            if follow(wishes.get(&cid), known.get(&cid), now) != Change::Keep {
                naive.push((cid, wishes.get(&cid).cloned()));
            }
        }
        let found = diff(wishes.clone(), known.clone(), now);
        prop_assert_eq!(&found, &naive);
        // Every CID of one side only is among them, but for what is being let go of already.
        for cid in wishes.keys().filter(|cid| !known.contains_key(*cid)) {
            prop_assert!(found.iter().any(|(found, wish)| found == cid && wish.is_some()));
        }
        for (cid, entry) in known.iter().filter(|(cid, _)| !wishes.contains_key(*cid)) {
            let expected = entry.status != Status::Unpinning;
            prop_assert_eq!(found.iter().any(|(found, wish)| found == cid && wish.is_none()), expected);
        }
    }

    #[test]
    fn comparing_by_pages_is_comparing_at_once(
        wishes in prop::collection::btree_set(0..60u16, 0..40),
        known in prop::collection::btree_map(0..60u16, entry(), 0..40),
        limit in 1..7usize,
    ) {
        let now = Timestamp::from_millis(50_000);
        let wishes: Vec<(Cid, Wanted)> =
            wishes.into_iter().map(|n| (cid(n), wanted(PinMode::Recursive, 1))).collect();
        let known: Vec<(Cid, Entry)> = known.into_iter().map(|(n, entry)| (cid(n), entry)).collect();
        let whole = diff(wishes.clone(), known.clone(), now);
        let mut by_pages = Vec::new();
        let mut after: Option<Cid> = None;
        loop {
            let left: Vec<_> =
                wishes.iter().filter(|(cid, _)| after.is_none_or(|after| *cid > after)).take(limit).cloned().collect();
            let right: Vec<_> =
                known.iter().filter(|(cid, _)| after.is_none_or(|after| *cid > after)).take(limit).cloned().collect();
            let lasts = [left.last().map(|(cid, _)| *cid), right.last().map(|(cid, _)| *cid)];
            let end = stretch_end(limit, [(left.len(), lasts[0]), (right.len(), lasts[1])]);
            let within = |cid: &Cid| end.is_none_or(|end| *cid <= end);
            by_pages.extend(diff(
                left.into_iter().filter(|(cid, _)| within(cid)),
                right.into_iter().filter(|(cid, _)| within(cid)),
                now,
            ));
            if end.is_none() {
                break;
            }
            after = end;
        }
        prop_assert_eq!(by_pages, whole);
    }
}
