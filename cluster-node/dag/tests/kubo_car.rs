//! DAGs that go back and forth between us and a real Kubo as CAR files, read on both sides.

mod support;

use std::fs;

use cluster_dag::car::{CarEvent, CarReader, CarWriter, v2_frame};
use cluster_dag::unixfs::{
    Chunker, DirectoryReader, FileReader, Layout, ListStep, Metadata, Mtime, Node, Options, PathResolver, ReadStep,
    ResolveStep,
};
use cluster_dag::{Block, DagError};
use node_core::Cid;

use support::{Keep, Kubo, Store, add_file, add_path, noise};

/// All blocks of a CAR file, in order, after its roots.
fn read_car(file: &[u8]) -> (Vec<Cid>, Vec<Block>) {
    let mut reader = CarReader::new();
    let (mut roots, mut blocks) = (Vec::new(), Vec::new());
    for piece in file.chunks(64 * 1024) {
        reader.push(piece);
        while let Some(event) = reader.next().expect("a good file") {
            match event {
                CarEvent::Header { version, roots: named } => {
                    assert_eq!(version, 1);
                    roots = named;
                }
                CarEvent::Block(block) => blocks.push(block),
            }
        }
    }
    reader.finish().expect("a whole file");
    (roots, blocks)
}

fn write_car(root: Cid, blocks: &[Block]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = CarWriter::new(&[root], &mut out).expect("one root");
    for block in blocks {
        writer.block(block, &mut out);
    }
    out
}

fn store(blocks: Vec<Block>) -> Store {
    Store(blocks.into_iter().map(|block| (block.cid(), block)).collect())
}

/// Reads a range of a file and counts the blocks that it takes.
fn read(store: &Store, root: Cid, start: u64, end: Option<u64>) -> Result<(Vec<u8>, usize), DagError> {
    let mut reader = FileReader::new(root).range(start, end).ahead(7);
    let (mut content, mut fetched, mut stalled) = (Vec::new(), 0, false);
    loop {
        let wanted = reader.wanted();
        assert!(!stalled || !wanted.is_empty(), "it needs what it does not want");
        stalled = false;
        // The last that is wanted arrives first.
        for cid in wanted.into_iter().rev() {
            fetched += 1;
            assert!(reader.supply(store.get(&cid)), "{cid} was wanted");
        }
        match reader.step()? {
            ReadStep::Data(bytes) => content.extend_from_slice(&bytes),
            ReadStep::Need(_) => stalled = true,
            ReadStep::End => return Ok((content, fetched)),
        }
    }
}

fn list(store: &Store, root: Cid) -> Vec<(Vec<u8>, Cid, u64)> {
    let mut reader = DirectoryReader::new(root);
    let (mut entries, mut stalled) = (Vec::new(), false);
    loop {
        let wanted = reader.wanted();
        assert!(!stalled || !wanted.is_empty(), "it needs what it does not want");
        stalled = false;
        for cid in wanted {
            assert!(reader.supply(store.get(&cid)), "{cid} was wanted");
        }
        match reader.step().expect("a directory") {
            ListStep::Entry(entry) => entries.push((entry.name.to_vec(), entry.cid, entry.tsize)),
            ListStep::Need(_) => stalled = true,
            ListStep::End => return entries,
        }
    }
}

fn resolve(store: &Store, root: Cid, path: &str) -> Result<Cid, DagError> {
    let mut resolver = PathResolver::new(root, path.as_bytes())?;
    loop {
        match resolver.step()? {
            ResolveStep::Found(cid) => return Ok(cid),
            ResolveStep::Need(cid) => assert!(resolver.supply(store.get(&cid)), "{cid} was needed"),
        }
    }
}

#[test]
fn what_kubo_added_and_exports_is_read() {
    let kubo = Kubo::new(&[]);
    let content = noise(3_000_000, 21);
    fs::write(kubo.path("in/file"), &content).expect("written");
    for flags in [
        &[][..],
        &["--cid-version=1", "--chunker=size-1000"],
        &["--trickle", "--chunker=size-1000"],
        &["--chunker=buzhash", "--raw-leaves"],
        &["--hash=blake3", "--chunker=rabin-1000-2000-3000"],
    ] {
        let cid = kubo.path_cid(flags, &kubo.path("in/file"));
        let (roots, blocks) = read_car(&kubo.export(&cid));
        assert_eq!(roots.iter().map(Cid::to_string).collect::<Vec<_>>(), [cid]);
        let (root, all) = (roots[0], blocks.len());
        let store = store(blocks);
        assert_eq!(
            Node::decode(&store.get(&root)),
            Ok(Node::File {
                bytes: content.len() as u64,
                metadata: Metadata::default()
            })
        );
        let (whole, fetched) = read(&store, root, 0, None).expect("a file");
        assert!(whole == content, "{flags:?}");
        assert_eq!(fetched, all, "{flags:?}");
        for (start, end) in [
            (0, 1),
            (999, 1001),
            (1_234_567, 1_300_000),
            (2_999_999, 3_000_000),
            (2_999_999, 9_000_000),
        ] {
            let (part, fetched) = read(&store, root, start, Some(end)).expect("a file");
            let end = end.min(content.len() as u64) as usize;
            assert!(part == content[start as usize..end], "{start}..{end} with {flags:?}");
            assert!(fetched < 80, "{fetched} blocks for {start}..{end} with {flags:?}");
        }
        assert_eq!(read(&store, root, 3_000_000, None).expect("a file").0, b"");
        assert_eq!(read(&store, root, 5, Some(5)).expect("a file").0, b"");
    }
}

#[test]
fn directories_of_kubo_are_listed_and_walked() {
    let kubo = Kubo::new(&[]);
    let root = kubo.path("tree");
    fs::create_dir_all(root.join("plain")).expect("made");
    fs::create_dir_all(root.join("wide")).expect("made");
    fs::write(root.join("plain/file"), b"plain").expect("written");
    std::os::unix::fs::symlink("plain/file", root.join("link")).expect("linked");
    for number in 0..2200 {
        fs::write(root.join(format!("wide/{number:0100}")), number.to_string()).expect("written");
    }
    let cid = kubo.path_cid(&[], &root);
    let (roots, blocks) = read_car(&kubo.export(&cid));
    let store = store(blocks);

    // The listings are those of `ipfs ls`, in whatever order.
    for path in ["", "plain", "wide"] {
        let directory = resolve(&store, roots[0], path).expect("it exists");
        let theirs = kubo.lines(&["ls", "--size=false", "--resolve-type=false", &directory.to_string()]);
        let mut theirs: Vec<(String, String)> = theirs
            .iter()
            .filter_map(|line| line.split_once(char::is_whitespace))
            .map(|(cid, name)| (name.trim().trim_end_matches('/').to_owned(), cid.to_owned()))
            .collect();
        let mut ours: Vec<(String, String)> = list(&store, directory)
            .into_iter()
            .map(|(name, cid, _)| (String::from_utf8(name).expect("text"), cid.to_string()))
            .collect();
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs, "{path:?}");
    }
    let wide = resolve(&store, roots[0], "/wide/").expect("it exists");
    assert!(matches!(
        Node::decode(&store.get(&wide)),
        Ok(Node::Directory { sharded: true, .. })
    ));

    for (path, content) in [
        ("plain/file", "plain".to_owned()),
        (&format!("//wide//{:0100}", 1234), "1234".to_owned()),
    ] {
        let cid = resolve(&store, roots[0], path).expect("it exists");
        let theirs = kubo.lines(&["resolve", "-r", &format!("/ipfs/{}/{path}", roots[0])]);
        assert_eq!(theirs, [format!("/ipfs/{cid}")]);
        assert_eq!(read(&store, cid, 0, None).expect("a file").0, content.into_bytes());
    }
    let link = resolve(&store, roots[0], "link").expect("it exists");
    assert!(matches!(Node::decode(&store.get(&link)), Ok(Node::Symlink { target, .. }) if target == "plain/file"));
    for path in ["nothing", "wide/nothing", "plain/nothing"] {
        assert!(
            matches!(resolve(&store, roots[0], path), Err(DagError::NotFound { .. })),
            "{path}"
        );
    }
    for path in ["plain/file/below", "link/below"] {
        assert!(
            matches!(resolve(&store, roots[0], path), Err(DagError::NotADirectory { .. })),
            "{path}"
        );
    }
}

#[test]
fn kubo_imports_what_is_written_here() {
    let kubo = Kubo::new(&[]);
    let content = noise(2_500_000, 22);
    for (number, layout) in [Layout::Balanced, Layout::Trickle].into_iter().enumerate() {
        let options = Options {
            chunker: Chunker::Size(10_000),
            layout,
            raw_leaves: false,
            ..Options::v1_2025()
        };
        let metadata = Metadata {
            mode: Some(0o640),
            mtime: Some(Mtime {
                seconds: 1_700_000_000,
                nanos: 7,
            }),
        };
        let (mut kept, mut blocks) = (Store::default(), Vec::new());
        let added = add_file(&options, metadata, &content, &mut |block| {
            kept.put(block.clone());
            blocks.push(block);
        });
        let file = write_car(added.cid, &blocks);
        // Once as version 1, once in the frame of version 2.
        let file = match number {
            0 => file,
            _ => [&v2_frame(file.len() as u64)[..], &file].concat(),
        };
        let path = kubo.path(&format!("{number}.car"));
        fs::write(&path, &file).expect("written");
        kubo.run(&["dag", "import", "--pin-roots=true", &path.to_string_lossy()]);
        let root = added.cid.to_string();
        assert!(kubo.run(&["cat", &root]) == content, "{layout:?}");
        let pinned = kubo.lines(&["pin", "ls", "--type=recursive", "-q"]);
        assert!(pinned.contains(&root), "{pinned:?}");
        let size: u64 = blocks.iter().map(|block| block.bytes().len() as u64).sum();
        assert_eq!(added.tsize, size, "noise does not repeat itself");
    }
}

#[test]
fn kubo_gets_back_the_folder_that_was_added_here() {
    let kubo = Kubo::new(&[]);
    let folder = kubo.path("folder");
    fs::create_dir_all(folder.join("wide")).expect("made");
    fs::write(folder.join("file"), noise(600_000, 23)).expect("written");
    for number in 0..3000 {
        fs::write(folder.join(format!("wide/{number:090}")), format!("{number}")).expect("written");
    }
    let mut blocks = Vec::new();
    let added = add_path(&Options::v1_2025(), Keep::Nothing, &folder, &mut |block| {
        blocks.push(block)
    });
    let path = kubo.path("folder.car");
    fs::write(&path, write_car(added.cid, &blocks)).expect("written");
    kubo.run(&["dag", "import", &path.to_string_lossy()]);
    let back = kubo.path("back");
    kubo.run(&["get", "-o", &back.to_string_lossy(), &added.cid.to_string()]);
    let names = |folder: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&back.join("wide")), names(&folder.join("wide")));
    for name in ["file".to_owned(), format!("wide/{:090}", 2999)] {
        assert!(
            fs::read(back.join(&name)).expect("got") == fs::read(folder.join(&name)).expect("written"),
            "{name}"
        );
    }
    // And the whole of it comes back to us.
    let (roots, blocks) = read_car(&kubo.export(&added.cid.to_string()));
    let store = store(blocks);
    assert_eq!(roots, [added.cid]);
    let wide = resolve(&store, added.cid, "wide").expect("it exists");
    assert_eq!(list(&store, wide).len(), 3000);
}

#[test]
fn links_are_those_that_kubo_finds() {
    let kubo = Kubo::new(&[]);
    // `ipfs refs` fetches what it finds, so it has to be there.
    fs::write(kubo.path("in/leaf"), b"a leaf").expect("written");
    let leaf = kubo.path_cid(&["--raw-leaves"], &kubo.path("in/leaf"));
    let old = kubo.path_cid(&[], &kubo.path("in/leaf"));
    let text = format!(
        r#"{{"a":[1,-2,3.5,true,null,{{"/":"{leaf}"}}],"b":{{"c":{{"/":"{old}"}},"d":{{"/":{{"bytes":"AQID"}}}}}},"e":"text é \" \\"}}"#
    );
    fs::write(kubo.path("in/graph.json"), text).expect("written");
    let path = kubo.path("in/graph.json").to_string_lossy().into_owned();
    for codec in ["dag-cbor", "dag-json"] {
        let flag = format!("--store-codec={codec}");
        let cid: Cid = kubo.lines(&["dag", "put", "--input-codec=dag-json", &flag, &path])[0]
            .parse()
            .expect("a CID");
        let bytes = kubo.run(&["block", "get", &cid.to_string()]);
        let block = Block::new(cid, bytes.into()).expect("the block of its CID");
        let mut ours: Vec<String> = block
            .links()
            .expect("a good block")
            .iter()
            .map(Cid::to_string)
            .collect();
        let mut theirs = kubo.lines(&["refs", &cid.to_string()]);
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{codec}");
        assert_eq!(ours.len(), 2);
    }
}
