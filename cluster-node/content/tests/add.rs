//! Adding: trees go in and come out again, in bounded memory, and what is wrong is refused.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster_content::{
    AddOptions, Adder, BATCH_BYTES_MAX, BATCHES_MAX, Content, ContentError, Entry, NullSink, ROOTS_MAX,
};
use cluster_dag::unixfs::{Chunker, DirectoryBuilder, FileBuilder, Layout, Metadata, Mtime, Node, Options};
use futures::TryStreamExt as _;
use node_core::{Cid, ErrorClass};
use proptest::prelude::*;

use support::{Store, add, add_file, cat, collect, noise};

/// What a tree holds, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
}

type Tree = BTreeMap<String, Item>;

/// A random tree below `top`, all directories in it named.
fn tree() -> impl Strategy<Value = Tree> {
    let name = "[a-d]{1,3}";
    let item = prop_oneof![
        4 => (0usize..4000, any::<u64>()).prop_map(|(length, seed)| Item::File(noise(length, seed))),
        1 => Just(Item::Directory),
        1 => "[a-z./]{1,20}|[a-z./]{90,300}".prop_map(|target| Item::Symlink(target.into_bytes())),
    ];
    proptest::collection::vec((proptest::collection::vec(name, 1..4), item), 0..25).prop_map(|items| {
        let mut tree = Tree::from([("top".to_owned(), Item::Directory)]);
        for (names, item) in items {
            let mut path = "top".to_owned();
            let (last, parents) = names.split_last().expect("one at least");
            let mut fits = true;
            for name in parents {
                path = format!("{path}/{name}");
                fits &= *tree.entry(path.clone()).or_insert(Item::Directory) == Item::Directory;
                if !fits {
                    break;
                }
            }
            if fits {
                tree.entry(format!("{path}/{last}")).or_insert(item);
            }
        }
        tree
    })
}

/// Depth first, as a walk of a disk gives them.
fn entries(tree: &Tree) -> Vec<(Entry, Vec<u8>)> {
    let mut paths: Vec<&String> = tree.keys().collect();
    paths.sort_by_key(|path| path.split('/').collect::<Vec<_>>());
    let entry = |path: &String| match &tree[path] {
        Item::File(content) => (Entry::file(path), content.clone()),
        Item::Directory => (Entry::directory(path), Vec::new()),
        Item::Symlink(target) => (Entry::symlink(path, target), Vec::new()),
    };
    paths.into_iter().map(entry).collect()
}

/// What comes back by listing and reading.
async fn read_back(content: &Content, root: Cid) -> Tree {
    let mut found = Tree::new();
    let mut pending = vec![("top".to_owned(), root)];
    while let Some((path, cid)) = pending.pop() {
        let item = match content.node(&cid).await.expect("a node") {
            Node::File { bytes, .. } => {
                let read = cat(content, cid, 0, None).await.expect("a file");
                assert_eq!(read.len() as u64, bytes);
                Item::File(read)
            }
            Node::Symlink { target, .. } => Item::Symlink(target.to_vec()),
            Node::Directory { .. } => {
                let listed: Vec<_> = content.list(cid).try_collect().await.expect("a directory");
                for entry in listed {
                    let name = String::from_utf8(entry.name.to_vec()).expect("text");
                    pending.push((format!("{path}/{name}"), entry.cid));
                }
                Item::Directory
            }
        };
        assert_eq!(found.insert(path, item), None);
    }
    found
}

/// What comes back from a tar archive.
fn read_tar(archive: &[u8]) -> Tree {
    let mut found = Tree::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = String::from_utf8(entry.path_bytes().into_owned()).expect("text");
        let item = match entry.header().entry_type() {
            tar::EntryType::Directory => Item::Directory,
            tar::EntryType::Symlink => Item::Symlink(entry.link_name_bytes().expect("a target").into_owned()),
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).expect("whole");
                Item::File(content)
            }
            other => panic!("{path} is of type {other:?}"),
        };
        assert_eq!(found.insert(path.trim_end_matches('/').to_owned(), item), None);
    }
    found
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn trees_come_back(tree in tree(), v0: bool, trickle: bool, sharded: bool, chunk in 16u32..2000, ahead in 1usize..20) {
        let mut unixfs = if v0 { Options::v0_2015() } else { Options::v1_2025() };
        unixfs.chunker = Chunker::Size(chunk);
        unixfs.file_links_max = 4;
        unixfs.layout = if trickle { Layout::Trickle } else { Layout::Balanced };
        unixfs.sharding.above = sharded.then_some(1);
        unixfs.sharding.fanout = 8;
        block_on(async {
            let store = Store::new();
            let outcome = add(AddOptions::new(unixfs), store.clone(), entries(&tree)).await.expect("added");
            assert_eq!(outcome.roots.len(), 1);
            assert_eq!(outcome.progress.entries, tree.len() as u64);
            assert_eq!(outcome.progress.stored_blocks, outcome.progress.blocks);
            let content_bytes: usize = tree.values().map(|item| if let Item::File(bytes) = item { bytes.len() } else { 0 }).sum();
            assert_eq!(outcome.progress.content_bytes, content_bytes as u64);
            let root = outcome.roots[0].cid;
            let content = Content::new(store.clone()).ahead(ahead);
            assert_eq!(read_back(&content, root).await, tree);
            for (path, item) in &tree {
                let below = path.strip_prefix("top").expect("below it");
                let resolved = content.resolve(root, below.as_bytes()).await.expect("it is there");
                if let Item::File(bytes) = item {
                    assert_eq!(&cat(&content, resolved.cid, 0, None).await.expect("a file"), bytes);
                }
            }
            // Names that a tar could not hold do not come out of the generator.
            assert_eq!(read_tar(&collect(content.tar(root, "top")).await.expect("an archive")), tree);
        });
    }

    #[test]
    fn ranges_of_a_file_are_those_of_its_bytes(
        length in 0usize..5000,
        start in 0u64..6000,
        bytes in proptest::option::of(0u64..6000),
        ahead in 1usize..9,
    ) {
        let whole = noise(length, 3);
        let mut options = AddOptions::v1_2025();
        options.unixfs.chunker = Chunker::Size(100);
        options.unixfs.file_links_max = 3;
        block_on(async {
            let store = Store::new();
            let cid = add_file(options, &store, &whole).await;
            let content = Content::new(store.clone()).ahead(ahead);
            let read = cat(&content, cid, start, bytes).await;
            assert!(store.gets.most() <= ahead, "{} at once", store.gets.most());
            if start > length as u64 {
                assert!(matches!(read, Err(ContentError::Range { .. })));
            } else {
                let end = bytes.map_or(length, |bytes| length.min((start + bytes) as usize));
                assert_eq!(read.expect("in the file"), &whole[start as usize..end]);
            }
        });
    }
}

#[tokio::test]
async fn cids_are_those_of_the_builders_with_every_option() {
    let content = noise(700_000, 1);
    for options in [Options::v0_2015(), Options::v1_2025()] {
        let mut file = FileBuilder::new(options.clone(), Metadata::default()).expect("valid");
        file.write(&content, &mut |_| ()).expect("fits");
        let file = file.finish(&mut |_| ()).expect("fits");
        let mut directory = DirectoryBuilder::new(options.clone(), Metadata::default()).expect("valid");
        directory.add("file", &file).expect("a name");
        let directory = directory.finish(&mut |_| ()).expect("fits");

        let sink = Arc::new(NullSink);
        let plain = add(
            AddOptions::new(options.clone()),
            sink.clone(),
            [(Entry::file("file"), content.clone())],
        );
        let root = plain.await.expect("added").roots.remove(0);
        assert_eq!(
            (root.cid, root.tsize, &root.name[..]),
            (file.cid, file.tsize, &b"file"[..])
        );

        let mut wrapped = AddOptions::new(options);
        wrapped.wrap = true;
        let wrapped = add(wrapped, sink, [(Entry::file("file"), content.clone())])
            .await
            .expect("added");
        assert_eq!(wrapped.roots.len(), 1);
        let root = &wrapped.roots[0];
        assert_eq!(
            (root.cid, root.tsize, &root.name[..]),
            (directory.cid, directory.tsize, &b""[..])
        );
    }
}

#[tokio::test]
async fn what_is_under_way_is_bounded_however_much_is_added() {
    for (chunk, bytes) in [(256 * 1024, 200_000_000usize), (64, 2_000_000)] {
        let store = Arc::new(Store {
            put_turns: 200,
            ..Store::default()
        });
        let mut options = AddOptions::v1_2025();
        options.unixfs.chunker = Chunker::Size(chunk);
        let mut adder = Adder::new(options, store.clone()).expect("valid");
        adder.entry(Entry::file("large")).await.expect("begun");
        // One piece, repeated: a hash of what is large would take long, and the store keeps little.
        let piece = Bytes::from(noise(1_000_000, 5));
        for _ in 0..bytes / piece.len() {
            adder.write(piece.clone()).await.expect("taken");
            let progress = adder.progress();
            let waiting = progress.blocks - progress.stored_blocks;
            // What is under way, and a batch that is being filled.
            assert!(waiting <= (BATCHES_MAX as u64 + 1) * 256 + 1, "{waiting} blocks wait");
        }
        let outcome = adder.finish().await.expect("added");
        assert_eq!(outcome.progress.content_bytes, bytes as u64);
        assert!(
            store.puts.most() <= BATCHES_MAX,
            "{} batches at once",
            store.puts.most()
        );
        assert!(store.puts.most() > 1, "hashing goes on while a batch is stored");
        let most = store.put_bytes.most();
        assert!(
            most <= BATCHES_MAX * (BATCH_BYTES_MAX + 2 * 1024 * 1024),
            "{most} bytes at once"
        );
        assert_eq!(store.puts.now(), 0);
    }
}

#[tokio::test]
async fn a_large_directory_is_made_whole() {
    let store = Store::new();
    let entries = (0..20_000).map(|number| (Entry::file(format!("d/{number:06}")), number.to_string().into_bytes()));
    // On a task of its own: what adds can be sent to another thread.
    let task = tokio::spawn(add(AddOptions::v1_2025(), store.clone(), entries));
    let outcome = task.await.expect("no panic").expect("added");
    let content = Content::new(store.clone());
    let listed: Vec<_> = content.list(outcome.roots[0].cid).try_collect().await.expect("listed");
    assert_eq!(listed.len(), 20_000);
    let resolved = content.resolve(outcome.roots[0].cid, b"012345").await.expect("there");
    assert_eq!(cat(&content, resolved.cid, 0, None).await.expect("a file"), b"12345");
    assert!(resolved.along.len() > 1, "it is sharded");
}

#[tokio::test]
async fn hidden_entries_are_left_out_unless_they_are_wanted() {
    let entries = || {
        [
            (Entry::file(".top/a"), b"a".to_vec()),
            (Entry::file(".top/.hidden"), b"b".to_vec()),
            (Entry::directory(".top/.git"), Vec::new()),
            (Entry::file(".top/.git/config"), b"c".to_vec()),
            (Entry::symlink(".top/.link", "a"), Vec::new()),
            (Entry::file(".top/z"), b"z".to_vec()),
        ]
    };
    let names = |hidden| async move {
        let store = Store::new();
        let mut options = AddOptions::v1_2025();
        options.hidden = hidden;
        let outcome = add(options, store.clone(), entries()).await.expect("added");
        assert_eq!(outcome.roots[0].name, b".top");
        let listed = Content::new(store).list(outcome.roots[0].cid);
        let listed: Vec<_> = listed.try_collect().await.expect("listed");
        listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert_eq!(names(false).await, ["a", "z"]);
    assert_eq!(names(true).await, [".git", ".hidden", ".link", "a", "z"]);
}

#[tokio::test]
async fn entries_are_told_of_when_they_are_complete() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let mut options = AddOptions::v1_2025();
    options.wrap = true;
    let mut adder = Adder::new(options, Arc::new(NullSink))
        .expect("valid")
        .observe(move |entry| {
            teller
                .lock()
                .expect("no panic")
                .push(String::from_utf8(entry.path).expect("text"))
        });
    for path in ["a/b/1", "a/b/2", "a/3", "c"] {
        adder.entry(Entry::file(path)).await.expect("begun");
        adder.write(b"x"[..].into()).await.expect("taken");
    }
    adder.finish().await.expect("added");
    assert_eq!(
        *told.lock().expect("no panic"),
        ["a/b/1", "a/b/2", "a/b", "a/3", "a", "c", ""]
    );
}

#[tokio::test]
async fn standard_input_has_the_name_of_its_cid_where_it_needs_one() {
    let store = Store::new();
    let mut options = AddOptions::v1_2025();
    let file = add(options.clone(), store.clone(), [(Entry::file(""), b"x".to_vec())])
        .await
        .expect("added");
    options.wrap = true;
    let wrapped = add(options, store.clone(), [(Entry::file(""), b"x".to_vec())])
        .await
        .expect("added");
    let listed: Vec<_> = Content::new(store)
        .list(wrapped.roots[0].cid)
        .try_collect()
        .await
        .expect("listed");
    assert_eq!(listed[0].name, file.roots[0].cid.to_string());
}

#[tokio::test]
async fn metadata_is_kept_and_given_back_in_a_tar() {
    let store = Store::new();
    let metadata = |mode, seconds, nanos| Metadata {
        mode: Some(mode),
        mtime: Some(Mtime { seconds, nanos }),
    };
    let entries = [
        (
            Entry::directory("d").with(metadata(0o750, 1_600_000_000, 0)),
            Vec::new(),
        ),
        (
            Entry::file("d/f").with(metadata(0o4711, 1_700_000_000, 5)),
            b"x".to_vec(),
        ),
        (
            Entry::symlink("d/l", "f").with(metadata(0, 1_650_000_000, 0)),
            Vec::new(),
        ),
        (Entry::file(format!("d/{}", "n".repeat(200))), b"y".to_vec()),
    ];
    let refused = add(AddOptions::v1_2025(), store.clone(), entries.clone())
        .await
        .expect_err("raw leaves");
    assert!(matches!(refused, ContentError::Options(_)), "{refused}");
    let options = AddOptions::v1_2025().keeping_metadata();
    let outcome = add(options, store.clone(), entries).await.expect("added");
    let archive = collect(Content::new(store).tar(outcome.roots[0].cid, "d"))
        .await
        .expect("an archive");
    let mut archive = tar::Archive::new(&archive[..]);
    let mut found = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let extensions = entry.pax_extensions().expect("readable");
        let exact = extensions.and_then(|mut all| {
            all.find_map(|one| one.ok().filter(|one| one.key_bytes() == b"mtime"))
                .map(|one| one.value().expect("text").to_owned())
        });
        let header = entry.header();
        let facts = (header.mode().expect("a mode"), header.mtime().expect("a time"), exact);
        found.insert(String::from_utf8(entry.path_bytes().into_owned()).expect("text"), facts);
    }
    assert_eq!(found["d"], (0o750, 1_600_000_000, None));
    assert_eq!(found["d/f"].0, 0o4711);
    assert_eq!(found["d/f"].2.as_deref(), Some("1700000000.000000005"));
    assert_eq!(found["d/l"], (0o777, 1_650_000_000, None));
    assert_eq!(found[&format!("d/{}", "n".repeat(200))], (0o644, 0, None));
}

#[tokio::test]
async fn what_can_not_be_added_is_refused_with_its_reason() {
    let refused = |entries: Vec<(Entry, Vec<u8>)>| async move {
        let error = add(AddOptions::v1_2025(), Arc::new(NullSink), entries)
            .await
            .expect_err("refused");
        assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
        error.to_string()
    };
    for path in ["/a", "a//b", "a/", "..", "a/../b", "./a"] {
        let words = refused(vec![(Entry::file(path), Vec::new())]).await;
        assert!(words.contains(&format!("path {path:?}")), "{words}");
    }
    refused(vec![(Entry::file("a/".repeat(3000) + "b"), Vec::new())]).await;
    refused(vec![]).await;
    let twice = ["a/b", "c", "a/b"].map(|path| (Entry::file(path), Vec::new()));
    let twice: Vec<_> = [(Entry::directory("top"), Vec::new())]
        .into_iter()
        .chain(twice.map(|(entry, content)| {
            let path = [b"top/", &entry.path[..]].concat();
            (Entry { path, ..entry }, content)
        }))
        .collect();
    let words = refused(twice).await;
    assert!(words.contains("two entries"), "{words}");
    let late = vec![(Entry::file("a/b"), Vec::new()), (Entry::directory("a"), Vec::new())];
    add(AddOptions::v1_2025(), Arc::new(NullSink), late.clone())
        .await
        .expect("named late, and nothing lost");
    let mut late = late;
    late[1].0.metadata.mode = Some(0o700);
    assert!(refused(late).await.contains("must come first"));
    let many = (0..=ROOTS_MAX)
        .map(|number| (Entry::file(number.to_string()), Vec::new()))
        .collect();
    assert!(refused(many).await.contains("wrapped"));

    let mut adder = Adder::new(AddOptions::v1_2025(), Arc::new(NullSink)).expect("valid");
    adder.entry(Entry::directory("a")).await.expect("begun");
    let error = adder.write(b"x"[..].into()).await.expect_err("no file is open");
    assert!(error.to_string().contains("belong to no file"), "{error}");
    assert!(matches!(
        adder.entry(Entry::file("b")).await,
        Err(ContentError::Failed(_))
    ));
    assert!(matches!(adder.finish().await, Err(ContentError::Failed(_))));
}

#[tokio::test]
async fn a_full_store_ends_it_with_its_own_error() {
    let store = Arc::new(Store {
        full_after: Some(2),
        ..Store::default()
    });
    let entries = [(Entry::file("large"), noise(60_000_000, 9))];
    let error = add(AddOptions::v1_2025(), store.clone(), entries)
        .await
        .expect_err("full");
    assert_eq!(error.class(), ErrorClass::DiskFull);
    assert_eq!(error.to_string(), "the disk is full");
    assert!(store.puts.total() <= 3 + BATCHES_MAX, "no more are begun");
    assert_eq!(store.puts.now(), 0, "nothing goes on behind it");
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_half_done_add() {
    let store = Store::new();
    let mut adder = Adder::new(AddOptions::v1_2025(), store.clone()).expect("valid");
    adder.entry(Entry::file("a")).await.expect("begun");
    let bytes = Bytes::from(noise(50_000_000, 4));
    {
        let mut call = std::pin::pin!(adder.write(bytes));
        assert!(futures::poll!(call.as_mut()).is_pending());
    }
    assert!(matches!(adder.finish().await, Err(ContentError::Failed(_))));
    assert_eq!(store.puts.now(), 0, "what was under way is cancelled");
}
