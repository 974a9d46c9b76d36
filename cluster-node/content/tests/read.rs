//! Reading, walking and CAR files: also of what was made to do harm.

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use cluster_content::{
    AddOptions, Content, ContentError, Entry, FRONTIER_MAX, Imported, OPEN_DIRECTORIES_BYTES_MAX, Scope, WalkOptions,
    import_car,
};
use cluster_dag::car::{CarEvent, CarFault, CarReader, CarWriter, v2_frame};
use cluster_dag::unixfs::{Added, Chunker, DirectoryBuilder, FileBuilder, Metadata, Options};
use cluster_dag::{Block, DagError};
use futures::{StreamExt as _, TryStreamExt as _};
use node_core::{Cid, ErrorClass};
use proptest::prelude::*;

use support::{Store, add, add_file, cat, collect, noise};

/// A block that was not made here: its bytes in another codec.
fn block(codec: u8, bytes: &[u8]) -> Block {
    let mut options = Options::v1_2025();
    options.chunker = Chunker::Size(2_000_000);
    let mut file = FileBuilder::new(options, Metadata::default()).expect("valid");
    let mut made = None;
    file.write(bytes, &mut |block| made = Some(block)).expect("fits");
    file.finish(&mut |block| made = Some(block)).expect("fits");
    let mut binary = made.expect("one block").cid().to_bytes();
    assert_eq!(binary[1], 0x55, "a raw leaf");
    binary[1] = codec;
    let cid = Cid::from_bytes(&binary).expect("a CID");
    Block::new(cid, Bytes::copy_from_slice(bytes)).expect("its bytes")
}

/// A dag-cbor list of links.
fn list(links: &[Cid]) -> Block {
    let mut bytes = vec![0x9a];
    bytes.extend_from_slice(&(links.len() as u32).to_be_bytes());
    for link in links {
        let binary = link.to_bytes();
        bytes.extend_from_slice(&[0xd8, 0x2a, 0x58, binary.len() as u8 + 1, 0]);
        bytes.extend_from_slice(&binary);
    }
    block(0x71, &bytes)
}

/// A plain directory of these, however large it becomes.
fn directory(entries: &[(String, Cid)]) -> Block {
    let mut options = Options::v1_2025();
    options.sharding.above = None;
    let mut builder = DirectoryBuilder::new(options, Metadata::default()).expect("valid");
    for (name, cid) in entries {
        let entry = Added {
            cid: *cid,
            tsize: 1,
            content_bytes: 0,
        };
        builder.add(name, &entry).expect("a name");
    }
    let mut made = None;
    builder.finish(&mut |block| made = Some(block)).expect("fits");
    made.expect("one block")
}

async fn walk(store: &Arc<Store>, roots: &[Cid], options: WalkOptions) -> Result<Vec<Cid>, ContentError> {
    let blocks: Vec<Block> = Content::new(store.clone())
        .walk(roots.to_vec(), options)
        .try_collect()
        .await?;
    Ok(blocks.iter().map(Block::cid).collect())
}

/// All blocks in order, links in order, each as often as it is linked or once: what a walk shall be, without any skill.
fn naive(store: &Store, root: Cid, seen: &mut Option<HashSet<Cid>>, out: &mut Vec<Cid>) {
    if seen.as_mut().is_some_and(|seen| !seen.insert(root)) {
        return;
    }
    let block = store.blocks.lock().expect("no panic")[&root].clone();
    out.push(root);
    for link in block.links().expect("readable") {
        naive(store, link, seen, out);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

const ENTITY: Scope = Scope::Entity { from: 0, to: None };

fn scope(scope: Scope) -> WalkOptions {
    WalkOptions {
        scope,
        duplicates: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn walks_are_depth_first_whatever_is_read_ahead(
        levels in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 1..4), 0..4),
        ahead in 1usize..70,
        duplicates: bool,
    ) {
        // Each level links into the one below; what is the same there is shared.
        let mut below: Vec<Block> = (0..3u8).map(|number| block(0x55, &[number])).collect();
        let mut all = below.clone();
        for level in levels {
            let level: Vec<Block> = level
                .iter()
                .map(|links| list(&links.iter().map(|link| link.get(&below).cid()).collect::<Vec<_>>()))
                .collect();
            all.extend(level.iter().cloned());
            below = level;
        }
        let root = list(&below.iter().map(Block::cid).collect::<Vec<_>>());
        all.push(root.clone());
        let store = Store::of(all);
        let mut expected = Vec::new();
        naive(&store, root.cid(), &mut (!duplicates).then(HashSet::new), &mut expected);
        block_on(async {
            let content = Content::new(store.clone()).ahead(ahead);
            let options = WalkOptions { scope: Scope::All, duplicates };
            let walked: Vec<Block> = content.walk(vec![root.cid()], options).try_collect().await.expect("walked");
            let walked: Vec<Cid> = walked.iter().map(Block::cid).collect();
            assert_eq!(walked, expected);
            assert!(store.gets.most() <= ahead.min(64) + 1, "{} at once", store.gets.most());
        });
    }

    #[test]
    fn car_files_come_back_in_any_pieces(
        files in proptest::collection::vec((0usize..3000, any::<u64>()), 1..5),
        pieces in proptest::collection::vec(1usize..3000, 1..4),
        second: bool,
    ) {
        block_on(async {
            let store = Store::new();
            let mut options = AddOptions::v1_2025();
            options.wrap = true;
            options.unixfs.chunker = Chunker::Size(500);
            let entries = files.iter().enumerate().map(|(number, (length, seed))| {
                (Entry::file(number.to_string()), noise(*length, *seed))
            });
            let root = add(options, store.clone(), entries).await.expect("added").roots[0].cid;
            let mut file = collect(Content::new(store.clone()).car(vec![root], WalkOptions::default())).await.expect("a file");
            if second {
                file = [&v2_frame(file.len() as u64)[..], &file].concat();
            }
            let mut rest = &file[..];
            let mut sizes = pieces.iter().cycle();
            let parts = std::iter::from_fn(|| {
                let size = (*sizes.next().expect("endless")).min(rest.len());
                let (part, after) = rest.split_at(size);
                rest = after;
                (!part.is_empty()).then(|| Ok::<_, String>(Bytes::copy_from_slice(part)))
            });
            let parts: Vec<_> = parts.collect();
            let back = Store::new();
            let imported = import_car(futures::stream::iter(parts), back.clone()).await.expect("taken");
            assert_eq!((imported.version, &imported.roots[..]), (1 + u64::from(second), &[root][..]));
            assert_eq!(imported.blocks as usize, store.len());
            assert_eq!(*back.blocks.lock().expect("no panic"), *store.blocks.lock().expect("no panic"));
        });
    }
}

async fn import(file: &[u8]) -> Result<Imported, ContentError> {
    let parts: Vec<_> = file
        .chunks(1000)
        .map(|part| Ok::<_, String>(Bytes::copy_from_slice(part)))
        .collect();
    import_car(futures::stream::iter(parts), Store::new()).await
}

/// The store would refuse them too, and that would look like a fault of the node.
#[tokio::test]
async fn a_block_that_is_not_what_its_codec_says_is_the_fault_of_the_file() {
    let car = |block: &Block| {
        let mut out = Vec::new();
        let mut writer = CarWriter::new(&[block.cid()], &mut out).expect("one root");
        writer.block(block, &mut out);
        out
    };
    for (codec, word) in [(0x71, "dag-cbor"), (0x70, "dag-pb"), (0x78, "git-raw")] {
        let bad = block(codec, &[0xff]);
        let error = import(&car(&bad)).await.expect_err("refused");
        assert!(matches!(error, ContentError::Dag(_)), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        let told = error.to_string();
        assert!(told.contains(word) && told.contains(&bad.cid().to_string()), "{told}");
    }
    assert_eq!(import(&car(&block(0x55, &[0xff]))).await.expect("raw").blocks, 1);
}

#[tokio::test]
async fn broken_car_files_are_refused_with_their_error() {
    let (good, other) = (block(0x55, b"good"), block(0x55, b"evil"));
    let car = |blocks: &[Block]| {
        let mut out = Vec::new();
        let mut writer = CarWriter::new(&[good.cid()], &mut out).expect("one root");
        for block in blocks {
            writer.block(block, &mut out);
        }
        out
    };
    let whole = car(std::slice::from_ref(&good));
    import(&whole).await.expect("good");
    let fault = |error: ContentError| match error {
        ContentError::Car(error) => error.reason,
        other => panic!("{other}"),
    };
    let cut = fault(import(&whole[..whole.len() - 1]).await.expect_err("cut"));
    assert_eq!(cut, CarFault::Cut("a block"));
    let lie = Block::trusted(good.cid(), other.bytes().clone());
    let lie = fault(import(&car(&[lie])).await.expect_err("a lie"));
    assert!(matches!(lie, CarFault::Block(DagError::HashMismatch { .. })), "{lie}");
    assert!(matches!(
        fault(import(b"").await.expect_err("nothing")),
        CarFault::Cut("its header")
    ));
    assert!(matches!(
        fault(import(&[0; 100]).await.expect_err("zeros")),
        CarFault::Length
    ));
    let error = import(&whole[..whole.len() - 1]).await.expect_err("cut");
    assert_eq!(error.class(), ErrorClass::Permanent);

    let broken = futures::stream::iter([Ok(Bytes::from(whole)), Err("the line went dead")]);
    let error = import_car(broken, Store::new()).await.expect_err("broken off");
    assert_eq!(error, ContentError::Input("the line went dead".into()));
    assert_eq!(error.class(), ErrorClass::Temporary);
}

#[tokio::test]
async fn a_missing_block_counts_where_it_is_needed_and_not_before() {
    let store = Store::new();
    let mut options = AddOptions::v1_2025();
    options.unixfs.chunker = Chunker::Size(100);
    let whole = noise(2000, 8);
    let cid = add_file(options, &store, &whole).await;
    let walked = walk(&store, &[cid], WalkOptions::default()).await.expect("whole");
    assert_eq!(walked.len(), 21);
    store.remove(&walked[11]).expect("it was there");
    let content = Content::new(store.clone());
    let mut file = content.cat(cid, 0, None).await.expect("a file").bytes;
    let mut read = Vec::new();
    let error = loop {
        match file.next().await.expect("an error comes first") {
            Ok(bytes) => read.extend_from_slice(&bytes),
            Err(error) => break error,
        }
    };
    assert_eq!(read, whole[..1000]);
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert!(file.next().await.is_none(), "an error is the end");
    assert_eq!(cat(&content, cid, 1100, None).await.expect("behind it"), &whole[1100..]);

    // A CAR file ends with the error, after what came before it.
    let mut car = content.car(vec![cid], WalkOptions::default());
    let mut reader = CarReader::new();
    let error = loop {
        match car.next().await.expect("an error comes first") {
            Ok(part) => reader.push(&part),
            Err(error) => break error,
        }
    };
    assert_eq!(error.class(), ErrorClass::NotFound);
    assert!(car.next().await.is_none());
    let mut blocks = 0;
    while let Some(event) = reader.next().expect("good") {
        blocks += usize::from(matches!(event, CarEvent::Block(_)));
    }
    assert_eq!(blocks, 11);
}

#[tokio::test]
async fn scopes_hold_what_it_takes_and_no_more() {
    let store = Store::new();
    let mut options = AddOptions::v1_2025();
    options.unixfs.chunker = Chunker::Size(100);
    options.unixfs.file_links_max = 4;
    options.unixfs.sharding.above = Some(200);
    let entries = (0..50).map(|number| (Entry::file(format!("d/{number}")), noise(1000, number)));
    let root = add(options, store.clone(), entries).await.expect("added").roots[0].cid;
    let content = Content::new(store.clone());
    let resolved = content.resolve(root, b"7").await.expect("there");

    assert_eq!(walk(&store, &[root], scope(Scope::Block)).await.expect("one"), [root]);
    let all = walk(&store, &[root], WalkOptions::default()).await.expect("all");
    assert_eq!(all.len(), store.len());
    let shards = walk(&store, &[root], scope(ENTITY)).await.expect("shards");
    assert!(
        shards.len() > 1 && shards.len() < all.len() - 500,
        "{} shards",
        shards.len()
    );
    let of_all: Vec<Cid> = all.iter().copied().filter(|cid| shards.contains(cid)).collect();
    assert_eq!(shards, of_all, "depth first");

    // A file of 10 leaves under three nodes and a root.
    let file = walk(&store, &[resolved.cid], scope(ENTITY)).await.expect("a file");
    assert_eq!(
        file,
        walk(&store, &[resolved.cid], WalkOptions::default())
            .await
            .expect("all of it")
    );
    assert_eq!(file.len(), 14);
    for (from, to, blocks) in [
        (0, Some(99), 3),
        (0, Some(100), 4),
        (-100, None, 3),
        (350, Some(450), 5),
        (-200, Some(-101), 3),
        (0, Some(-1), 14),
        (1000, None, 1),
        (5, Some(4), 1),
    ] {
        let part = walk(&store, &[resolved.cid], scope(Scope::Entity { from, to }))
            .await
            .expect("a part");
        assert_eq!(part.len(), blocks, "{from}:{to:?}");
        let in_order: Vec<Cid> = file.iter().copied().filter(|cid| part.contains(cid)).collect();
        assert_eq!(part, in_order);
    }

    // What is no UnixFS, or is of a codec that nobody reads, is one block.
    let graph = list(&[root]);
    let strange = block(0x51, b"cbor");
    let others = Store::of([graph.clone(), strange.clone()]);
    for root in [graph.cid(), strange.cid()] {
        assert_eq!(walk(&others, &[root], scope(ENTITY)).await.expect("one"), [root]);
    }
    let error = walk(&others, &[strange.cid()], WalkOptions::default())
        .await
        .expect_err("its links");
    assert!(
        matches!(error, ContentError::Dag(DagError::UnknownCodec { code: 0x51, .. })),
        "{error}"
    );

    // The blocks on the way come first, and the end of the path is the root.
    let file = collect(content.car_of_path(&resolved, scope(Scope::Block)))
        .await
        .expect("a file");
    let back = Store::new();
    let parts = futures::stream::iter([Ok::<_, String>(Bytes::from(file))]);
    let imported = import_car(parts, back.clone()).await.expect("good");
    assert_eq!(imported.roots, [resolved.cid]);
    assert_eq!(imported.blocks as usize, resolved.along.len() + 1);
    let proven = Content::new(back)
        .resolve(root, b"7")
        .await
        .expect("the blocks on the way are all that it takes");
    assert_eq!(proven, resolved);
}

#[tokio::test]
async fn identity_blocks_are_followed_and_not_given_out() {
    let inline: Cid = "bafkqabtimvwgy3yk".parse().expect("valid");
    let root = list(&[inline]);
    let store = Store::of([root.clone()]);
    let walked = walk(&store, &[root.cid(), inline], WalkOptions::default()).await;
    assert_eq!(walked.expect("walked"), [root.cid()]);
    let content = Content::new(store.clone());
    assert_eq!(cat(&content, inline, 1, Some(3)).await.expect("a file"), b"ell");
    let empty = collect(content.car(vec![inline], scope(ENTITY))).await.expect("a file");
    let imported = import(&empty).await.expect("good");
    assert_eq!((imported.roots, imported.blocks), (vec![inline], 0));
    assert_eq!(store.gets.total(), 1);
}

#[tokio::test]
async fn a_graph_that_unfolds_without_end_takes_no_memory() {
    // 2^60 ways through 60 blocks.
    let mut all = vec![block(0x55, b"leaf")];
    for _ in 0..60 {
        let below = all[all.len() - 1].cid();
        all.push(list(&[below, below]));
    }
    let root = all[all.len() - 1].cid();
    let store = Store::of(all);
    assert_eq!(
        walk(&store, &[root], WalkOptions::default())
            .await
            .expect("once each")
            .len(),
        61
    );
    let options = WalkOptions {
        scope: Scope::All,
        duplicates: true,
    };
    let mut endless = Content::new(store.clone()).walk(vec![root], options).take(10_000);
    while let Some(block) = endless.next().await {
        block.expect("good");
    }
    drop(endless);
    assert_eq!(store.gets.now(), 0, "what was under way is cancelled");
}

#[tokio::test]
async fn what_would_fill_the_memory_is_refused() {
    // Wide blocks in each other: each leaves its links behind in line.
    let leaf = block(0x55, b"x").cid();
    let mut all = vec![list(&vec![leaf; 40_000])];
    for _ in 0..FRONTIER_MAX / 40_000 + 1 {
        let mut links = vec![all[all.len() - 1].cid()];
        links.resize(40_000, leaf);
        all.push(list(&links));
    }
    let root = all[all.len() - 1].cid();
    let store = Store::of(all);
    let error = walk(&store, &[root], WalkOptions::default())
        .await
        .expect_err("too wide");
    assert!(matches!(error, ContentError::Dag(DagError::TooLarge { .. })), "{error}");

    // The same of directories, in a tar.
    let mut all = vec![block(0x55, b"x")];
    let mut depth = 0;
    while depth * 1_000_000 < OPEN_DIRECTORIES_BYTES_MAX + 2_000_000 {
        let mut entries = vec![("a".to_owned(), all[all.len() - 1].cid())];
        entries.extend((0..10_000).map(|number| (format!("b{number:050}"), leaf)));
        all.push(directory(&entries));
        depth += 1;
    }
    let root = all[all.len() - 1].cid();
    let error = collect(Content::new(Store::of(all)).tar(root, "top"))
        .await
        .expect_err("too deep");
    assert!(matches!(error, ContentError::Dag(DagError::TooLarge { .. })), "{error}");
}

#[tokio::test]
async fn names_that_lead_elsewhere_come_into_no_tar() {
    // A directory that no builder makes: its entry's name is changed in the bytes.
    let leaf = block(0x55, b"x");
    let honest = directory(&[("a0b".to_owned(), leaf.cid())]);
    for name in [&b".."[..], b"a/b", b"/ab", b"a\0b", b""] {
        let mut bytes = honest.bytes().to_vec();
        let at = bytes.windows(3).position(|window| window == b"a0b").expect("the name");
        // The lengths of the name and of the link change with it.
        let shorter = (3 - name.len()) as u8;
        bytes.splice(at..at + 3, name.iter().copied());
        bytes[at - 1] -= shorter;
        bytes[1] -= shorter;
        let evil = block(0x70, &bytes);
        let store = Store::of([evil.clone(), leaf.clone()]);
        let content = Content::new(store);
        let listed: Vec<_> = content.list(evil.cid()).try_collect().await.expect("it can be listed");
        assert_eq!(listed[0].name, name);
        let error = collect(content.tar(evil.cid(), "top"))
            .await
            .expect_err("it can't be written");
        assert!(
            matches!(error, ContentError::BadEntry { field: "name", .. }),
            "{name:?}: {error}"
        );
    }
    for name in ["", "..", "a/b"] {
        let store = Store::of([leaf.clone()]);
        collect(Content::new(store).tar(leaf.cid(), name))
            .await
            .expect_err(name);
    }
    // Paths become too long, though names do not.
    let mut all = vec![leaf];
    for _ in 0..20 {
        let entries = [("n".repeat(250), all[all.len() - 1].cid())];
        all.push(directory(&entries));
    }
    let root = all[all.len() - 1].cid();
    let error = collect(Content::new(Store::of(all)).tar(root, "top"))
        .await
        .expect_err("too long");
    assert!(matches!(error, ContentError::BadEntry { field: "path", .. }), "{error}");
}

#[tokio::test]
async fn kinds_are_told_apart() {
    let leaf = block(0x55, b"x");
    let folder = directory(&[("a".to_owned(), leaf.cid())]);
    let store = Store::of([leaf.clone(), folder.clone()]);
    let content = Content::new(store);
    let error = cat(&content, folder.cid(), 0, None).await.expect_err("a directory");
    assert!(
        error.to_string().contains("a directory, and a file was asked for"),
        "{error}"
    );
    let error = content
        .list(leaf.cid())
        .try_collect::<Vec<_>>()
        .await
        .expect_err("a file");
    assert!(
        error.to_string().contains("a file, and a directory was asked for"),
        "{error}"
    );
    let error = content.resolve(folder.cid(), b"a/b").await.expect_err("below a file");
    assert!(
        matches!(error, ContentError::Dag(DagError::NotADirectory { .. })),
        "{error}"
    );
    let error = content.resolve(folder.cid(), b"c").await.expect_err("no such name");
    assert!(matches!(error, ContentError::Dag(DagError::NotFound { .. })), "{error}");
}
