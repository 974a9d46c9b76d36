//! Building and testing: always the whole workspace, since another selection changes features, and with them RocksDB is
//! compiled anew, which takes a quarter of an hour.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::{fuzz, machine};

/// How it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quickly.
    Dev,
    /// Well.
    Release,
}

/// What is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// What can be run.
    Programs,
    /// The tests too.
    Everything,
}

/// The repository.
pub fn root() -> PathBuf {
    // Cargo says it to what it runs. What was compiled in is another clone's when clones share a target folder.
    let own = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let own = Path::new(&own);
    own.parent().unwrap_or(own).to_owned()
}

/// Where the results go: a folder of the user, so that every clone shares it.
pub fn target() -> anyhow::Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(folder) => Ok(std::path::absolute(PathBuf::from(folder))?),
        None => Ok(machine::cache()?.join("target")),
    }
}

/// Says what is done, does it, and says how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("xtask: {what}");
    let begun = Instant::now();
    let done = work()?;
    eprintln!("xtask: {what}: done in {}", words(begun.elapsed()));
    Ok(done)
}

fn words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 60.. => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// Builds, and returns the folder of the programs.
pub fn build(profile: Profile, selection: Selection) -> anyhow::Result<PathBuf> {
    let target = target()?;
    claim(&target)?;
    let mut command = cargo(&target);
    command.args(["build", "--workspace"]);
    command.arg(match selection {
        Selection::Programs => "--bins",
        Selection::Everything => "--all-targets",
    });
    let folder = match profile {
        Profile::Dev => target.join("debug"),
        Profile::Release => {
            command.arg("--release");
            target.join("release")
        }
    };
    let what = if folder.join("cluster-node").exists() {
        "building"
    } else {
        "building (RocksDB and 450 crates, once: 10 to 25 minutes)"
    };
    step(what, || {
        let status = command.status().context("cannot run cargo")?;
        ensure!(status.success(), "the build failed");
        Ok(folder)
    })
}

/// Names this clone as the one that the target folder was built from, and throws away what another clone's sources were
/// built to. Cargo knows a crate by its place in the workspace and its age by the clock: what was built from newer files
/// of another clone would pass for ours.
pub fn claim(target: &Path) -> anyhow::Result<()> {
    let marker = target.join("pinfleet-clone");
    let own = root().canonicalize()?;
    let own = own.to_string_lossy();
    if fs::read_to_string(&marker).is_ok_and(|clone| clone == own) {
        return Ok(());
    }
    let host = fuzz::host()?;
    let fuzzed = format!("{host}/fuzz");
    let profiles: [(&str, &[&str]); 3] = [
        ("debug", &[]),
        ("release", &["--release"]),
        (&fuzzed, &["--profile", "fuzz", "--target", &host]),
    ];
    for (folder, options) in profiles {
        if !target.join(folder).is_dir() {
            continue;
        }
        let mut command = cargo(target);
        command.args(["clean", "--quiet", "--workspace"]).args(options);
        ensure!(
            command.status().context("cannot run cargo")?.success(),
            "cargo clean failed"
        );
    }
    fs::create_dir_all(target)?;
    fs::write(&marker, own.as_bytes()).with_context(|| format!("cannot write {}", marker.display()))
}

/// Runs all tests.
pub fn test(folder: &Path, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let status = step("testing", || {
        let mut command = cargo(&target()?);
        command.args(["test", "--workspace"]).args(arguments);
        command.env("PINFLEET_BIN_DIR", folder);
        command.status().context("cannot run cargo")
    })?;
    if !status.success() {
        eprintln!("xtask: tests failed");
    }
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// The cargo-deny that is installed and run. Pinned: its checks change from version to version.
const CARGO_DENY: &str = "0.20.2";

/// Checks all dependencies by `deny.toml`, with a cargo-deny of the user's cache folder, which is compiled when it is
/// missing there.
pub fn deny(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let root_folder = machine::cache()?.join("tools").join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root_folder.join("bin").join("cargo-deny");
    if !program.is_file() {
        machine::prepare()?;
        step("building cargo-deny (once: 4 to 8 minutes)", || {
            let mut command = cargo(&root_folder.join("target"));
            command.args([
                "install",
                "--locked",
                "--quiet",
                "cargo-deny",
                "--version",
                CARGO_DENY,
                "--root",
            ]);
            let status = command.arg(&root_folder).status().context("cannot run cargo")?;
            ensure!(status.success(), "cargo-deny could not be built");
            // Only the program is used again.
            let _ = std::fs::remove_dir_all(root_folder.join("target"));
            Ok(())
        })?;
    }
    let mut check = Command::new(&program);
    check.current_dir(root()).stdin(Stdio::null()).arg("check");
    if arguments.is_empty() {
        check.args(["bans", "licenses", "sources"]);
    } else {
        check.args(arguments);
    }
    let status = check
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// Makes sure that the IPFS node for demo and tests is there. The harness builds it itself; here it is given Go.
pub fn kubo(folder: &Path) -> anyhow::Result<()> {
    if env::var_os("PINFLEET_IPFS_BIN").is_some() || machine::cache()?.join("bin").join(kubo_name()?).is_file() {
        return Ok(());
    }
    machine::go()?;
    step("building Kubo (once: 3 to 6 minutes)", || {
        let status = machine::with_path(Command::new(folder.join("ipfs-tools")))
            .arg("kubo")
            .stdout(Stdio::null())
            .status();
        ensure!(
            status.context("cannot run ipfs-tools")?.success(),
            "Kubo could not be built"
        );
        Ok(())
    })
}

/// Makes sure that Helia, the JavaScript IPFS node, is there for the tests. The harness installs it itself; here it is
/// given npm.
pub fn helia(folder: &Path) -> anyhow::Result<()> {
    machine::npm()?;
    step("looking for Helia (installed once: 1 to 3 minutes)", || {
        let status = Command::new(folder.join("ipfs-tools"))
            .arg("helia")
            .stdout(Stdio::null())
            .status();
        ensure!(
            status.context("cannot run ipfs-tools")?.success(),
            "Helia could not be installed"
        );
        Ok(())
    })
}

/// Makes sure that IPFS Cluster is there: its daemon, and its command line, which the tests ask with. The harness builds
/// them itself; here it is given Go.
pub fn ipfs_cluster(folder: &Path) -> anyhow::Result<()> {
    let version = version_of("ipfs-cluster", "github.com/ipfs-cluster/ipfs-cluster")?;
    let kept = machine::cache()?.join("bin");
    let is_there = |name: &str| kept.join(format!("{name}-{version}")).is_file();
    if is_there("ipfs-cluster-service") && is_there("ipfs-cluster-ctl") {
        return Ok(());
    }
    machine::go()?;
    step("building IPFS Cluster (once: 3 to 6 minutes)", || {
        let status = machine::with_path(Command::new(folder.join("ipfs-tools")))
            .arg("ipfs-cluster")
            .stdout(Stdio::null())
            .status();
        ensure!(
            status.context("cannot run ipfs-tools")?.success(),
            "IPFS Cluster could not be built"
        );
        Ok(())
    })
}

/// Makes sure that the client libraries of its REST API are there for the tests, and the fuzzer that reads our description
/// of it. The harness installs them itself; here it is given npm and Python.
pub fn clients(folder: &Path) -> anyhow::Result<()> {
    machine::npm()?;
    machine::python()?;
    step(
        "looking for the clients of IPFS Cluster (installed once: a minute)",
        || {
            let status = Command::new(folder.join("ipfs-tools"))
                .arg("clients")
                .stdout(Stdio::null())
                .status();
            ensure!(
                status.context("cannot run ipfs-tools")?.success(),
                "the clients of IPFS Cluster could not be installed"
            );
            Ok(())
        },
    )
}

/// The name of the kept binary, by the version that the Go module asks for.
fn kubo_name() -> anyhow::Result<String> {
    Ok(format!("ipfs-{}", version_of("kubo", "github.com/ipfs/kubo")?))
}

/// The version that a Go module below `tests/tools` asks for, without its `v`.
fn version_of(module: &str, package: &str) -> anyhow::Result<String> {
    let file = root().join("tests/tools").join(module).join("go.mod");
    let text = std::fs::read_to_string(&file)?;
    let version = text
        .split_whitespace()
        .skip_while(|word| *word != package)
        .nth(1)
        .and_then(|version| version.strip_prefix('v'));
    let version = version.with_context(|| format!("{} names no version of {package}", file.display()))?;
    Ok(version.to_owned())
}

/// Cargo with this target folder.
pub fn cargo(target: &Path) -> Command {
    let mut command = machine::with_path(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())));
    command
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target)
        .stdin(Stdio::null());
    // What cargo told this program of itself is not true of what is built now, and build scripts look at some of it.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "LD_LIBRARY_PATH" {
            command.env_remove(&name);
        }
    }
    command
}
