//! CIDs of files, live, beside those that a real Kubo gives the same bytes with the same options.

mod support;

use cluster_dag::HashFunction;
use cluster_dag::unixfs::{Chunker, CidVersion, Layout, Metadata, Mtime, Options};

use support::{Kubo, add_file, file_cid, noise};

const KIB: usize = 1024;

/// Compares both sides on many contents.
fn compare(kubo: &Kubo, flags: &[&str], options: &Options, contents: &[&[u8]]) {
    let theirs = kubo.file_cids(flags, contents);
    for (content, theirs) in contents.iter().zip(theirs) {
        let ours = file_cid(options, content);
        assert_eq!(ours, theirs, "{} bytes with {flags:?}, {options:?}", content.len());
    }
}

/// Prefixes of a content.
fn prefixes<'a>(content: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    lengths.iter().map(|length| &content[..*length]).collect()
}

#[test]
fn files_of_the_profile_of_2015() {
    let kubo = Kubo::new(&["unixfs-v0-2015"]);
    let options = Options::v0_2015();
    let chunk = 256 * KIB;
    let content = noise(175 * chunk + 1, 1);
    let lengths = [
        0,
        1,
        chunk - 1,
        chunk,
        chunk + 1,
        7 * chunk + 12_345,
        174 * chunk,
        174 * chunk + 1,
        content.len(),
    ];
    compare(&kubo, &[], &options, &prefixes(&content, &lengths));
    // Three levels of 174 links each, in small chunks.
    let small = Options {
        chunker: Chunker::Size(64),
        ..options.clone()
    };
    let full = 174 * 174 * 64;
    let lengths = [
        63,
        64,
        65,
        174 * 64,
        174 * 64 + 1,
        2 * 174 * 64,
        full,
        full + 1,
        full + 175 * 64,
    ];
    compare(&kubo, &["--chunker=size-64"], &small, &prefixes(&content, &lengths));
    // All zeros: every leaf is the same block.
    compare(&kubo, &[], &options, &[&vec![0; 3 * chunk]]);
}

#[test]
fn files_of_the_profile_of_2025() {
    let kubo = Kubo::new(&["unixfs-v1-2025"]);
    let options = Options::v1_2025();
    let chunk = KIB * KIB;
    let content = noise(20 * chunk, 2);
    let lengths = [0, 1, chunk - 1, chunk, chunk + 1, 9 * chunk, content.len()];
    compare(&kubo, &[], &options, &prefixes(&content, &lengths));
    let small = Options {
        chunker: Chunker::Size(100),
        ..options
    };
    let full = 1024 * 100;
    let lengths = [full - 1, full, full + 1, 3 * full + 7, 20 * full];
    compare(&kubo, &["--chunker=size-100"], &small, &prefixes(&content, &lengths));
}

#[test]
fn versions_leaves_and_hash_functions() {
    let kubo = Kubo::new(&[]);
    let chunk = 256 * KIB;
    let content = noise(3 * chunk + 5, 3);
    let contents = prefixes(&content, &[0, 1, chunk, chunk + 1, content.len()]);
    let base = Options::v0_2015();
    let with = |cid_version, raw_leaves, hash| Options {
        cid_version,
        raw_leaves,
        hash,
        ..base.clone()
    };
    let sha = HashFunction::Sha2_256;
    compare(&kubo, &["--raw-leaves"], &with(CidVersion::V0, true, sha), &contents);
    compare(&kubo, &["--cid-version=1"], &with(CidVersion::V1, true, sha), &contents);
    compare(
        &kubo,
        &["--cid-version=1", "--raw-leaves=false"],
        &with(CidVersion::V1, false, sha),
        &contents,
    );
    for name in [
        "sha2-512",
        "sha3-224",
        "sha3-512",
        "blake2b-256",
        "blake2b-512",
        "blake2b-160",
        "blake3",
    ] {
        let hash = name.parse().expect("a hash function");
        let flag = format!("--hash={name}");
        compare(&kubo, &[&flag], &with(CidVersion::V1, true, hash), &contents);
        compare(
            &kubo,
            &[&flag, "--raw-leaves=false"],
            &with(CidVersion::V1, false, hash),
            &contents,
        );
    }
}

#[test]
fn chunkers() {
    let kubo = Kubo::new(&[]);
    let content = noise(5 << 20, 4);
    // Text repeats itself; chunkers find other places in it than in noise.
    let text: Vec<u8> = (0..200_000u32)
        .flat_map(|n| format!("line {} of many\n", n / 3).into_bytes())
        .collect();
    for chunker in [
        "size-1000",
        "size-2096896",
        "rabin",
        "rabin-65536",
        "rabin-16-17-18",
        "rabin-16-100-5000",
        "rabin-512-1024-2048",
        "rabin-262144-524288-1048576",
        "rabin-min:100-avg:1000-max:10000",
        "buzhash",
    ] {
        let options = Options {
            chunker: chunker.parse().expect("a chunker"),
            ..Options::v0_2015()
        };
        // Small chunks make many blocks, and Kubo needs a while for a million.
        let small = matches!(options.chunker, Chunker::Rabin { max: ..100, .. });
        let longest = if small { 100_000 } else { content.len() };
        let lengths = [
            0,
            1,
            15,
            16,
            17,
            5000,
            128 * KIB - 1,
            128 * KIB,
            128 * KIB + 1,
            512 * KIB,
            1_234_567,
            longest,
        ];
        let mut contents = prefixes(&content, &lengths.map(|length| length.min(longest)));
        contents.push(&text[..text.len().min(longest)]);
        compare(&kubo, &[&format!("--chunker={chunker}")], &options, &contents);
    }
}

#[test]
fn trickle() {
    let kubo = Kubo::new(&[]);
    let content = noise(6 << 20, 5);
    for (flags, options) in [
        (vec!["--trickle"], Options::v0_2015()),
        (
            vec!["--trickle", "--raw-leaves", "--cid-version=1"],
            Options {
                cid_version: CidVersion::V1,
                raw_leaves: true,
                ..Options::v0_2015()
            },
        ),
    ] {
        let options = Options {
            layout: Layout::Trickle,
            ..options
        };
        compare(
            &kubo,
            &flags,
            &options,
            &prefixes(&content, &[0, 1, 256 * KIB, 256 * KIB + 1, content.len()]),
        );
        // Every way in which a node can be full: 174 leaves, then subtrees that grow.
        let small = Options {
            chunker: Chunker::Size(32),
            ..options.clone()
        };
        let row = 174 * 32;
        let lengths = [
            row,
            row + 1,
            2 * row,
            2 * row + 1,
            5 * row,
            5 * row + 1,
            6 * row + 1,
            40 * row + 9,
            content.len(),
        ];
        compare(
            &kubo,
            &[&flags[..], &["--chunker=size-32"]].concat(),
            &small,
            &prefixes(&content, &lengths),
        );
        let narrow = Options {
            chunker: Chunker::Size(32),
            file_links_max: 2,
            ..options
        };
        let lengths = [32, 64, 65, 100, 200, 640, 1000, 10_000, 54_321];
        let flags = [&flags[..], &["--chunker=size-32", "--max-file-links=2"]].concat();
        compare(&kubo, &flags, &narrow, &prefixes(&content, &lengths));
    }
}

#[test]
fn narrow_nodes() {
    let kubo = Kubo::new(&[]);
    let content = noise(100_000, 6);
    for links in [2usize, 3, 11] {
        let options = Options {
            chunker: Chunker::Size(100),
            file_links_max: links,
            ..Options::v0_2015()
        };
        let lengths: Vec<usize> = (0..30)
            .map(|n| 100 * n + n % 3)
            .chain([12_345, 80_000, content.len()])
            .collect();
        let flags = ["--chunker=size-100", &format!("--max-file-links={links}")];
        compare(&kubo, &flags, &options, &prefixes(&content, &lengths));
    }
}

#[test]
fn mode_and_mtime_of_files() {
    let kubo = Kubo::new(&[]);
    let chunk = 256 * KIB;
    let content = noise(2 * chunk, 7);
    let contents = prefixes(&content, &[0, 1, chunk, chunk + 1, content.len()]);
    let mtime = |seconds, nanos| Some(Mtime { seconds, nanos });
    for (flags, mode, mtime) in [
        (vec!["--mode=0644"], Some(0o644), None),
        (vec!["--mtime=1700000000"], None, mtime(1_700_000_000, 0)),
        (
            vec!["--mtime=1700000000", "--mtime-nsecs=42"],
            None,
            mtime(1_700_000_000, 42),
        ),
        (vec!["--mode=0755", "--mtime=-5"], Some(0o755), mtime(-5, 0)),
        (vec!["--mode=0755", "--cid-version=1", "--trickle"], Some(0o755), None),
    ] {
        let metadata = Metadata { mode, mtime };
        let trickle = flags.contains(&"--trickle");
        let options = Options {
            cid_version: if trickle { CidVersion::V1 } else { CidVersion::V0 },
            layout: if trickle { Layout::Trickle } else { Layout::Balanced },
            ..Options::v0_2015()
        };
        let theirs = kubo.file_cids(&flags, &contents);
        for (content, theirs) in contents.iter().zip(theirs) {
            let ours = add_file(&options, metadata, content, &mut |_| ()).cid.to_string();
            assert_eq!(ours, theirs, "{} bytes with {flags:?}", content.len());
        }
    }
}
