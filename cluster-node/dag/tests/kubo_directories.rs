//! CIDs of directories, live, beside those that a real Kubo gives the same tree with the same options.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use cluster_dag::unixfs::{CidVersion, DirectoryBuilder, Metadata, Options, Sharding, SizeEstimate};

use support::{Keep, Kubo, add_file, add_path, noise};

/// Compares both sides on a path.
fn compare(kubo: &Kubo, flags: &[&str], options: &Options, keep: Keep, path: &Path) {
    let theirs = kubo.path_cid(flags, path);
    let ours = add_path(options, keep, path, &mut |_| ()).cid.to_string();
    assert_eq!(ours, theirs, "{} with {flags:?}, {options:?}", path.display());
}

/// A folder with some of everything.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("a/b/c")).expect("made");
    fs::create_dir_all(at.join("empty/inside")).expect("made");
    fs::write(at.join("a/b/c/deep.txt"), b"deep down\n").expect("written");
    fs::write(at.join("a/large"), noise(700_000, 11)).expect("written");
    fs::write(at.join("a/nothing"), b"").expect("written");
    // Names sort by bytes, not by letters or length.
    for name in ["B", "a.txt", "a-b", "ä", "z z", "10", "9", "%41", "日本"] {
        fs::write(at.join(name), name.as_bytes()).expect("written");
    }
    symlink("a/b/c/deep.txt", at.join("link")).expect("linked");
    symlink("../nowhere at all", at.join("a/broken")).expect("linked");
}

#[test]
fn nested_directories_with_symlinks() {
    for (profile, options) in [
        ("unixfs-v0-2015", Options::v0_2015()),
        ("unixfs-v1-2025", Options::v1_2025()),
    ] {
        let kubo = Kubo::new(&[profile]);
        let root = kubo.path("tree");
        tree(&root);
        compare(&kubo, &[], &options, Keep::Nothing, &root);
        compare(&kubo, &[], &options, Keep::Nothing, &root.join("empty"));
        compare(&kubo, &[], &options, Keep::Nothing, &root.join("empty/inside"));
        let other = Options {
            cid_version: CidVersion::V1,
            hash: "blake2b-256".parse().expect("a hash function"),
            raw_leaves: true,
            ..options
        };
        let flags = ["--hash=blake2b-256", "--cid-version=1", "--raw-leaves"];
        compare(&kubo, &flags, &other, Keep::Nothing, &root);
    }
}

#[test]
fn modes_and_mtimes_of_all_in_a_tree() {
    let kubo = Kubo::new(&[]);
    let root = kubo.path("tree");
    tree(&root);
    let set = |name: &str, mode: u32, seconds: u64, nanos: u32| {
        let path = root.join(name);
        let time = UNIX_EPOCH + Duration::new(seconds, nanos);
        File::open(&path).expect("opened").set_modified(time).expect("set");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
    };
    set("a/large", 0o600, 1_000_000_000, 5);
    set("a/b", 0o700, 1_234_567_890, 0);
    set("a/b/c/deep.txt", 0o4755, 1, 999_999_999);
    set("B", 0o1644, 1_600_000_000, 500);
    set("", 0o2750, 1_500_000_000, 1);
    compare(
        &kubo,
        &["--preserve-mode", "--preserve-mtime"],
        &Options::v0_2015(),
        Keep::ModeAndMtime,
        &root,
    );
    let v1 = Options {
        cid_version: CidVersion::V1,
        ..Options::v0_2015()
    };
    let flags = ["--preserve-mode", "--preserve-mtime", "--cid-version=1"];
    compare(&kubo, &flags, &v1, Keep::ModeAndMtime, &root);
}

#[test]
fn a_wrapped_file() {
    let kubo = Kubo::new(&[]);
    let path = kubo.path("in/some name.txt");
    let content = noise(300_000, 12);
    fs::write(&path, &content).expect("written");
    for (flags, options) in [
        (&["--wrap-with-directory"][..], Options::v0_2015()),
        (
            &["--wrap-with-directory", "--cid-version=1"],
            Options {
                cid_version: CidVersion::V1,
                raw_leaves: true,
                ..Options::v0_2015()
            },
        ),
    ] {
        let file = add_file(&options, Metadata::default(), &content, &mut |_| ());
        let mut directory = DirectoryBuilder::new(options, Metadata::default()).expect("valid");
        directory.add("some name.txt", &file).expect("a name");
        let ours = directory.finish(&mut |_| ()).expect("small").cid.to_string();
        assert_eq!(ours, kubo.path_cid(flags, &path));
    }
}

/// A folder of so many empty files, whose names have this length; the last name is longer by `more`.
fn wide(at: &Path, files: usize, name: usize, more: usize) {
    fs::create_dir_all(at).expect("made");
    for number in 0..files {
        let length = if number == files - 1 { name + more } else { name };
        fs::write(at.join(format!("{number:0length$}")), b"").expect("written");
    }
}

#[test]
fn sharded_directories() {
    for (profile, options) in [
        ("unixfs-v0-2015", Options::v0_2015()),
        ("unixfs-v1-2025", Options::v1_2025()),
    ] {
        let kubo = Kubo::new(&[profile]);
        let root = kubo.path("wide");
        // 2,500 names of 120 bytes are over 256 KiB by any estimate; a folder inside and one above stay plain.
        wide(&root.join("inside/wide"), 2500, 120, 0);
        fs::write(root.join("inside/file"), b"beside it").expect("written");
        compare(&kubo, &[], &options, Keep::Nothing, &root);
        compare(&kubo, &[], &options, Keep::Nothing, &root.join("inside/wide"));
        for fanout in [8u16, 16, 512, 1024] {
            let sharding = Sharding {
                fanout,
                ..options.sharding
            };
            let other = Options {
                sharding,
                ..options.clone()
            };
            let flag = format!("--max-hamt-fanout={fanout}");
            compare(&kubo, &[&flag], &other, Keep::Nothing, &root.join("inside/wide"));
        }
    }
}

#[test]
fn directories_of_too_many_entries_are_sharded() {
    let kubo = Kubo::new(&[]);
    let options = Options::v0_2015();
    let sharding = Sharding {
        entries_max: Some(20),
        fanout: 16,
        ..options.sharding
    };
    let other = Options { sharding, ..options };
    let flags = ["--max-directory-links=20", "--max-hamt-fanout=16"];
    for entries in [20, 21] {
        let root = kubo.path(&format!("entries-{entries}"));
        wide(&root, entries, 10, 0);
        compare(&kubo, &flags, &other, Keep::Nothing, &root);
    }
}

#[test]
fn small_blocks_lie_in_their_cids() {
    let kubo = Kubo::new(&[]);
    let root = kubo.path("small");
    wide(&root, 3, 10, 0);
    fs::write(root.join("larger"), vec![7; 200]).expect("written");
    for (flags, base, limit) in [
        (&["--inline"][..], Options::v0_2015(), 32),
        (&["--inline", "--inline-limit=128"][..], Options::v0_2015(), 128),
        (
            &["--inline", "--inline-limit=100", "--cid-version=1", "--raw-leaves"][..],
            Options {
                cid_version: CidVersion::V1,
                raw_leaves: true,
                ..Options::v0_2015()
            },
            100,
        ),
    ] {
        let options = Options {
            inline: Some(limit),
            ..base
        };
        compare(&kubo, flags, &options, Keep::Nothing, &root);
    }
}

#[test]
fn a_sharded_directory_with_mode_and_mtime() {
    let kubo = Kubo::new(&[]);
    let root = kubo.path("wide");
    wide(&root, 2500, 120, 0);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).expect("set");
    let flags = ["--preserve-mode", "--preserve-mtime"];
    compare(&kubo, &flags, &Options::v0_2015(), Keep::ModeAndMtime, &root);
}

#[test]
fn the_last_byte_before_a_directory_is_sharded() {
    // By names and CIDs: 1,024 entries of a 34-byte CID and a name of 222 are 256 KiB, which is not above it yet.
    let kubo = Kubo::new(&["unixfs-v0-2015"]);
    let options = Options::v0_2015();
    assert_eq!(options.sharding.estimate, SizeEstimate::Links);
    let plain = kubo.path("plain");
    wide(&plain, 1024, 222, 0);
    let sharded = kubo.path("sharded");
    wide(&sharded, 1024, 222, 1);
    compare(&kubo, &[], &options, Keep::Nothing, &plain);
    compare(&kubo, &[], &options, Keep::Nothing, &sharded);
    assert_eq!(blocks_of(&options, &plain), 1);
    assert!(blocks_of(&options, &sharded) > 1);

    // By the block: a link to an empty raw file under a name of 158 takes 204 bytes, and the data of a directory 4.
    let kubo = Kubo::new(&["unixfs-v1-2025"]);
    let options = Options::v1_2025();
    let (files, name) = (1285, 158);
    assert_eq!(files * 204 + 4, 256 * 1024);
    let plain = kubo.path("plain");
    wide(&plain, files, name, 0);
    let sharded = kubo.path("sharded");
    wide(&sharded, files, name, 1);
    compare(&kubo, &[], &options, Keep::Nothing, &plain);
    compare(&kubo, &[], &options, Keep::Nothing, &sharded);
    assert_eq!(blocks_of(&options, &plain), 1);
    assert!(blocks_of(&options, &sharded) > 1);
}

/// Blocks of a folder of empty files, theirs left out.
fn blocks_of(options: &Options, path: &Path) -> usize {
    let mut blocks = 0;
    add_path(options, Keep::Nothing, path, &mut |_| blocks += 1);
    blocks - fs::read_dir(path).expect("a folder").count()
}
