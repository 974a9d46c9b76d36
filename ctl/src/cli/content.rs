//! `cluster-ctl add|get|cat|export`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{OptionArgs, WaitArgs};
use crate::content::tree::Ignore;

pub(super) const ADD_HELP: &str = "\
Blocks go straight to the chosen nodes while the content is read, and the pin is recorded when
enough of them hold it all. With an error nothing is pinned. The same content with the same options
below gets the same CID as from Kubo, so adding it again does no harm.

A directory is added with all that is in it, in the order of the names' bytes, without hidden
entries; symlinks are added as such. --ignore takes shell patterns: without a slash they are for
names at any depth, with one for the path below PATH, with one at the end for directories only.

Examples:
  cluster-ctl add photos --name photos --replicas 3
  cluster-ctl add notes.txt report.pdf --wrap --expire-in 30d
  cluster-ctl add site --hidden --ignore .git/ --ignore '*.tmp' --cid-only
  tar c logs | cluster-ctl add - --name logs.tar
  cluster-ctl add --car backup.car --wait";

pub(super) const GET_HELP: &str = "\
Every block is checked against its hash. What is written appears under its name when it is complete;
with an error or after an interruption nothing of it stays. Symlinks that lead out of what is
written are left out (exit code 7) without --symlinks. Directories stay writable for their owner.

--car writes all blocks, depth first, each once, in a CAR file of version 1, of any content and not
only of files. `cluster-ctl add --car` and `ipfs dag import` take it.

--force replaces files that are there. A directory that is there keeps its other files.

Examples:
  cluster-ctl get bafybei…
  cluster-ctl get bafybei…/2026/january --to january
  cluster-ctl get bafybei… --tar --to - | tar tv
  cluster-ctl get bafybei… --car --to backup.car
  cluster-ctl get bafybei… --car --to - | ipfs dag import";

pub(super) const CAT_HELP: &str = "\
A stream that breaks goes on at another peer where it stopped.

Examples:
  cluster-ctl cat bafybei…/readme.txt
  cluster-ctl cat bafybei… --offset 1048576 --length 4096 | xxd";

/// A set of options under which the same content gets the same CID everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// CIDs of version 1, raw leaves, chunks of 1 MiB
    #[value(name = "unixfs-v1-2025")]
    V1,
    /// CIDs that begin with Qm, chunks of 256 KiB
    #[value(name = "unixfs-v0-2015", alias = "legacy-cid-v0")]
    V0,
}

impl Profile {
    /// As the API calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "unixfs-v1-2025",
            Self::V0 => "unixfs-v0-2015",
        }
    }
}

/// How files become blocks: the options of `ipfs add`, by the same names.
#[derive(Debug, Args, Default)]
#[group(id = "unixfs", multiple = true)]
#[command(next_help_heading = "How files become blocks")]
pub struct UnixFsArgs {
    /// What holds where nothing else is said [default: unixfs-v1-2025]
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub profile: Option<Profile>,
    /// 0 or 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1))]
    pub cid_version: Option<u32>,
    /// The hash function; others than sha2-256 have CIDs of version 1
    #[arg(long, value_name = "NAME", value_parser = ["sha2-256", "sha2-512", "sha3-256", "sha3-512", "blake2b-256", "blake3"])]
    pub hash: Option<String>,
    /// Where files are cut: size-BYTES, rabin, rabin-AVG, rabin-MIN-AVG-MAX or buzhash
    #[arg(long, value_name = "CHUNKER", value_parser = chunker)]
    pub chunker: Option<String>,
    /// Leaves hold nothing but bytes of the file
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub raw_leaves: Option<bool>,
    /// The trickle layout instead of a balanced tree
    #[arg(long)]
    pub trickle: bool,
    /// Links of a node of a file, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=8_192))]
    pub max_file_links: Option<u32>,
    /// Links of a node of a sharded directory: a power of two, 8 to 1024
    #[arg(long, value_name = "N", value_parser = fanout)]
    pub max_hamt_fanout: Option<u32>,
    /// Directories above this size are sharded; 0 = never
    #[arg(long, value_name = "BYTES")]
    pub hamt_threshold: Option<u64>,
    /// Keep the modes of files and directories; leaves are not raw then
    #[arg(long)]
    pub preserve_mode: bool,
    /// Keep their modification times; leaves are not raw then
    #[arg(long)]
    pub preserve_mtime: bool,
    /// Put everything into one directory, which becomes the root
    #[arg(long, alias = "wrap-with-directory")]
    pub wrap: bool,
    /// Add also what is hidden: names that begin with a dot
    #[arg(long, short = 'H')]
    pub hidden: bool,
    /// Leave out what has such a name; repeatable
    #[arg(long, value_name = "GLOB", value_parser = crate::content::tree::parse_ignore)]
    pub ignore: Vec<Ignore>,
}

/// `add`
#[derive(Debug, Args)]
// What is added is always held with everything below it.
#[command(mut_arg("mode", |mode| mode.hide(true)))]
pub struct ContentAdd {
    /// Files and directories; `-` is standard input
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// PATH is a CAR file, version 1 or 2; its blocks are added as they are
    #[arg(long, conflicts_with = "unixfs")]
    pub car: bool,
    /// What can be chosen.
    #[command(flatten)]
    pub options: OptionArgs,
    /// Whose pin it is [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub namespace: String,
    /// Tells several pins of one CID in one namespace apart
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub slot: String,
    /// Hold it without a pin; it is garbage after ten minutes unless a pin comes
    #[arg(long, conflicts_with_all = ["wait", "name", "metadata", "expire_in", "expire_at", "slot"])]
    pub no_pin: bool,
    /// Print the CID of the root and nothing else
    #[arg(long, short = 'Q', alias = "quieter")]
    pub cid_only: bool,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
    /// How files become blocks.
    #[command(flatten)]
    pub unixfs: UnixFsArgs,
}

/// `get`
#[derive(Debug, Args)]
pub struct ContentGet {
    /// CID or CID/path of a file or directory
    #[arg(value_name = "CID[/PATH]")]
    pub path: String,
    /// What to call it on the disk; with --tar and --car `-` is stdout [default: the last name of the path]
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
    /// Write a tar archive instead of what is in it
    #[arg(long, short = 'a', alias = "archive")]
    pub tar: bool,
    /// Write all blocks below the CID as a CAR file
    #[arg(long, conflicts_with = "tar")]
    pub car: bool,
    /// Replace files that are there
    #[arg(long, short)]
    pub force: bool,
    /// Write symlinks wherever they lead
    #[arg(long, conflicts_with_all = ["tar", "car"])]
    pub symlinks: bool,
}

/// `cat`
#[derive(Debug, Args)]
pub struct ContentCat {
    /// CID or CID/path of a file
    #[arg(value_name = "CID[/PATH]")]
    pub path: String,
    /// Bytes to pass over
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub offset: u64,
    /// Bytes to print, at most [default: to the end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub length: Option<u64>,
}

/// Checks the form; what is possible within it the cluster says.
fn chunker(text: &str) -> Result<String, String> {
    let number = |part: &str| part.parse::<u32>().is_ok_and(|number| number > 0);
    let parts: Vec<&str> = text.split('-').collect();
    let known = match parts.as_slice() {
        ["buzhash" | "rabin"] => true,
        ["size" | "rabin", bytes] => number(bytes),
        ["rabin", min, avg, max] => [min, avg, max].iter().all(|part| number(part)),
        _ => false,
    };
    match known {
        true => Ok(text.to_owned()),
        false => Err("use size-BYTES, rabin, rabin-AVG, rabin-MIN-AVG-MAX or buzhash, for example size-262144".into()),
    }
}

fn fanout(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(number @ 8..=1_024) if number.is_power_of_two() => Ok(number),
        _ => Err("use a power of two, 8 to 1024".into()),
    }
}
