//! UnixFS without a Kubo at hand: what was added is read back, and hostile blocks are contained.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cluster_dag::unixfs::{
    Added, Chunker, CidVersion, DirectoryBuilder, DirectoryReader, FileBuilder, FileReader, Layout, ListStep, Metadata,
    Mtime, Node, Options, PathResolver, ReadStep, ResolveStep, Sharding, SizeEstimate, symlink,
};
use cluster_dag::{Block, DagError};
use node_core::Cid;
use proptest::prelude::*;

use support::{Store, add_file, noise};

fn options() -> impl Strategy<Value = Options> {
    let chunker = prop_oneof![
        (1u32..500).prop_map(Chunker::Size),
        (16u32..60, 1u32..60, 1u32..60).prop_map(|(min, more, most)| Chunker::Rabin {
            min,
            avg: min + more,
            max: min + more + most
        }),
    ];
    let layout = prop_oneof![Just(Layout::Balanced), Just(Layout::Trickle)];
    let sharding = (
        proptest::option::of(0u64..3000),
        prop_oneof![Just(SizeEstimate::Links), Just(SizeEstimate::Block)],
        (3u32..=10).prop_map(|bits| 1u16 << bits),
    )
        .prop_map(|(above, estimate, fanout)| Sharding {
            above,
            estimate,
            entries_max: None,
            fanout,
        });
    (any::<bool>(), chunker, layout, any::<bool>(), 2usize..10, sharding).prop_map(
        |(v0, chunker, layout, raw_leaves, file_links_max, sharding)| Options {
            cid_version: if v0 { CidVersion::V0 } else { CidVersion::V1 },
            chunker,
            layout,
            raw_leaves,
            file_links_max,
            sharding,
            ..Options::v0_2015()
        },
    )
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let mtime = (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanos)| Mtime { seconds, nanos });
    (proptest::option::of(1u32..0o10000), proptest::option::of(mtime))
        .prop_map(|(mode, mtime)| Metadata { mode, mtime })
}

/// Reads a range; `ahead` blocks at once, those that came last first.
fn read(store: &Store, root: Cid, start: u64, end: Option<u64>, ahead: usize) -> Result<Vec<u8>, DagError> {
    let mut reader = FileReader::new(root).range(start, end).ahead(ahead);
    let (mut content, mut stalled) = (Vec::new(), 0);
    loop {
        let wanted = reader.wanted();
        assert!(wanted.len() <= ahead);
        // A block that is needed is wanted at once, so every stall ends.
        assert!(stalled == 0 || !wanted.is_empty());
        stalled = 0;
        for cid in wanted.into_iter().rev() {
            reader.supply(store.get(&cid));
        }
        match reader.step()? {
            ReadStep::Data(bytes) => {
                assert!(!bytes.is_empty());
                content.extend_from_slice(&bytes);
            }
            ReadStep::Need(_) => stalled += 1,
            ReadStep::End => return Ok(content),
        }
    }
}

fn list(store: &Store, root: Cid) -> Result<Vec<(Vec<u8>, Cid, u64)>, DagError> {
    let mut reader = DirectoryReader::new(root);
    let (mut entries, mut stalled) = (Vec::new(), 0);
    loop {
        let wanted = reader.wanted();
        assert!(stalled == 0 || !wanted.is_empty());
        stalled = 0;
        for cid in wanted.into_iter().rev() {
            reader.supply(store.get(&cid));
        }
        match reader.step()? {
            ListStep::Entry(entry) => entries.push((entry.name.to_vec(), entry.cid, entry.tsize)),
            ListStep::Need(_) => stalled += 1,
            ListStep::End => return Ok(entries),
        }
    }
}

fn resolve(store: &Store, root: Cid, path: &[u8]) -> Result<Cid, DagError> {
    let mut resolver = PathResolver::new(root, path)?;
    loop {
        match resolver.step()? {
            ResolveStep::Found(cid) => return Ok(cid),
            ResolveStep::Need(cid) => assert!(resolver.supply(store.get(&cid))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_added_is_read_back(
        options in options(),
        metadata in metadata(),
        length in 0usize..20_000,
        seed: u64,
        (from, to) in (0u64..21_000, 0u64..21_000),
        ahead in 1usize..20,
    ) {
        let content = noise(length, seed);
        let metadata = if options.raw_leaves { Metadata::default() } else { metadata };
        let mut store = Store::default();
        let added = add_file(&options, metadata, &content, &mut |block| store.put(block));
        prop_assert_eq!(
            Node::decode(&store.get(&added.cid)),
            Ok(Node::File { bytes: length as u64, metadata })
        );
        prop_assert!(read(&store, added.cid, 0, None, ahead).expect("readable") == content);
        if options.layout == Layout::Balanced {
            for block in store.0.values() {
                prop_assert!(block.links().expect("ours").len() <= options.file_links_max);
            }
        }
        let part = read(&store, added.cid, from, Some(to), ahead).expect("readable");
        let end = to.min(length as u64) as usize;
        prop_assert!(part == content.get(from as usize..end).unwrap_or_default());
    }

    #[test]
    fn what_is_put_into_a_directory_is_listed_and_found(
        options in options(),
        metadata in metadata(),
        names in proptest::collection::btree_set("[a-c/.\u{e9}]{1,4}", 0..60),
        seed: u64,
    ) {
        let mut store = Store::default();
        let mut directory = DirectoryBuilder::new(options.clone(), metadata).expect("valid");
        let mut given: BTreeMap<Vec<u8>, Added> = BTreeMap::new();
        let mut files = options.clone();
        files.raw_leaves = false;
        for (number, name) in names.iter().enumerate() {
            let added = add_file(&files, Metadata::default(), &noise(number * 7, seed), &mut |block| store.put(block));
            match directory.add(name, &added) {
                Ok(()) => drop(given.insert(name.clone().into_bytes(), added)),
                Err(error) => {
                    let valid = name != "." && name != ".." && !name.contains('/');
                    prop_assert!(!valid, "{}", error);
                }
            }
        }
        prop_assert_eq!(directory.len(), given.len());
        let root = directory.finish(&mut |block| store.put(block)).expect("small").cid;
        let listed = list(&store, root).expect("a directory");
        let as_set: BTreeSet<_> = listed.iter().cloned().collect();
        prop_assert_eq!(as_set.len(), listed.len());
        let wanted: BTreeSet<_> = given.iter().map(|(name, added)| (name.clone(), added.cid, added.tsize)).collect();
        prop_assert_eq!(as_set, wanted);
        for (name, added) in &given {
            prop_assert_eq!(resolve(&store, root, name), Ok(added.cid));
        }
        let is_missing = matches!(resolve(&store, root, b"not in it"), Err(DagError::NotFound { .. }));
        prop_assert!(is_missing);
        let found = Node::decode(&store.get(&root));
        let is_same = matches!(found, Ok(Node::Directory { metadata: kept, .. }) if kept == metadata);
        prop_assert!(is_same);
    }

    #[test]
    fn the_order_of_entries_makes_no_difference(options in options(), count in 1usize..80, turn in 0usize..80) {
        let file = add_file(&Options::v0_2015(), Metadata::default(), b"x", &mut |_| ());
        let build = |order: &mut dyn Iterator<Item = usize>| {
            let mut directory = DirectoryBuilder::new(options.clone(), Metadata::default()).expect("valid");
            for number in order {
                directory.add(format!("entry {number}"), &file).expect("a name");
            }
            directory.finish(&mut |_| ()).expect("small")
        };
        let forwards = build(&mut (0..count));
        prop_assert_eq!(forwards, build(&mut (0..count).rev()));
        prop_assert_eq!(forwards, build(&mut (0..count).map(|n| (n + turn) % count)));
    }

    /// Whatever the blocks hold, reading them ends, in an error or not.
    #[test]
    fn arbitrary_blocks_are_contained(bytes: Vec<u8>, path: Vec<u8>) {
        let block = dag_pb(&bytes);
        let mut store = Store::default();
        store.0.insert(block.cid(), block.clone());
        let _ = Node::decode(&block);
        let mut file = FileReader::new(block.cid());
        file.wanted();
        file.supply(block.clone());
        let _ = file.step();
        let mut directory = DirectoryReader::new(block.cid());
        directory.wanted();
        directory.supply(block.clone());
        let _ = directory.step();
        let mut resolver = PathResolver::new(block.cid(), &path).expect("short");
        let _ = resolver.step();
        resolver.supply(block);
        let _ = resolver.step();
    }
}

/// A dag-pb block of these bytes, whatever they are.
fn dag_pb(bytes: &[u8]) -> Block {
    let digest = {
        let raw = add_file(
            &Options {
                raw_leaves: true,
                ..Options::v1_2025()
            },
            Metadata::default(),
            bytes,
            &mut |_| (),
        );
        raw.cid.to_bytes()[4..].to_vec()
    };
    let cid = Cid::from_bytes(&[&[1, 0x70, 0x12, 32][..], &digest].concat()).expect("valid");
    Block::new(cid, Bytes::copy_from_slice(bytes)).expect("its own CID")
}

fn field(out: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    out.push(key);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// A dag-pb block with links of these names, and this UnixFS data.
fn node(links: &[(&str, Cid)], data: &[u8]) -> Block {
    let mut out = Vec::new();
    for (name, cid) in links {
        let mut link = Vec::new();
        field(&mut link, 0x0a, &cid.to_bytes());
        field(&mut link, 0x12, name.as_bytes());
        field(&mut out, 0x12, &link);
    }
    field(&mut out, 0x0a, data);
    dag_pb(&out)
}

fn reason<T: std::fmt::Debug>(result: Result<T, DagError>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn well_known_cids() {
    let empty = |options: Options| {
        let file = add_file(&options, Metadata::default(), b"", &mut |_| ());
        let directory = DirectoryBuilder::new(options, Metadata::default()).expect("valid");
        assert!(directory.is_empty());
        (
            file.cid.to_string(),
            directory.finish(&mut |_| ()).expect("small").cid.to_string(),
        )
    };
    let (file, directory) = empty(Options::v0_2015());
    assert_eq!(file, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
    assert_eq!(directory, "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn");
    let (file, directory) = empty(Options::v1_2025());
    assert_eq!(file, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    assert_eq!(directory, "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354");
}

#[test]
fn what_can_not_be_stored_is_refused_with_its_reason() {
    let options = Options::v1_2025();
    let mode = Metadata {
        mode: Some(0o644),
        mtime: None,
    };
    let error = FileBuilder::new(options.clone(), mode)
        .expect_err("raw leaves")
        .to_string();
    assert!(error.contains("raw leaves"), "{error}");
    let time = Metadata {
        mode: None,
        mtime: Some(Mtime {
            seconds: 0,
            nanos: 1_000_000_000,
        }),
    };
    let error = DirectoryBuilder::new(options.clone(), time)
        .expect_err("no such time")
        .to_string();
    assert!(error.contains("1000000000"), "{error}");
    assert!(reason(symlink(&options, b"", None, &mut |_| ())).contains("is empty"));
    assert!(reason(symlink(&options, &[b'x'; 4097], None, &mut |_| ())).contains("4096"));

    let file = add_file(&options, Metadata::default(), b"", &mut |_| ());
    let mut directory = DirectoryBuilder::new(options.clone(), Metadata::default()).expect("valid");
    for bad in ["", ".", "..", "a/b"] {
        assert!(reason(directory.add(bad, &file)).contains("must not be"), "{bad:?}");
    }
    assert!(reason(directory.add("x".repeat(4097), &file)).contains("4096"));
    directory.add("twice", &file).expect("a name");
    directory.add("twice", &file).expect("noticed later");
    assert!(reason(directory.finish(&mut |_| ())).contains("\"twice\" is given to two entries"));

    let never = Sharding {
        above: None,
        ..options.sharding
    };
    let mut directory = DirectoryBuilder::new(
        Options {
            sharding: never,
            ..options
        },
        Metadata::default(),
    )
    .expect("valid");
    for number in 0..40_000 {
        directory.add(format!("{number:040}"), &file).expect("a name");
    }
    assert!(reason(directory.finish(&mut |_| ())).contains("sharded"));
}

#[test]
fn a_node_that_lies_about_its_children_is_caught() {
    let leaf = add_file(&Options::v1_2025(), Metadata::default(), b"12345", &mut |_| ()).cid;
    let mut store = Store::default();
    add_file(&Options::v1_2025(), Metadata::default(), b"12345", &mut |block| {
        store.put(block)
    });
    let mut of = |links: &[(&str, Cid)], data: &[u8]| {
        let block = node(links, data);
        store.0.insert(block.cid(), block.clone());
        read(&store, block.cid(), 0, None, 4)
    };
    assert_eq!(
        of(&[("", leaf), ("", leaf)], &[8, 2, 0x18, 10, 0x20, 5, 0x20, 5]),
        Ok(b"1234512345".to_vec())
    );
    assert_eq!(
        of(&[("", leaf)], &[8, 2, 0x12, 2, b'0', b'0', 0x18, 7, 0x20, 5]),
        Ok(b"0012345".to_vec())
    );
    // A child without content is not even fetched.
    assert_eq!(of(&[("", leaf)], &[8, 2, 0x18, 0, 0x20, 0]), Ok(Vec::new()));
    assert!(reason(of(&[("", leaf)], &[8, 2, 0x18, 6, 0x20, 6])).contains("the node above it says 6"));
    assert!(reason(of(&[("", leaf)], &[8, 2, 0x18, 6, 0x20, 5])).contains("says that it is 6 bytes"));
    assert!(reason(of(&[("", leaf)], &[8, 2])).contains("1 links and 0 sizes"));
    let most = [0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let data = [&[8, 2][..], &most, &most].concat();
    assert!(reason(of(&[("", leaf), ("", leaf)], &data)).contains("64 bits"));
    assert!(reason(of(&[], &[8, 1])).contains("is a directory, and a file was asked for"));
    assert!(reason(of(&[], &[8, 3])).contains("Metadata"));
}

#[test]
fn a_chain_of_nodes_ends() {
    let mut store = Store::default();
    let mut chain = add_file(&Options::v1_2025(), Metadata::default(), b"1", &mut |block| {
        store.put(block)
    })
    .cid;
    let mut read_chain = |links: usize| {
        for _ in 0..links {
            let block = node(&[("", chain)], &[8, 2, 0x18, 1, 0x20, 1]);
            chain = block.cid();
            store.0.insert(chain, block);
        }
        read(&store, chain, 0, None, 4)
    };
    assert_eq!(read_chain(128), Ok(b"1".to_vec()));
    assert!(reason(read_chain(1)).contains("levels of a file exceed the limit of 128"));
}

#[test]
fn shards_that_are_none_are_refused() {
    let leaf = add_file(&Options::v1_2025(), Metadata::default(), b"1", &mut |_| ()).cid;
    let of = |links: &[(&str, Cid)], data: &[u8]| {
        let block = node(links, data);
        let mut store = Store::default();
        store.0.insert(block.cid(), block.clone());
        list(&store, block.cid()).map(|entries| entries.len())
    };
    // Type, bit field, hash type, fanout.
    assert_eq!(
        of(
            &[("00a", leaf), ("09b", leaf)],
            &[8, 5, 0x12, 2, 2, 1, 0x28, 0x22, 0x30, 0x80, 2]
        ),
        Ok(2)
    );
    assert!(reason(of(&[("00a", leaf)], &[8, 5, 0x12, 1, 3, 0x28, 0x22, 0x30, 0x80, 2])).contains("bit field has 2"));
    assert!(reason(of(&[("01a", leaf)], &[8, 5, 0x12, 1, 1, 0x28, 0x22, 0x30, 0x80, 2])).contains("begin with 00"));
    assert!(reason(of(&[("0", leaf)], &[8, 5, 0x12, 1, 1, 0x28, 0x22, 0x30, 0x80, 2])).contains("begin with 00"));
    assert!(reason(of(&[], &[8, 5, 0x28, 0x12, 0x30, 0x80, 2])).contains("hash 0x12"));
    assert!(reason(of(&[], &[8, 5, 0x28, 0x22, 0x30, 7])).contains("fanout of 7"));
    assert!(reason(of(&[], &[8, 5, 0x28, 0x22, 0x30, 0x80, 0x80, 1])).contains("fanout of 16384"));
    assert!(reason(of(&[], &[8, 5, 0x12, 2, 0, 0, 0x28, 0x22, 0x30, 8])).contains("longer than its fanout"));
    assert!(reason(of(&[], &[8, 2])).contains("is a file, and a directory was asked for"));

    // Shards in shards, deeper than the hash has bits.
    let mut store = Store::default();
    let mut chain = leaf;
    let mut deepest = "000000000";
    for _ in 0..9 {
        let name = if chain == leaf { "00x" } else { "00" };
        let block = node(&[(name, chain)], &[8, 5, 0x12, 1, 1, 0x28, 0x22, 0x30, 0x80, 2]);
        chain = block.cid();
        store.0.insert(chain, block);
        deepest = &deepest[1..];
        if deepest.is_empty() {
            assert!(reason(list(&store, chain)).contains("bits of the hash"));
        } else {
            assert_eq!(list(&store, chain).expect("deep enough").len(), 1);
        }
    }
}

#[test]
fn blocks_that_nobody_asked_for_are_not_kept() {
    let mut store = Store::default();
    let added = add_file(&Options::v1_2025(), Metadata::default(), b"content", &mut |block| {
        store.put(block)
    });
    let other = dag_pb(b"");
    let mut reader = FileReader::new(added.cid);
    assert!(!reader.supply(store.get(&added.cid)));
    assert_eq!(reader.wanted(), [added.cid]);
    assert_eq!(reader.wanted(), []);
    assert!(!reader.supply(other));
    assert_eq!(reader.step(), Ok(ReadStep::Need(added.cid)));
    assert!(reader.supply(store.get(&added.cid)));
    assert!(!reader.supply(store.get(&added.cid)));
    assert_eq!(reader.bytes(), None);
    assert_eq!(reader.step(), Ok(ReadStep::Data(Bytes::from_static(b"content"))));
    assert_eq!(reader.bytes(), Some(7));
    assert_eq!(reader.step(), Ok(ReadStep::End));
}

#[test]
fn other_codecs_are_no_files() {
    let cbor: Cid = "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"
        .parse()
        .expect("valid");
    let block = Block::trusted(cbor, Bytes::from_static(&[0xa0]));
    assert!(reason(Node::decode(&block)).contains("a dag-cbor block"));
    let mut store = Store::default();
    store.0.insert(cbor, block);
    assert!(matches!(
        resolve(&store, cbor, b"a"),
        Err(DagError::NotADirectory { .. })
    ));
    assert_eq!(resolve(&store, cbor, b"//"), Ok(cbor));
    assert!(reason(PathResolver::new(cbor, &[b'a'; 65_537])).contains("path"));
}
