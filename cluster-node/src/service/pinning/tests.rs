//! Whatever the filter and the size of pages: pages are the list, and pins that arrive between them change nothing.

use std::collections::BTreeSet;

use node_core::command::{CommandBatch, OpResult};
use node_core::pinset::{Effects, MemoryKv};
use node_core::{Cid, Created, PinningStatus, Replication, Timestamp};
use proptest::prelude::*;

use super::find::{Finder, Step};
use super::*;

fn cid(number: u16) -> Cid {
    let mut bytes = vec![0x01, 0x55, 0x12, 0x20];
    // Not in the order of the numbers.
    bytes.extend([u8::try_from(number % 251).unwrap(); 16]);
    bytes.extend(number.to_be_bytes().repeat(8));
    Cid::from_bytes(&bytes).expect("valid")
}

fn slot(number: u16) -> String {
    format!("00000000-0000-4000-8000-00000000{number:04x}")
}

#[derive(Default)]
struct State {
    kv: MemoryKv,
    index: u64,
}

impl State {
    /// Pins of one entry, all of one millisecond.
    fn pin(&mut self, time: u64, pins: Vec<(PinKey, PinOptions)>) {
        self.index += 1;
        let request = |(key, options): (PinKey, PinOptions)| Request {
            id: None,
            op: Op::PutPin {
                key,
                options: PinOptions {
                    replication: Replication::EVERYWHERE,
                    ..options
                },
                plan: Plan::default(),
                from: None,
                unpin_from: false,
                created: None,
            },
        };
        let batch = CommandBatch {
            time: Timestamp::from_millis(time),
            requests: pins.into_iter().map(request).collect(),
        };
        let results = pinset::apply(&mut self.kv, self.index, &batch, &mut Effects::default()).expect("in memory");
        assert!(
            results.iter().all(|result| matches!(result, OpResult::Pinned(_))),
            "{results:?}"
        );
    }

    /// Everything that a filter finds, page by page as a client asks for it: behind the oldest of the page before.
    fn pages(&self, filter: &PinningFilter, limit: usize) -> Vec<Pin> {
        let (mut found, mut filter) = (Vec::new(), filter.clone());
        loop {
            let mut finder = Finder::new(&self.kv, filter.clone()).expect("in memory");
            let mut page = Vec::new();
            while page.len() < limit && !finder.has_ended() {
                let Step { pins, .. } = finder.step(&self.kv, 3).expect("in memory");
                page.extend(pins);
            }
            page.truncate(limit);
            let Some(last) = page.last() else { return found };
            filter.before = Some(last.created());
            found.extend(page);
        }
    }

    fn all(&self, namespace: &Namespace) -> Vec<Pin> {
        let mut pins = Vec::new();
        self.kv
            .scan(pinset::Table::Pins, &[], None, &mut |key, value| {
                let key = pinset::keys::read_pin(key).expect("a key");
                pins.push(pinset::decode_pin(key, value).expect("a pin"));
                true
            })
            .expect("in memory");
        pins.retain(|pin| pin.key.namespace == *namespace);
        pins.sort_unstable_by_key(|pin| std::cmp::Reverse(pin.created()));
        pins
    }
}

fn key(namespace: &str, number: u16, slot: String) -> PinKey {
    PinKey {
        namespace: Namespace::new(namespace).expect("valid"),
        cid: cid(number),
        slot,
    }
}

/// Pins of two namespaces, several of one CID and several of one millisecond.
fn filled() -> State {
    let mut state = State::default();
    for number in 0..120_u16 {
        let options = PinOptions {
            name: ["", "Site", "site", "my site", "SITEMAP"][usize::from(number % 5)].into(),
            metadata: BTreeMap::from([
                ("app".into(), format!("{}", number % 3)),
                ("kind".into(), if number % 2 == 0 { "x" } else { "y" }.into()),
            ]),
            ..PinOptions::default()
        };
        let namespace = if number % 7 == 0 { "other" } else { "" };
        let at = if number % 11 == 0 { String::new() } else { slot(number) };
        state.pin(
            1_000 + u64::from(number / 8),
            vec![(key(namespace, number % 40, at), options)],
        );
    }
    state
}

fn filters() -> impl Strategy<Value = PinningFilter> {
    let name = prop::option::of((
        prop::sample::select(&Match::ALL[..]),
        prop::sample::select(vec!["", "site", "Site", "IT", "map", "none"]),
    ));
    let pair = |key: &'static str, values: &'static [&'static str]| {
        prop::option::of(prop::sample::select(values)).prop_map(move |value| Some((key.to_owned(), value?.to_owned())))
    };
    let moment = || {
        prop::option::of((1_000..1_016_u64, 0..8_u32)).prop_map(|at| {
            at.map(|(at, ordinal)| Created {
                at: Timestamp::from_millis(at),
                ordinal,
            })
        })
    };
    let cids = prop::collection::vec(0..45_u16, 0..4);
    (
        name,
        pair("app", &["0", "1", "9"]),
        pair("kind", &["x", "y"]),
        moment(),
        moment(),
        cids,
        any::<bool>(),
    )
        .prop_map(|(name, app, kind, before, after, cids, other)| PinningFilter {
            name: name.map(|(kind, text)| NameFilter::new(kind, text)),
            metadata: app.into_iter().chain(kind).collect(),
            before,
            after,
            cids: cids.into_iter().map(cid).collect(),
            ..PinningFilter::of(Namespace::new(if other { "other" } else { "" }).expect("valid"))
        })
}

#[test]
fn names_match_as_the_api_says() {
    for (kind, text, fits) in [
        (Match::Exact, "Site", &["Site"][..]),
        (Match::IExact, "sITE", &["Site", "SITE"]),
        (Match::Partial, "Si", &["Site", "My SitE"]),
        (Match::IPartial, "IT", &["Site", "SITE", "My SitE"]),
        (Match::Partial, "", &["", "Site", "SITE", "My SitE", "Übung"]),
        (Match::IExact, "übung", &["Übung"]),
    ] {
        let filter = NameFilter::new(kind, text);
        for name in ["", "Site", "SITE", "My SitE", "Übung"] {
            assert_eq!(
                filter.wants(name),
                fits.contains(&name),
                "{} {text:?} {name:?}",
                kind.as_str()
            );
        }
    }
    for kind in Match::ALL {
        assert_eq!(Match::parse(kind.as_str()), Some(kind));
    }
}

#[test]
fn pins_that_arrive_between_pages_are_neither_missed_nor_doubled() {
    let mut state = State::default();
    let add = |state: &mut State, from: u16, count: u16| {
        let pins = (from..from + count).map(|number| (key("", number, slot(number)), PinOptions::default()));
        // All of one millisecond.
        state.pin(5_000, pins.collect());
    };
    add(&mut state, 0, 5_000);
    let mut filter = PinningFilter::of(Namespace::default());
    let (mut seen, mut next) = (Vec::new(), 5_000);
    loop {
        let mut finder = Finder::new(&state.kv, filter.clone()).expect("in memory");
        let page = finder.step(&state.kv, 100).expect("in memory").pins;
        let Some(last) = page.last() else { break };
        filter.before = Some(last.created());
        seen.extend(page.into_iter().map(|pin| pin.key.cid));
        add(&mut state, next, 20);
        next += 20;
    }
    let expected: Vec<Cid> = (0..5_000).rev().map(cid).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_walk_knows_where_it_is_and_what_is_left() {
    let state = filled();
    let mut finder = Finder::new(&state.kv, PinningFilter::of(Namespace::default())).expect("in memory");
    let all = state.all(&Namespace::default());
    assert_eq!(finder.reached(), None);
    assert_eq!(finder.count_left(&state.kv, 1_000), Ok(Some(all.len())));
    assert_eq!(finder.count_left(&state.kv, 5), Ok(None), "more than may be counted");
    let step = finder.step(&state.kv, 10).expect("in memory");
    assert_eq!(finder.reached(), step.pins.last().map(Pin::created));
    assert_eq!(finder.count_left(&state.kv, 1_000), Ok(Some(all.len() - 10)));
    finder.step(&state.kv, 1_000).expect("in memory");
    assert!(finder.has_ended());
    assert_eq!(finder.count_left(&state.kv, 1_000), Ok(Some(0)));

    // Rows do not tell what is not in their keys.
    for (name, metadata, told) in [
        (Some((Match::Exact, "site")), None, true),
        (Some((Match::Partial, "site")), None, false),
        (Some((Match::Exact, "")), None, false),
        (None, Some("0"), true),
        (Some((Match::Exact, "site")), Some("0"), false),
    ] {
        let filter = PinningFilter {
            name: name.map(|(kind, text)| NameFilter::new(kind, text)),
            metadata: metadata
                .map(|value| ("app".to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            ..PinningFilter::of(Namespace::default())
        };
        let expected = all.iter().filter(|pin| filter.wants(pin)).count();
        let finder = Finder::new(&state.kv, filter.clone()).expect("in memory");
        let count = finder.count_left(&state.kv, 1_000).expect("in memory");
        assert_eq!(count, told.then_some(expected), "{name:?} {metadata:?}");
        let asks = PinningFilter {
            statuses: vec![PinningStatus::Pinned],
            ..filter
        };
        let finder = Finder::new(&state.kv, asks).expect("in memory");
        assert_eq!(finder.count_left(&state.kv, 1_000), Ok(None));
    }
}

proptest! {
    #[test]
    fn pages_are_the_list(filter in filters(), limit in 1..9_usize) {
        thread_local!(static STATE: State = filled());
        STATE.with(|state| {
            let mut expected = state.all(&filter.namespace);
            expected.retain(|pin| filter.wants(pin));
            let found = state.pages(&filter, limit);
            prop_assert_eq!(&found, &expected);
            let moments: BTreeSet<Created> = found.iter().map(Pin::created).collect();
            prop_assert_eq!(moments.len(), found.len());
            Ok(())
        })?;
    }
}
