//! The CIDs of `cluster-ctl add` beside those that `ipfs add` gives the same files with the same options.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use cluster_tests::content::fresh_bytes;
use cluster_tests::ctl::Ctl;
use cluster_tests::helia::seeded_files;
use cluster_tests::kubo::kubo_binary;
use tempfile::TempDir;

use super::{LARGE, MANY_FILES, Ours};

/// The CID profiles, as both programs call them.
const PROFILES: [&str; 2] = ["unixfs-v0-2015", "unixfs-v1-2025"];

/// Options, as both programs call them. Kubo takes raw leaves for granted with some of them, so that is always said.
const OPTIONS: [&[&str]; 10] = [
    &[],
    &["--raw-leaves"],
    &["--raw-leaves=false"],
    &["--cid-version=1", "--raw-leaves=false"],
    &["--hash=blake2b-256", "--cid-version=1", "--raw-leaves"],
    &["--chunker=size-1000"],
    &["--chunker=rabin"],
    &["--chunker=buzhash"],
    &["--trickle"],
    &["--hidden", "--wrap-with-directory"],
];

/// The program without a daemon, with a repository in which a profile is applied.
struct Ipfs {
    binary: PathBuf,
    folder: TempDir,
}

impl Ipfs {
    fn new(profile: &str) -> anyhow::Result<Self> {
        let (binary, folder) = (kubo_binary()?, tempfile::tempdir()?);
        let ipfs = Self { binary, folder };
        ipfs.run(&["init", "-p", "test"])?;
        ipfs.run(&["config", "profile", "apply", profile])?;
        Ok(ipfs)
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("IPFS_PATH", self.folder.path())
            .env("IPFS_TELEMETRY", "off")
            .stdin(Stdio::null());
        let output = command.output().context("cannot run ipfs")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ipfs {}: {error}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The CID of a path.
    fn cid(&self, options: &[&str], path: &str) -> anyhow::Result<String> {
        let fixed = ["add", "--recursive", "--quieter", "--pin=false"];
        // With modes or times it looks for what it did not keep.
        let keep = options.iter().any(|option| option.starts_with("--preserve"));
        let only_hash: &[&str] = if keep { &[] } else { &["--only-hash"] };
        self.run(&[&fixed, only_hash, options, &[path]].concat())
    }
}

/// A folder with some of everything.
fn tree(at: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(at.join("a/b/c"))?;
    fs::create_dir_all(at.join("empty/inside"))?;
    fs::write(at.join("a/b/c/deep.txt"), b"deep down\n")?;
    fs::write(at.join("a/large"), fresh_bytes(3 << 20))?;
    fs::write(at.join("a/nothing"), b"")?;
    fs::write(at.join("a/one"), b"1")?;
    fs::write(at.join(".hidden"), b"hidden")?;
    for name in ["B", "a.txt", "a-b", "ä", "z z", "10", "9", "%41", "日本"] {
        fs::write(at.join(name), name)?;
    }
    fs::set_permissions(at.join("B"), fs::Permissions::from_mode(0o640))?;
    symlink("a/b/c/deep.txt", at.join("link"))?;
    symlink("../nowhere at all", at.join("a/broken"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cids_are_those_of_ipfs_add() -> anyhow::Result<()> {
    let ours = Ours::start().await?;
    let ctl = Ctl::new(ours.cluster.api())?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    tree(&folder.path().join("tree"))?;
    fs::create_dir(folder.path().join("many"))?;
    for (name, content) in seeded_files(1, MANY_FILES, 10) {
        fs::write(folder.path().join("many").join(name), content)?;
    }
    for (name, size) in [("nothing", 0), ("one", 1), ("some", 1 << 20), ("large", LARGE)] {
        fs::write(folder.path().join(name), fresh_bytes(size))?;
    }

    let mut compared = 0;
    for profile in PROFILES {
        let ipfs = Ipfs::new(profile)?;
        let mut cases: Vec<(Vec<&str>, String)> = Vec::new();
        cases.extend(OPTIONS.iter().map(|options| (options.to_vec(), path("tree"))));
        for name in ["nothing", "one", "some", "large", "many", "tree/empty/inside"] {
            cases.push((Vec::new(), path(name)));
        }
        cases.push((
            vec!["--preserve-mode", "--preserve-mtime", "--raw-leaves=false"],
            path("tree"),
        ));
        for (options, path) in cases {
            let fixed = ["add", "--cid-only", "--replicas", "1", "--profile", profile];
            let made = ctl.run(&[&fixed, &options[..], &[&path]].concat()).await;
            let made = made.with_context(|| format!("the log ends with:\n{}", ours.cluster.peer(0).log_tail()))?;
            let theirs = ipfs.cid(&options, &path)?;
            ensure!(
                made.trim() == theirs,
                "{path} with {profile} {options:?}: {made} and {theirs}"
            );
            compared += 1;
        }
    }
    ensure!(compared == 2 * 17, "{compared}");
    // What is called so is there.
    let large = ctl
        .run(&["add", "--cid-only", "--replicas", "1", &path("large")])
        .await?;
    let back = ours.client().cat(large.trim()).await?;
    ensure!(back == fs::read(folder.path().join("large"))?, "the large file");
    ours.stop().await
}
