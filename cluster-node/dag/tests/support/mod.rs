//! A real Kubo without a daemon, and what both sides are given to add.

#![allow(dead_code, reason = "each test takes what it needs of this")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use cluster_dag::Block;
use cluster_dag::unixfs::{Added, DirectoryBuilder, FileBuilder, Metadata, Mtime, Options, symlink};
use node_core::Cid;

/// The version whose CIDs are the measure.
const KUBO_VERSION: &str = "0.43.0";

/// An `ipfs` binary: `PINFLEET_IPFS_BIN`, or the one that the repository's set-up builds.
pub fn binary() -> PathBuf {
    let path = match std::env::var_os("PINFLEET_IPFS_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let cache = std::env::var_os("XDG_CACHE_HOME")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from);
            let home = || Path::new(&std::env::var_os("HOME").expect("HOME or XDG_CACHE_HOME is set")).join(".cache");
            cache
                .unwrap_or_else(home)
                .join("pinfleet/bin")
                .join(format!("ipfs-{KUBO_VERSION}"))
        }
    };
    assert!(
        path.is_file(),
        "there is no Kubo at {}, and without one nothing here is proven: `cargo xtask setup` builds it, or set \
         PINFLEET_IPFS_BIN to an `ipfs` binary of version {KUBO_VERSION}",
        path.display()
    );
    path
}

/// A repository of its own, and commands on it.
pub struct Kubo {
    binary: PathBuf,
    folder: tempfile::TempDir,
}

impl Kubo {
    /// A new repository with these profiles applied.
    pub fn new(profiles: &[&str]) -> Self {
        let kubo = Self {
            binary: binary(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        kubo.run(&["init", "-p", "test"]);
        for profile in profiles {
            kubo.run(&["config", "profile", "apply", profile]);
        }
        fs::create_dir(kubo.path("in")).expect("a new folder");
        kubo
    }

    /// A path in the folder of this test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a command prints; it must succeed.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Vec<u8> {
        let shown: Vec<_> = args
            .iter()
            .map(|arg| arg.as_ref().to_string_lossy().into_owned())
            .collect();
        let output = Command::new(&self.binary)
            .args(args)
            .env("IPFS_PATH", self.folder.path().join("repo"))
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{} does not run: {error}", self.binary.display()));
        assert!(
            output.status.success(),
            "ipfs {}: {}",
            shown.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// The lines that a command prints.
    pub fn lines<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Vec<String> {
        let output = String::from_utf8(self.run(args)).expect("text");
        output.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The CIDs of files with these contents, hashed in one call.
    pub fn file_cids(&self, options: &[&str], contents: &[&[u8]]) -> Vec<String> {
        let mut args: Vec<String> = ["add", "--only-hash", "-q"].map(str::to_owned).to_vec();
        args.extend(options.iter().map(|option| (*option).to_owned()));
        for (number, content) in contents.iter().enumerate() {
            // Kubo adds them in the order of their names.
            let path = self.path(&format!("in/{number:04}"));
            fs::write(&path, content).expect("written");
            args.push(path.to_string_lossy().into_owned());
        }
        let lines = self.lines(&args);
        assert_eq!(lines.len(), contents.len(), "{options:?}");
        lines
    }

    /// The CID of a folder or file on disk, which is added to the repository.
    pub fn path_cid(&self, options: &[&str], path: &Path) -> String {
        let mut args = vec!["add", "-r", "-Q", "--pin=false"];
        args.extend(options);
        let path = path.to_string_lossy().into_owned();
        args.push(&path);
        self.lines(&args).pop().expect("a CID")
    }

    /// All blocks below a CID in the repository, as our reader finds them in an exported CAR file.
    pub fn export(&self, cid: &str) -> Vec<u8> {
        self.run(&["dag", "export", "--progress=false", cid])
    }
}

/// Bytes that look random and are the same each time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Blocks by CID.
#[derive(Default)]
pub struct Store(pub HashMap<Cid, Block>);

impl Store {
    /// Keeps a block, which must come before the ones that link to it.
    pub fn put(&mut self, block: Block) {
        for link in block.links().expect("a block of ours can be read") {
            assert!(
                self.0.contains_key(&link) || Block::inline(link).is_some(),
                "{link} comes after its parent"
            );
        }
        let checked = Block::new(block.cid(), block.bytes().clone()).expect("a block of ours has its own CID");
        self.0.insert(block.cid(), checked);
    }

    pub fn get(&self, cid: &Cid) -> Block {
        self.0
            .get(cid)
            .unwrap_or_else(|| panic!("{cid} is not in the store"))
            .clone()
    }
}

/// Adds a file in pieces.
pub fn add_file(options: &Options, metadata: Metadata, content: &[u8], sink: &mut dyn FnMut(Block)) -> Added {
    let mut file = FileBuilder::new(options.clone(), metadata).expect("valid options");
    for piece in content.chunks(100_003) {
        file.write(piece, sink).expect("chunks fit into blocks");
    }
    let added = file.finish(sink).expect("nodes fit into blocks");
    assert_eq!(added.content_bytes, content.len() as u64);
    added
}

/// The CID of a file that is not kept.
pub fn file_cid(options: &Options, content: &[u8]) -> String {
    add_file(options, Metadata::default(), content, &mut |_| ())
        .cid
        .to_string()
}

/// What is kept of mode and mtime when a path is added.
#[derive(Clone, Copy)]
pub enum Keep {
    Nothing,
    ModeAndMtime,
}

/// Adds what lies at a path, with all below it.
pub fn add_path(options: &Options, keep: Keep, path: &Path, sink: &mut dyn FnMut(Block)) -> Added {
    let found = fs::symlink_metadata(path).expect("it exists");
    let since = found
        .modified()
        .expect("known")
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let metadata = match keep {
        Keep::Nothing => Metadata::default(),
        Keep::ModeAndMtime => Metadata {
            mode: Some(found.permissions().mode()),
            mtime: Some(Mtime {
                seconds: since.as_secs() as i64,
                nanos: since.subsec_nanos(),
            }),
        },
    };
    if found.is_symlink() {
        let target = fs::read_link(path).expect("a symlink");
        return symlink(options, target.as_os_str().as_bytes(), metadata.mtime, sink).expect("a short target");
    }
    if found.is_file() {
        return add_file(options, metadata, &fs::read(path).expect("readable"), sink);
    }
    let mut directory = DirectoryBuilder::new(options.clone(), metadata).expect("valid options");
    for entry in fs::read_dir(path).expect("a folder") {
        let entry = entry.expect("an entry");
        let added = add_path(options, keep, &entry.path(), sink);
        directory.add(entry.file_name().as_bytes(), &added).expect("a name");
    }
    directory.finish(sink).expect("fits into blocks")
}
