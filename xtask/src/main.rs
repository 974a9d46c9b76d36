//! The project's own tasks. `cargo xtask` alone lists them.

mod build;
mod fuzz;
mod machine;

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use build::{Profile, Selection};

const HELP: &str = "\
cargo xtask TASK [OPTIONS]

  demo    three peers with an IPFS node each; pins, kills the leader, shows that nothing is lost (`demo --help`)
  test    all tests, those with real IPFS nodes too, and a minute of each fuzz target; options go to `cargo test`, and
          with any there is no fuzzing
  up      a cluster to play with, until SIGTERM; one JSON line when it is ready (`up --help`)
  bench   the numbers, in a release build; `bench embedded` those of the node inside a peer, `bench rest` those
          of the REST API (`bench --help`)
  fuzz    the decoders under libFuzzer: `fuzz [--seconds N] [TARGET…]`; `fuzz TARGET --input FILE` repeats a find
  deny    licences, sources and banned crates of all dependencies, by cargo-deny
  ci      what the continuous integration runs: format, lints, licences, tests
  setup   only installs and builds what the others need

What a fresh Debian machine with a Rust toolchain lacks is installed (apt-get, with sudo when needed). Everything that
is built lies in ${XDG_CACHE_HOME:-~/.cache}/pinfleet; CARGO_TARGET_DIR names another folder for the Rust part.";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    match run(&task.to_string_lossy(), &rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &str, rest: &[OsString]) -> anyhow::Result<ExitCode> {
    match task {
        "" | "help" | "-h" | "--help" => {
            println!("{HELP}");
            return Ok(if task.is_empty() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            });
        }
        "ci" => {
            return Err(Command::new(build::root().join(".ci/run")).args(rest).exec()).context("cannot run .ci/run");
        }
        "deny" => return build::deny(rest),
        "fuzz" => {
            machine::prepare()?;
            return fuzz::command(rest);
        }
        "demo" | "up" | "bench" | "test" | "setup" => {}
        _ => {
            eprintln!("xtask: there is no task {task:?}\n\n{HELP}");
            return Ok(ExitCode::from(2));
        }
    }
    // Help needs no Kubo, and the shortest way to it is the best.
    let wants_help = task != "test" && rest.iter().any(|argument| argument == "--help" || argument == "-h");
    machine::prepare()?;
    match task {
        "test" | "setup" => {
            let folder = build::build(Profile::Dev, Selection::Everything)?;
            build::kubo(&folder)?;
            build::helia(&folder)?;
            build::ipfs_cluster(&folder)?;
            build::clients(&folder)?;
            if task == "setup" {
                fuzz::program()?;
                return Ok(ExitCode::SUCCESS);
            }
            let tested = build::test(&folder, rest)?;
            // Options choose among the tests, and fuzzing is not among what they can choose.
            if tested != ExitCode::SUCCESS || !rest.is_empty() {
                return Ok(tested);
            }
            fuzz::all()
        }
        _ => {
            let profile = if task == "bench" {
                Profile::Release
            } else {
                Profile::Dev
            };
            let folder = build::build(profile, Selection::Programs)?;
            if !wants_help && needs_kubo(task, rest) {
                build::kubo(&folder)?;
            }
            if !wants_help && task == "bench" && rest.iter().any(|argument| argument == "ipfs-cluster") {
                machine::go()?;
            }
            // In place of this process, so that signals reach it and its exit code is ours.
            let error = Command::new(folder.join(task))
                .args(rest)
                .env("PINFLEET_BIN_DIR", &folder)
                .exec();
            bail!("cannot run {}: {error}", folder.join(task).display())
        }
    }
}

/// Whether a real IPFS node will be started.
fn needs_kubo(task: &str, rest: &[OsString]) -> bool {
    match task {
        "demo" | "up" => {
            let given = rest.iter().enumerate().find_map(|(at, argument)| {
                let argument = argument.to_string_lossy();
                if argument == "--node" {
                    return rest.get(at + 1).map(|value| value.to_string_lossy().into_owned());
                }
                argument.strip_prefix("--node=").map(str::to_owned)
            });
            given.is_some_and(|kinds| kinds.split(',').any(|kind| kind == "kubo"))
        }
        // One of its lines drives a real node, unless it is the short form; the embedded node is measured beside one.
        _ => {
            let has = |word: &str| rest.iter().any(|argument| argument == word);
            has("embedded") || has("rest") || !has("--short") && !has("pinning")
        }
    }
}
