//! Whatever the filter, the limit and the place of the cut: a list that is resumed is the list.

use node_core::command::{CommandBatch, NewPeer, Op, OpResult, Plan, Request};
use node_core::pinset::{Effects, MemoryKv, Settings};
use node_core::{NodeState, PinOptions, Replication, StorageNode};

use super::*;

const PEER: &str = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";

fn cid(number: u8) -> Cid {
    let mut bytes = vec![0x01, 0x55, 0x12, 0x20];
    bytes.extend([number; 32]);
    Cid::from_bytes(&bytes).expect("valid")
}

fn key(namespace: &str, number: u8, slot: &str) -> PinKey {
    PinKey {
        namespace: Namespace::new(namespace).expect("valid"),
        cid: cid(number),
        slot: slot.into(),
    }
}

struct State {
    kv: MemoryKv,
    index: u64,
}

impl State {
    fn new() -> Self {
        let mut state = Self {
            kv: MemoryKv::default(),
            index: 0,
        };
        let peer = PEER.parse().expect("valid");
        state.one(
            1,
            Op::InitCluster {
                cluster_id: "test".into(),
                settings: Settings::default(),
                peer: NewPeer {
                    id: peer,
                    name: "peer-1".into(),
                    addresses: Vec::new(),
                    api_address: String::new(),
                    version: String::new(),
                },
            },
        );
        for number in 1..=2 {
            let node = StorageNode {
                id: NodeId(0),
                name: format!("node-{number}"),
                peer,
                kind: "kubo".into(),
                api: "http://127.0.0.1:5001".into(),
                tags: BTreeMap::new(),
                weight: 1.0,
                state: NodeState::Active,
                auth_file: String::new(),
            };
            state.one(1, Op::PutNode { node });
        }
        state
    }

    fn one(&mut self, time: u64, op: Op) {
        self.index += 1;
        let batch = CommandBatch {
            time: Timestamp::from_millis(time),
            requests: vec![Request { id: None, op }],
        };
        let results = pinset::apply(&mut self.kv, self.index, &batch, &mut Effects::default()).expect("in memory");
        assert!(!matches!(results[0], OpResult::Refused(_)), "{results:?}");
    }

    fn pin(&mut self, time: u64, key: PinKey, options: PinOptions, nodes: &[u32]) {
        let old = pinset::placement(&self.kv, &key.cid).expect("in memory");
        let plan = Plan {
            based_on: old.map_or(0, |old| old.revision),
            nodes: nodes.iter().copied().map(NodeId).collect(),
            unplaced: nodes.is_empty().then(|| "none can".into()),
        };
        let op = Op::PutPin {
            key,
            options,
            plan,
            from: None,
            unpin_from: false,
            created: None,
        };
        self.one(time, op);
    }

    /// A pinset with several pins a CID, in several namespaces and slots, some unplaced, some everywhere.
    fn filled() -> Self {
        let mut state = Self::new();
        for number in 0..40_u8 {
            for (at, namespace) in ["a", "default", "team-b", "z9"].into_iter().enumerate() {
                for slot in ["", "second"] {
                    if (number as usize + at).is_multiple_of(3) || (slot == "second" && number % 4 != 0) {
                        continue;
                    }
                    let everywhere = number % 7 == 0;
                    let nodes: &[u32] = match number % 5 {
                        _ if everywhere => &[],
                        0 => &[],
                        1 => &[1],
                        2 => &[2],
                        _ => &[1, 2],
                    };
                    let min = if nodes.is_empty() { 1 } else { nodes.len() as i32 };
                    let options = PinOptions {
                        name: format!("{}-{number}", if number % 2 == 0 { "even" } else { "odd" }),
                        metadata: BTreeMap::from([
                            ("owner".into(), if number % 3 == 0 { "ann" } else { "bob" }.into()),
                            ("kind".into(), "x".into()),
                        ]),
                        replication: if everywhere {
                            Replication::EVERYWHERE
                        } else {
                            Replication { min, max: min }
                        },
                        expire_at: (number % 2 == 1).then(|| Timestamp::from_millis(1_000_000 + u64::from(number))),
                        ..PinOptions::default()
                    };
                    let time = 1_000 + u64::from(number) * 10;
                    state.pin(time, key(namespace, number, slot), options, nodes);
                }
            }
        }
        state
    }

    /// Every chunk of a list.
    fn chunks(&self, request: &ListRequest) -> Vec<ListChunk> {
        let mut chunks = Vec::new();
        list(&self.kv, request, &mut |chunk| {
            chunks.push(chunk);
            true
        })
        .expect("a list");
        chunks
    }

    fn all(&self, filter: &PinFilter) -> Vec<PinKey> {
        let request = ListRequest {
            filter: filter.clone(),
            ..ListRequest::default()
        };
        keys_of(&self.chunks(&request))
    }

    /// What must be found, from a scan of everything.
    fn expected(&self, filter: &PinFilter) -> Vec<PinKey> {
        let mut found = Vec::new();
        // Not the scan of lists, which ends after some bytes.
        let read = self.kv.scan(Table::Pins, &[], None, &mut |key, value| {
            let key = keys::read_pin(key).expect("a key");
            let pin = pinset::decode_pin(key.clone(), value).expect("a pin");
            let placement = pinset::placement(&self.kv, &key.cid).expect("in memory");
            if filter.wants(&pin, placement.as_ref()) && (filter.cids.is_empty() || filter.cids.contains(&key.cid)) {
                found.push(key);
            }
            true
        });
        read.expect("in memory");
        found
    }
}

fn keys_of(chunks: &[ListChunk]) -> Vec<PinKey> {
    let pins = chunks.iter().flat_map(|chunk| &chunk.pins);
    pins.map(|view| view.pin.key.clone()).collect()
}

/// Every index, with and without a namespace.
fn filters() -> Vec<PinFilter> {
    let base = [
        PinFilter::default(),
        PinFilter {
            name_prefix: "even-1".into(),
            ..PinFilter::default()
        },
        PinFilter {
            metadata: BTreeMap::from([("owner".into(), "ann".into()), ("kind".into(), "x".into())]),
            ..PinFilter::default()
        },
        PinFilter {
            node: Some(NodeId(1)),
            ..PinFilter::default()
        },
        PinFilter {
            created_after: Some(Timestamp::from_millis(1_050)),
            created_before: Some(Timestamp::from_millis(1_250)),
            ..PinFilter::default()
        },
        PinFilter {
            created_after: Some(Timestamp::from_millis(1_300)),
            ..PinFilter::default()
        },
        PinFilter {
            expires_before: Some(Timestamp::from_millis(1_000_020)),
            ..PinFilter::default()
        },
        PinFilter {
            unplaced: true,
            ..PinFilter::default()
        },
        PinFilter {
            cids: (5..20).map(cid).chain([cid(200)]).collect(),
            ..PinFilter::default()
        },
        PinFilter {
            node: Some(NodeId(2)),
            name_prefix: "odd".into(),
            ..PinFilter::default()
        },
    ];
    let with_namespace = base.clone().into_iter().map(|filter| PinFilter {
        namespace: Some(Namespace::new("team-b").expect("valid")),
        ..filter
    });
    base.iter().cloned().chain(with_namespace).collect()
}

#[test]
fn every_filter_finds_what_a_scan_finds() {
    let state = State::filled();
    for filter in filters() {
        let (mut found, expected) = (state.all(&filter), state.expected(&filter));
        found.sort();
        assert_eq!(found, expected, "{filter:?}");
        assert!(!found.is_empty(), "{filter:?} proves nothing");
    }
}

#[test]
fn a_list_that_is_cut_anywhere_goes_on_there() {
    let state = State::filled();
    for filter in filters() {
        let whole = state.all(&filter);
        for limit in [1, 2, 3, 7] {
            let mut pieces = Vec::new();
            let mut cursor = String::new();
            loop {
                let request = ListRequest {
                    filter: filter.clone(),
                    limit,
                    cursor: cursor.clone(),
                };
                let chunks = state.chunks(&request);
                let piece = keys_of(&chunks);
                assert!(piece.len() <= limit as usize);
                cursor.clone_from(&chunks.last().expect("at least one chunk").cursor);
                if piece.is_empty() {
                    break;
                }
                pieces.extend(piece);
            }
            assert_eq!(pieces, whole, "{limit} at a time of {filter:?}");
        }
    }
}

#[test]
fn a_list_goes_on_behind_any_pin_of_a_chunk() {
    let state = State::filled();
    for filter in filters() {
        let whole = state.all(&filter);
        let mut request = ListRequest {
            filter,
            ..ListRequest::default()
        };
        let chunks = state.chunks(&request);
        let cursors: Vec<_> = chunks
            .iter()
            .flat_map(|chunk| (0..chunk.pins.len()).map(|at| chunk.cursor_behind(at)))
            .collect();
        for (at, cursor) in cursors.into_iter().enumerate() {
            let walk = Walk::of(&request.filter);
            assert_eq!(walk.cid_at(&cursor), Some(whole[at].cid));
            request.cursor = cursor;
            assert_eq!(keys_of(&state.chunks(&request)), whole[at + 1..]);
        }
    }
}

/// A cursor's CID, or its pin, may be gone when it is used.
#[test]
fn what_is_removed_meanwhile_costs_nobody_else() {
    let mut state = State::filled();
    let filter = PinFilter {
        node: Some(NodeId(1)),
        ..PinFilter::default()
    };
    let whole = state.all(&filter);
    let at = whole
        .iter()
        .position(|key| !key.slot.is_empty())
        .expect("a second slot");
    let request = ListRequest {
        filter,
        limit: at as u64,
        ..ListRequest::default()
    };
    let cursor = state.chunks(&request).last().expect("a chunk").cursor.clone();
    let cut = whole[at - 1].cid;
    for key in whole.iter().filter(|key| key.cid == cut) {
        state.one(9_000, Op::RemovePin { key: key.clone() });
    }
    let request = ListRequest {
        limit: 0,
        cursor,
        ..request
    };
    let expected: Vec<_> = whole[at..].iter().filter(|key| key.cid != cut).cloned().collect();
    assert_eq!(keys_of(&state.chunks(&request)), expected);
}

#[test]
fn chunks_are_bounded_by_count_and_by_bytes_and_an_empty_list_has_a_revision() {
    let mut state = State::new();
    let nothing = state.chunks(&ListRequest::default());
    assert_eq!((nothing.len(), nothing[0].pins.len()), (1, 0));
    assert_eq!(
        nothing[0].revision,
        pinset::header(&state.kv).expect("in memory").revision
    );

    // One CID that many want: no index by CID may put all of them into one chunk.
    let one = |_: u32| PinOptions {
        replication: Replication { min: 1, max: 1 },
        ..PinOptions::default()
    };
    for slot in 0..1_100 {
        state.pin(1, key("a", 1, &format!("{slot:04}")), one(slot), &[1]);
    }
    for filter in [
        PinFilter {
            node: Some(NodeId(1)),
            ..PinFilter::default()
        },
        PinFilter {
            cids: vec![cid(1)],
            ..PinFilter::default()
        },
        PinFilter::default(),
    ] {
        let chunks = state.chunks(&ListRequest {
            filter,
            ..ListRequest::default()
        });
        assert_eq!(keys_of(&chunks).len(), 1_100);
        assert!(chunks.iter().all(|chunk| chunk.pins.len() <= LIST_CHUNK));
    }

    let mut state = State::new();
    for number in 0..120 {
        let options = PinOptions {
            metadata: (0..7).map(|at| (at.to_string(), "x".repeat(4_000))).collect(),
            ..one(0)
        };
        state.pin(1, key("a", number, ""), options, &[1]);
    }
    for filter in [
        PinFilter::default(),
        PinFilter {
            node: Some(NodeId(1)),
            ..PinFilter::default()
        },
        PinFilter {
            created_after: Some(Timestamp::ZERO),
            ..PinFilter::default()
        },
    ] {
        let chunks = state.chunks(&ListRequest {
            filter,
            ..ListRequest::default()
        });
        assert_eq!(keys_of(&chunks).len(), 120);
        assert!(chunks.len() >= 3, "{} chunks of 3.4 MB in all", chunks.len());
        let bytes = |chunk: &ListChunk| chunk.pins.iter().map(size_of).sum::<usize>();
        assert!(chunks.iter().all(|chunk| bytes(chunk) < 2 * LIST_CHUNK_BYTES));
    }
}

/// Without a namespace an index by namespace is walked through, whatever lies between.
#[test]
fn an_index_is_walked_from_namespace_to_namespace() {
    let mut state = State::new();
    let one = |name: &str| PinOptions {
        name: name.into(),
        replication: Replication { min: 1, max: 1 },
        ..PinOptions::default()
    };
    // More namespaces without a match than are passed over in one go.
    for number in 0..2_100 {
        // Few pins a CID: planning reads all pins of one.
        let cid = (number % 200) as u8;
        state.pin(1, key(&format!("n{number:04}"), cid, ""), one("other"), &[1]);
    }
    state.pin(1, key("n0500", 250, ""), one("wanted"), &[1]);
    state.pin(1, key("n2099", 250, ""), one("wanted too"), &[1]);
    let filter = PinFilter {
        name_prefix: "wanted".into(),
        ..PinFilter::default()
    };
    let counting = Counting {
        kv: &state.kv,
        rows: std::cell::Cell::new(0),
    };
    let mut chunks = Vec::new();
    let request = ListRequest {
        filter,
        ..ListRequest::default()
    };
    list(&counting, &request, &mut |chunk| {
        chunks.push(chunk);
        true
    })
    .expect("a list");
    assert_eq!(keys_of(&chunks).len(), 2);
    assert!(chunks.len() >= 3, "it shows that it lives");
    let read = counting.rows.get();
    assert!(read < 2 * 2_100 + 100, "{read} rows were read");
    // From each of the empty chunks on too.
    for (at, chunk) in chunks.iter().enumerate() {
        let request = ListRequest {
            cursor: chunk.cursor.clone(),
            ..request.clone()
        };
        assert_eq!(keys_of(&state.chunks(&request)), keys_of(&chunks[at + 1..]));
    }
}

/// A run of rows that is cut by bytes is not the whole namespace: what passes may lie behind the cut only.
#[test]
fn what_lies_behind_a_chunk_of_bytes_in_its_namespace_is_found() {
    /// So that the first rows, with keys of more than 1,000 bytes, fill a chunk before a thousand are read.
    const NAME_BYTES: usize = 1_000;
    let mut state = State::new();
    let prefix = "n".repeat(NAME_BYTES - 4);
    let named = |number: u64| PinOptions {
        name: format!("{prefix}{number:04}"),
        replication: Replication { min: 1, max: 1 },
        ..PinOptions::default()
    };
    for number in 0..1_100 {
        // Few pins a CID: planning reads all pins of one.
        let key = key("a", (number % 200) as u8, &format!("{number:04}"));
        state.pin(1 + number, key, named(number), &[1]);
    }
    for number in 0..11 {
        state.pin(2_000, key("b", number as u8, ""), named(number), &[1]);
    }
    for created_after in [None, Some(Timestamp::from_millis(1_000))] {
        let filter = PinFilter {
            name_prefix: prefix.clone(),
            created_after,
            ..PinFilter::default()
        };
        let mut found = state.all(&filter);
        found.sort();
        assert_eq!(found.len(), if created_after.is_some() { 111 } else { 1_111 });
        assert!(found == state.expected(&filter), "{created_after:?}");
    }
}

struct Counting<'a> {
    kv: &'a MemoryKv,
    rows: std::cell::Cell<usize>,
}

impl KvRead for Counting<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: pinset::Visit<'_>) -> Result<(), KvError> {
        self.kv.scan(table, start, end, &mut |key, value| {
            self.rows.set(self.rows.get() + 1);
            visit(key, value)
        })
    }
}

#[test]
fn cursors_of_other_lists_are_refused() {
    let state = State::filled();
    let by_node = |node| PinFilter {
        node: Some(NodeId(node)),
        ..PinFilter::default()
    };
    let first = |filter: PinFilter| ListRequest {
        filter,
        limit: 1,
        ..ListRequest::default()
    };
    let cursor = state.chunks(&first(by_node(1)))[0].cursor.clone();
    let whole = state.chunks(&first(PinFilter::default()))[0].cursor.clone();
    let bad = [
        (by_node(2), cursor.as_str()),
        (PinFilter::default(), cursor.as_str()),
        (by_node(1), whole.as_str()),
        (by_node(1), "not hexadecimal"),
        (by_node(1), "é0"),
        (by_node(1), "0"),
        (by_node(1), "ff"),
        (
            PinFilter {
                unplaced: true,
                ..PinFilter::default()
            },
            "06ff",
        ),
        (
            PinFilter {
                name_prefix: "a".into(),
                ..PinFilter::default()
            },
            "07ffff",
        ),
    ];
    for (filter, cursor) in bad {
        let request = ListRequest {
            filter,
            limit: 0,
            cursor: cursor.to_owned(),
        };
        let error = list(&state.kv, &request, &mut |_| true).expect_err("refused");
        assert!(
            matches!(&error, Error::Invalid(invalid) if invalid.field == "cursor"),
            "{error}"
        );
    }
}
